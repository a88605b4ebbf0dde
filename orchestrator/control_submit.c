/* Submit: a spec, then the inputs' files. All is on the disk before the job is in the store, and
 * the job is in the store before the caller hears its id; what does not get so far leaves nothing
 * behind. */
#include "orchestrator/control_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "orchestrator/ballast.h"
#include "orchestrator/image_known.h"
#include "orchestrator/jobspec.h"

#define UPLOAD_IDLE_MS (5 * 60 * 1000) /* between two messages of an upload */
#define LIMIT_KEY      255

struct upload {
	struct rpc_call *call;
	struct daemon *daemon;
	struct job_record *record; /* owned, until the job is submitted */
	char *dir;		   /* owned; removed unless it is submitted */
	bool dir_made;
	int inputs_fd;
	struct tree_writer *writer;
	bool came[LIMIT_FILES]; /* inputs of which something came */
	char *missing;		/* the first one that the caller could not read, and why */
};

int submit_check_disk(const struct config *config, struct error **err)
{
	uint64_t free_bytes = 0;

	if (ballast_free_disk(&free_bytes, err) < 0)
		return -1;
	if (free_bytes >= config->min_free_disk)
		return 0;
	_cleanup_free_ char *has = format_size(free_bytes);
	_cleanup_free_ char *needs = format_size(config->min_free_disk);
	return error_set(err, ERR_LIMIT,
		"%s has %s of free disk left, and no jobs are taken below %s (min_free_disk)",
		config->state_dir, has, needs);
}

int submit_check_spec(const Job__V1__Spec *spec, const char *key, struct error **err)
{
	if (key && (!key[0] || strlen(key) > LIMIT_KEY || !utf8_valid(key, strlen(key))))
		return error_set(
			err, ERR_INVALID, "a key has 1 to %d bytes of UTF-8 text", LIMIT_KEY);
	if (jobspec_verify(spec, err) < 0)
		return -1;
	if (spec->n_inputs > LIMIT_FILES)
		return error_set(err, ERR_LIMIT, "more than %d inputs", LIMIT_FILES);
	return 0;
}

int submit_check_job(
	struct daemon *daemon, const Job__V1__Spec *spec, const char *key, struct error **err)
{
	if (submit_check_spec(spec, key, err) < 0)
		return -1;
	return image_known(daemon->config, spec->image, err);
}

/* Everything about a job that can be refused before its files come. */
static int check_request(
	struct daemon *daemon, const Control__V1__SubmitRequest *request, struct error **err)
{
	if (!request->spec)
		return error_set(err, ERR_INVALID, "the first message of a submit has the spec");
	if (request->record)
		return error_set(err, ERR_INVALID, "files come after the spec");
	if (submit_check_job(daemon, request->spec, request->key, err) < 0)
		return -1;
	return submit_check_disk(daemon->config, err);
}

/* What makes a second request with the same key the same one: the spec as the submitter sent it,
 * for what is filled in may be configured otherwise by then. */
static void digest_request(const Job__V1__Spec *spec, uint8_t ret[crypto_hash_sha256_BYTES])
{
	size_t size = job__v1__spec__get_packed_size(spec);
	_cleanup_free_ uint8_t *packed = xmalloc(size);

	job__v1__spec__pack(spec, packed);
	crypto_hash_sha256(ret, packed, size);
}

struct job_record *submit_make_record(
	const struct config *config, uid_t caller, const Job__V1__Spec *spec, const char *key)
{
	struct job_defaults defaults = {
		.timeout_ms = config->default_timeout_ms,
		.memory_bytes = config->default_memory,
		.cpus = config->default_cpus,
	};
	struct job_record *record = job_record_new();

	job_id_make(now_real_usec(), record->id);
	record->key = xstrdup(key);
	if (key)
		digest_request(spec, record->request_sha256);
	record->state = JOB_QUEUED;
	record->spec = jobspec_copy(spec);
	record_fill_defaults(record->spec, &defaults);
	record->share = record_share_of(record->spec, caller);
	return record;
}

static void make_record(struct upload *up, const Control__V1__SubmitRequest *request)
{
	up->record = submit_make_record(
		up->daemon->config, control_caller(up->call), request->spec, request->key);
	up->dir = config_job_dir(up->daemon->config, up->record->id);
}

/* --- files ----------------------------------------------------------------------------------- */

/* The number before the first slash, as it is written canonically; -1: none below n. */
static int input_number(const char *path, size_t n)
{
	size_t digits = strspn(path, "0123456789");
	int number = 0;

	if (digits == 0 || digits > 3 || (path[digits] != '\0' && path[digits] != '/') ||
		(path[0] == '0' && digits > 1))
		return -1;
	for (size_t i = 0; i < digits; i++)
		number = number * 10 + (path[i] - '0');
	return (size_t)number < n ? number : -1;
}

static int check_path(struct upload *up, const char *path, struct error **err)
{
	int number = input_number(path, up->record->spec->n_inputs);

	if (number < 0)
		return error_set(err, ERR_INVALID, "%s is a file of no input", path);
	up->came[number] = true;
	return 0;
}

static void on_missing(void *arg, const char *path, const char *reason)
{
	struct upload *up = arg;
	int number = input_number(path, up->record->spec->n_inputs);

	if (up->missing || number < 0)
		return;
	up->missing = str_printf("%s%s: %s", up->record->spec->inputs[number]->src,
		path + strspn(path, "0123456789"), reason);
}

/* The digest comes of the bytes on their way to the disk. */
static void on_entry(void *arg, const struct tree_entry *entry)
{
	struct upload *up = arg;
	const Job__V1__Spec *spec = up->record->spec;
	int number = input_number(entry->path, spec->n_inputs);

	if (entry->directory || number < 0)
		return;
	_cleanup_free_ char *path = str_printf("%s%s", spec->inputs[number]->dest,
		entry->path + strspn(entry->path, "0123456789"));
	input_list_add(up->record->inputs, path, entry->size, entry->sha256);
}

static int take_record(struct upload *up, const Job__V1__FileRecord *record, struct error **err)
{
	if (!record)
		return error_set(err, ERR_INVALID, "a message of the upload is empty");
	if (record->part_case == JOB__V1__FILE_RECORD__PART_HEAD &&
		check_path(up, record->head->path, err) < 0)
		return -1;
	if (record->part_case == JOB__V1__FILE_RECORD__PART_MISSING &&
		check_path(up, record->missing->path, err) < 0)
		return -1;
	if (tree_writer_record(up->writer, record, err) < 0)
		return -1;
	if (up->missing)
		return error_set(err, ERR_NOT_FOUND, "input %s", up->missing);
	return 0;
}

/* 1: one more was taken, 0: the upload is complete. */
static int take_message(struct upload *up, struct error **err)
{
	_cleanup_message_ Control__V1__SubmitRequest *request = NULL;
	int r = rpc_recv(up->call, UPLOAD_IDLE_MS, (ProtobufCMessage **)&request, err);

	if (r <= 0)
		return r;
	return take_record(up, request->record, err) < 0 ? -1 : 1;
}

static int sync_dir(const char *path, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return error_errno(err, errno, "%s", path);
	return 0;
}

static int make_dir(struct upload *up, struct error **err)
{
	_cleanup_free_ char *inputs = str_printf("%s/inputs", up->dir);

	if (mkdir(up->dir, 0700) < 0)
		return error_errno(err, errno, "%s", up->dir);
	up->dir_made = true;
	if (mkdir(inputs, 0700) < 0)
		return error_errno(err, errno, "%s", inputs);
	up->inputs_fd = open(inputs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (up->inputs_fd < 0)
		return error_errno(err, errno, "%s", inputs);
	return 0;
}

int control_sync_job_dir(const struct config *config, const char *dir, struct error **err)
{
	_cleanup_free_ char *jobs_dir = config_job_dir(config, "");

	return sync_dir(dir, err) < 0 ? -1 : sync_dir(jobs_dir, err);
}

static int sync_dirs(struct upload *up, struct error **err)
{
	if (fsync(up->inputs_fd) < 0)
		return error_errno(err, errno, "%s/inputs", up->dir);
	return control_sync_job_dir(up->daemon->config, up->dir, err);
}

/* A job without inputs has no directory before its attempt begins. */
static int take_end(struct upload *up, struct error **err)
{
	_cleanup_message_ Control__V1__SubmitRequest *request = NULL;
	int r = rpc_recv(up->call, UPLOAD_IDLE_MS, (ProtobufCMessage **)&request, err);

	if (r > 0)
		return error_set(err, ERR_INVALID, "a file came, and the job has no inputs");
	return r;
}

static int take_files(struct upload *up, struct error **err)
{
	struct tree_writer_options options = {
		.limits = tree_limits_default,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0777,
		.durable = true,
		.on_entry = on_entry,
		.on_missing = on_missing,
		.arg = up,
	};
	const Job__V1__Spec *spec = up->record->spec;
	int r;

	if (!spec->n_inputs)
		return take_end(up, err);
	if (make_dir(up, err) < 0)
		return -1;
	up->record->inputs = input_list_new();
	up->writer = tree_writer_new(up->inputs_fd, &options);
	if (control_sit(SEATS_MOVING, err) < 0)
		return -1;
	while ((r = take_message(up, err)) > 0)
		;
	control_rise(SEATS_MOVING);
	if (r < 0 || tree_writer_finish(up->writer, NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < spec->n_inputs; i++) {
		if (!up->came[i])
			return error_set(
				err, ERR_DATA_LOSS, "input %s did not come", spec->inputs[i]->src);
	}
	return sync_dirs(up, err);
}

/* --- the promise ----------------------------------------------------------------------------- */

struct promise {
	struct daemon *daemon;
	struct jobs_newcomer job;
	struct error *error;
	struct latch done;
};

static void promised(void *arg, struct error *error)
{
	struct promise *promise = arg;

	promise->error = error ? error : promise->job.error;
	latch_open(&promise->done);
}

int control_promise(struct daemon *daemon, struct job_record *record, char ret_id[JOB_ID_SIZE],
	struct error **err)
{
	struct promise promise = {.daemon = daemon, .job.record = record};

	record->result.times[STAGE_SUBMITTED] = now_real_usec();
	memcpy(ret_id, record->id, JOB_ID_SIZE);
	latch_init(&promise.done);
	jobs_submit(daemon->jobs, &promise.job, 1, promised, &promise);
	latch_wait(&promise.done);
	FAILPOINT("submit.committed");
	if (!promise.error)
		return 0;
	if (promise.error->code == ERR_EXISTS && promise.job.other[0]) {
		memcpy(ret_id, promise.job.other, JOB_ID_SIZE);
		error_free(promise.error);
		return 1;
	}
	return error_move(err, promise.error);
}

/* Commit. ret_id becomes the job's id, or the id of the job that has the key. */
static int commit(struct upload *up, char ret_id[JOB_ID_SIZE], struct error **err)
{
	int r = control_promise(up->daemon, steal_ptr(up->record), ret_id, err);

	if (r == 0)
		up->dir_made = false; /* not ours to remove any more */
	return r < 0 ? -1 : 0;
}

struct key_lookup {
	const char *key;
	char *id;
};

static int store_by_key(struct store *store, void *arg, struct error **err)
{
	struct key_lookup *lookup = arg;

	return store->ops->by_key(store, lookup->key, lookup->id, err);
}

/* 1: the key has its job already, and what else the caller sends is of no interest. */
static int find_by_key(struct upload *up, const Control__V1__SubmitRequest *request,
	char ret_id[JOB_ID_SIZE], struct error **err)
{
	const char *key = request->key;
	struct key_lookup lookup = {key, ret_id};
	_cleanup_job_record_ struct job_record *other = NULL;
	_cleanup_error_ struct error *why = NULL;
	uint8_t sha256[crypto_hash_sha256_BYTES];
	uint32_t position;
	int r;

	if (!key)
		return 0;
	if (store_queue_call(up->daemon->queue, store_by_key, &lookup, &why) < 0)
		return why->code == ERR_NOT_FOUND ? 0 : error_move(err, steal_ptr(why));
	digest_request(request->spec, sha256);
	if (control_get(up->daemon, ret_id, &other, &position, err) < 0 ||
		record_check_same(other, key, sha256, err) < 0)
		return -1;
	do {
		_cleanup_message_ ProtobufCMessage *ignored = NULL;

		r = rpc_recv(up->call, UPLOAD_IDLE_MS, &ignored, err);
	} while (r > 0);
	return r < 0 ? -1 : 1;
}

static int submit(struct upload *up, char ret_id[JOB_ID_SIZE], struct error **err)
{
	_cleanup_message_ Control__V1__SubmitRequest *request = NULL;
	int r;

	if (control_recv(up->call, &request, err) < 0 ||
		check_request(up->daemon, request, err) < 0)
		return -1;
	FAILPOINT("submit.received");
	r = find_by_key(up, request, ret_id, err);
	if (r != 0)
		return r < 0 ? -1 : 0;
	FAILPOINT("submit.keyed");
	make_record(up, request);
	struct queue_demand demand = jobs_demand(up->record->spec);
	if (scheduler_check(&up->daemon->capacity, &demand, err) < 0 || take_files(up, err) < 0)
		return -1;
	FAILPOINT("submit.files");
	return commit(up, ret_id, err);
}

static void upload_clear(struct upload *up)
{
	_cleanup_error_ struct error *err = NULL;

	if (up->writer)
		tree_writer_free(up->writer);
	close_fd(&up->inputs_fd);
	if (up->dir_made && remove_tree(up->dir, &err) < 0)
		log_warn("submit", "%s", err->text);
	job_record_free(up->record);
	free(up->dir);
	free(up->missing);
}

int control_handle_submit(struct rpc_call *call, void *arg, struct error **err)
{
	struct upload up = {.call = call, .daemon = arg, .inputs_fd = -1};
	Control__V1__SubmitReply reply = CONTROL__V1__SUBMIT_REPLY__INIT;
	char id[JOB_ID_SIZE];
	int r = submit(&up, id, err);

	upload_clear(&up);
	if (r < 0)
		return -1;
	reply.id = id;
	FAILPOINT("submit.reply");
	return rpc_send(call, &reply.base, err);
}
