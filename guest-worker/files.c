/* Put and Get: files into the job's root and out of it, as records (common/file_tree.h). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/file_batch.h"
#include "common/file_tree.h"
#include "common/limits.h"
#include "common/util.h"
#include "guest-worker/job_user.h"
#include "guest-worker/service_internal.h"

#define RECORD_WAIT_MS 60000

static struct tree_writer *new_writer(
	const struct worker *worker, const char *user_name, struct error **err)
{
	struct job_user user;
	struct tree_writer_options options = {
		.limits = tree_limits_default,
		.mode_mask = 0777,
		.absolute = true,
		.replace = true,
	};

	if (job_user_find(worker->root, user_name, &user, err) < 0)
		return NULL;
	/* Inputs are the host's; the disk here is what bounds them. */
	options.limits.bytes = LIMIT_ARTIFACTS;
	options.limits.no_digests = true;
	options.uid = user.self ? (uid_t)-1 : user.uid;
	options.gid = user.self ? (gid_t)-1 : user.gid;
	return tree_writer_new(worker->root->fd, &options);
}

static int put(struct rpc_call *call, const struct worker *worker, struct tree_writer **writer,
	struct error **err)
{
	for (;;) {
		ProtobufCMessage *message = NULL;
		int r = rpc_recv(call, RECORD_WAIT_MS, &message, err);
		if (r <= 0)
			return r;
		const Worker__V1__PutRequest *request = (const Worker__V1__PutRequest *)message;
		if (!*writer)
			*writer = new_writer(worker, request->user, err);
		if (!*writer)
			r = -1;
		for (size_t i = 0; r > 0 && i < request->n_records; i++)
			if (tree_writer_record(*writer, request->records[i], err) < 0)
				r = -1;
		rpc_message_free(message);
		if (r < 0)
			return -1;
	}
}

int worker_handle_put(struct rpc_call *call, void *server_arg, struct error **err)
{
	Worker__V1__PutReply reply = WORKER__V1__PUT_REPLY__INIT;
	struct tree_writer *writer = NULL;
	struct tree_totals totals = {0};

	if (worker_require_proof(call, err) < 0)
		return -1;
	int r = put(call, server_arg, &writer, err);
	if (r == 0 && writer)
		r = tree_writer_finish(writer, &totals, err);
	tree_writer_free(writer);
	if (r < 0)
		return -1;
	reply.files = totals.files;
	reply.bytes = totals.bytes;
	return rpc_send(call, &reply.base, err);
}

static int emit_missing(struct file_batch *batch, char *name, const char *why, struct error **err)
{
	Job__V1__FileMissing missing = JOB__V1__FILE_MISSING__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	_cleanup_free_ char *reason = xstrdup(why);

	missing.path = name;
	missing.reason = reason;
	record.part_case = JOB__V1__FILE_RECORD__PART_MISSING;
	record.missing = &missing;
	return file_batch_emit(batch, &record, err);
}

static char *join(const char *dir, const char *path)
{
	return *path == '/' ? xstrdup(path) : str_printf("%s/%s", dir, path);
}

/* Output number n. The path is the host's, but any part of it may be a link that the job made: it
 * is opened within the job's root and with the rights of the job's user, and what was opened is
 * sent, whatever the path has come to mean since. */
static int get_one(struct file_batch *batch, const struct worker *worker, const char *path,
	size_t n, const struct tree_limits *limits, struct tree_totals *totals, struct error **err)
{
	const struct tree_sink sink = {
		.emit = file_batch_emit,
		.room = file_batch_room,
		.chunk = file_batch_chunk,
		.arg = batch,
	};
	char name[24], self[48];

	snprintf(name, sizeof(name), "%zu", n);
	_cleanup_close_ int fd = job_root_open(worker->root, path, O_PATH, 0);
	if (fd < 0) {
		const char *why = strerrordesc_np(errno);
		return emit_missing(batch, name, why ? why : "cannot be opened", err);
	}
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return tree_send_to(AT_FDCWD, self, name, limits, &sink, totals, err);
}

static int get_all(struct rpc_call *call, const struct worker *worker,
	const Worker__V1__GetRequest *request, struct error **err)
{
	struct tree_limits limits = tree_limits_default;
	struct tree_totals totals = {0};
	const char *given = request->working_dir && *request->working_dir ? request->working_dir
									  : worker->root->workdir;
	_cleanup_free_ char *dir = join(worker->root->workdir, given);
	struct job_user user;

	limits.no_digests = true;
	limits.bytes = request->has_max_bytes ? request->max_bytes : DEFAULT_ARTIFACTS;
	if (request->has_max_files)
		limits.files = request->max_files;
	if (request->n_paths > LIMIT_FILES)
		return error_set(err, ERR_INVALID, "more than %d paths", LIMIT_FILES);
	if (job_user_find(worker->root, request->user, &user, err) < 0 ||
		job_user_enter_files(&user, err) < 0)
		return -1;
	struct file_batch *batch = file_batch_new(call, -1, NULL, err);
	int r = batch ? 0 : -1;
	for (size_t i = 0; i < request->n_paths && r == 0; i++) {
		_cleanup_free_ char *path = join(dir, request->paths[i]);
		r = get_one(batch, worker, path, i, &limits, &totals, err);
	}
	job_user_leave_files(&user);
	if (r == 0)
		r = file_batch_flush(batch, err);
	file_batch_free(batch);
	return r;
}

int worker_handle_get(struct rpc_call *call, void *server_arg, struct error **err)
{
	ProtobufCMessage *message = worker_proven_request(call, err);
	if (!message)
		return -1;
	FAILPOINT("worker.outputs");
	int r = get_all(call, server_arg, (const Worker__V1__GetRequest *)message, err);
	rpc_message_free(message);
	return r;
}
