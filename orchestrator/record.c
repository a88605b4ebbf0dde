#include "orchestrator/record.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/limits.h"

static const char id_digits[] = "0123456789abcdefghijklmnopqrstuv";

#define ID_TIME_DIGITS	 9
#define ID_RANDOM_DIGITS 4
#define ID_STEP		 0x9e375u
#define ID_DIGITS	 (ID_TIME_DIGITS + ID_RANDOM_DIGITS)

_Static_assert(ID_DIGITS < JOB_ID_SIZE, "an id fits");

/* What a message's artifacts may take, so that the rest fits beside them. */
#define ARTIFACTS_ROOM (LIMIT_CONTROL_MESSAGE / 2)

struct job_record *job_record_new(void)
{
	return xcalloc(1, sizeof(struct job_record));
}

void job_record_free(struct job_record *record)
{
	if (!record)
		return;
	free(record->key);
	free(record->share);
	input_list_unref(record->inputs);
	if (record->spec)
		job__v1__spec__free_unpacked(record->spec, NULL);
	job_result_clear(&record->result);
	free(record);
}

static Job__V1__Spec *spec_copy(const Job__V1__Spec *spec)
{
	size_t size = job__v1__spec__get_packed_size(spec);
	_cleanup_free_ uint8_t *packed = xmalloc(size);

	job__v1__spec__pack(spec, packed);
	return job__v1__spec__unpack(NULL, size, packed);
}

struct job_record *job_record_copy(const struct job_record *record)
{
	struct job_record *copy = xmemdup(record, sizeof(*record));

	copy->key = xstrdup(record->key);
	copy->share = xstrdup(record->share);
	copy->inputs = input_list_ref(record->inputs);
	copy->spec = record->spec ? spec_copy(record->spec) : NULL;
	job_result_copy(&copy->result, &record->result);
	return copy;
}

struct job_record *record_back_in_queue(const struct job_record *record, uint64_t not_before)
{
	struct job_record *next = job_record_copy(record);
	uint64_t submitted = record->result.times[STAGE_SUBMITTED];

	job_result_clear(&next->result);
	next->result.times[STAGE_SUBMITTED] = submitted;
	next->epoch++;
	next->state = JOB_QUEUED;
	next->not_before = not_before;
	next->vm[0] = '\0';
	return next;
}

static uint32_t id_seed;

static void make_id_seed(void)
{
	random_bytes(&id_seed, sizeof(id_seed));
}

/* Drawn anew for each, of a dozen ids made within one unit of time two would be the same now and
 * then. So these are counted: an odd step goes through all of the 2^20 before one comes again, and
 * the random beginning keeps apart what two daemons make. */
void job_id_make(uint64_t now_usec, char ret[JOB_ID_SIZE])
{
	static atomic_uint_fast32_t made;
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	uint64_t time = now_usec / 256;

	pthread_once(&once, make_id_seed);
	uint32_t random = id_seed + (uint32_t)atomic_fetch_add(&made, 1) * ID_STEP;
	for (int i = ID_TIME_DIGITS - 1; i >= 0; i--, time /= 32)
		ret[i] = id_digits[time % 32];
	for (int i = ID_DIGITS - 1; i >= ID_TIME_DIGITS; i--, random /= 32)
		ret[i] = id_digits[random % 32];
	ret[ID_DIGITS] = '\0';
}

bool job_id_prefix_valid(const char *s)
{
	size_t n = strlen(s);

	return n >= 1 && n <= ID_DIGITS && strspn(s, id_digits) == n;
}

#define FILL(message, field, value)                                                                \
	do {                                                                                       \
		if (!(message)->has_##field) {                                                     \
			(message)->has_##field = true;                                             \
			(message)->field = (value);                                                \
		}                                                                                  \
	} while (0)

void record_fill_defaults(Job__V1__Spec *spec, const struct job_defaults *defaults)
{
	FILL(spec, timeout_ms, defaults->timeout_ms);
	FILL(spec, stop_grace_period_ms, DEFAULT_GRACE_MS);
	if (!spec->resources) {
		spec->resources = xmalloc(sizeof(*spec->resources));
		job__v1__resources__init(spec->resources);
	}
	FILL(spec->resources, cpus, defaults->cpus);
	FILL(spec->resources, memory_bytes, defaults->memory_bytes);
	if (!spec->limits) {
		spec->limits = xmalloc(sizeof(*spec->limits));
		job__v1__limits__init(spec->limits);
	}
	FILL(spec->limits, output_bytes, DEFAULT_OUTPUT);
	FILL(spec->limits, artifact_bytes, DEFAULT_ARTIFACTS);
}

int record_check_same(const struct job_record *other, const char *key, const uint8_t sha256[32],
	struct error **err)
{
	static const uint8_t unknown[sizeof(other->request_sha256)];

	/* One of a store of before version 3 does not say. */
	if (memcmp(other->request_sha256, unknown, sizeof(unknown)) == 0 ||
		memcmp(other->request_sha256, sha256, sizeof(unknown)) == 0)
		return 0;
	_cleanup_free_ char *shown = str_escape(key, strlen(key), false);
	return error_set(err, ERR_EXISTS,
		"the key '%s' is job %s's, which was submitted with another spec; another job "
		"needs another key",
		shown, other->id);
}

char *record_share_of(const Job__V1__Spec *spec, uid_t submitter)
{
	for (size_t i = 0; i < spec->n_labels; i++) {
		if (str_eq(spec->labels[i]->name, "queue"))
			return str_printf("queue:%s", spec->labels[i]->value);
	}
	return str_printf("uid:%u", (unsigned)submitter);
}

/* --- control.v1.JobInfo ---------------------------------------------------------------------- */

#define SET(message, field, value)                                                                 \
	do {                                                                                       \
		(message)->has_##field = true;                                                     \
		(message)->field = (value);                                                        \
	} while (0)

/* The stages and the fields of Times that carry them, in one table for both directions. */
#define TIMES_FIELD(name)                                                                          \
	offsetof(Control__V1__Times, has_##name), offsetof(Control__V1__Times, name)

static const struct {
	size_t has, value;
} times_fields[] = {
	[STAGE_SUBMITTED] = {TIMES_FIELD(submitted)},
	[STAGE_STARTED] = {TIMES_FIELD(started)},
	[STAGE_DOMAIN_CREATED] = {TIMES_FIELD(domain_created)},
	[STAGE_KERNEL_UP] = {TIMES_FIELD(kernel_up)},
	[STAGE_WORKER_READY] = {TIMES_FIELD(worker_ready)},
	[STAGE_INPUTS_SENT] = {TIMES_FIELD(inputs_sent)},
	[STAGE_PROGRAM_STARTED] = {TIMES_FIELD(program_started)},
	[STAGE_FIRST_BYTE] = {TIMES_FIELD(first_byte)},
	[STAGE_PROGRAM_ENDED] = {TIMES_FIELD(program_ended)},
	[STAGE_COLLECTED] = {TIMES_FIELD(collected)},
	[STAGE_RECORDED] = {TIMES_FIELD(recorded)},
	[STAGE_DESTROYED] = {TIMES_FIELD(destroyed)},
};

_Static_assert(ARRAY_SIZE(times_fields) == STAGES, "every stage has a field");

static Control__V1__Times *times_to_info(const uint64_t times[STAGES])
{
	Control__V1__Times *info = xmalloc(sizeof(*info));

	control__v1__times__init(info);
	for (size_t i = 0; i < STAGES; i++) {
		if (!times[i])
			continue;
		*(protobuf_c_boolean *)((char *)info + times_fields[i].has) = true;
		*(uint64_t *)((char *)info + times_fields[i].value) = times[i];
	}
	return info;
}

static void times_from_info(const Control__V1__Times *info, uint64_t times[STAGES])
{
	for (size_t i = 0; i < STAGES; i++) {
		if (*(const protobuf_c_boolean *)((const char *)info + times_fields[i].has))
			times[i] = *(const uint64_t *)((const char *)info + times_fields[i].value);
	}
}

static Control__V1__Wall *wall_to_info(const struct job_wall *wall, bool devices)
{
	Control__V1__Wall *info = xmalloc(sizeof(*info));

	control__v1__wall__init(info);
	info->accelerator = xstrdup(wall->accelerator);
	info->vsock_device = xstrdup(wall->vsock_device);
	if (wall->cid)
		SET(info, cid, wall->cid);
	/* Without its devices a wall is not known: then nothing is claimed about interfaces. */
	if (wall->n_devices)
		SET(info, network_interface, wall->network_interface);
	if (devices && wall->n_devices) {
		info->devices = xcalloc(wall->n_devices, sizeof(*info->devices));
		for (size_t i = 0; i < wall->n_devices; i++)
			info->devices[info->n_devices++] = xstrdup(wall->devices[i]);
	}
	info->kernel = xstrdup(wall->kernel);
	info->image_digest = xstrdup(wall->image_digest);
	info->libvirt_uri = xstrdup(wall->libvirt_uri);
	if (wall->warm)
		SET(info, warm, true);
	return info;
}

static void wall_from_info(const Control__V1__Wall *info, struct job_wall *wall)
{
	wall->accelerator = xstrdup(info->accelerator);
	wall->vsock_device = xstrdup(info->vsock_device);
	wall->cid = info->cid;
	wall->network_interface = info->network_interface;
	if (info->n_devices)
		wall->devices = xcalloc(info->n_devices, sizeof(*wall->devices));
	for (size_t i = 0; i < info->n_devices; i++)
		wall->devices[wall->n_devices++] = xstrdup(info->devices[i]);
	wall->kernel = xstrdup(info->kernel);
	wall->image_digest = xstrdup(info->image_digest);
	wall->libvirt_uri = xstrdup(info->libvirt_uri);
	wall->warm = info->warm;
}

/* As many as there is room for, of which the rest is left. */
static void files_to_info(const struct job_artifact *files, size_t n, uint64_t *room,
	Control__V1__Artifact ***ret, size_t *ret_n)
{
	if (!n)
		return;
	*ret = xcalloc(n, sizeof(**ret));
	for (size_t i = 0; i < n; i++) {
		const struct job_artifact *from = &files[i];
		uint64_t takes = strlen(from->path) + sizeof(from->sha256) + 32;

		if (takes > *room)
			return; /* result.json has them all */
		*room -= takes;
		Control__V1__Artifact *to = xmalloc(sizeof(*to));
		control__v1__artifact__init(to);
		to->path = xstrdup(from->path);
		to->size = from->size;
		to->sha256.data = xmemdup(from->sha256, sizeof(from->sha256));
		to->sha256.len = sizeof(from->sha256);
		(*ret)[(*ret_n)++] = to;
	}
}

Control__V1__InputList *record_inputs_to_list(const struct input_list *inputs)
{
	uint64_t room = UINT64_MAX;

	if (!inputs)
		return NULL;
	Control__V1__InputList *list = xmalloc(sizeof(*list));
	control__v1__input_list__init(list);
	files_to_info(inputs->files, inputs->n, &room, &list->files, &list->n_files);
	return list;
}

struct input_list *record_inputs_from_list(const Control__V1__InputList *list)
{
	struct input_list *inputs = input_list_new();

	for (size_t i = 0; i < list->n_files; i++) {
		const Control__V1__Artifact *file = list->files[i];
		uint8_t sha256[32] = {0};

		memcpy(sha256, file->sha256.data, MIN(file->sha256.len, sizeof(sha256)));
		input_list_add(inputs, file->path, file->size, sha256);
	}
	return inputs;
}

static void artifacts_from_info(const Control__V1__JobInfo *info, struct job_result *result)
{
	if (info->n_artifacts)
		result->artifacts = xcalloc(info->n_artifacts, sizeof(*result->artifacts));
	for (size_t i = 0; i < info->n_artifacts; i++) {
		struct job_artifact *to = &result->artifacts[result->n_artifacts++];

		to->path = xstrdup(info->artifacts[i]->path);
		to->size = info->artifacts[i]->size;
		memcpy(to->sha256, info->artifacts[i]->sha256.data,
			MIN(info->artifacts[i]->sha256.len, sizeof(to->sha256)));
	}
}

static Job__V1__Spec *spec_stub(void)
{
	Job__V1__Spec *spec = xmalloc(sizeof(*spec));

	job__v1__spec__init(spec);
	spec->image = xstrdup("");
	return spec;
}

/* What is neither a column of the store's nor of one attempt. */
static void rest_to_info(const struct job_record *record, Control__V1__JobInfo *info)
{
	static const uint8_t none[sizeof(record->request_sha256)];

	if (record->restarts)
		SET(info, restarts, record->restarts);
	if (record->not_before)
		SET(info, not_before, record->not_before);
	if (record->retried_from[0])
		info->retried_from = xstrdup(record->retried_from);
	if (memcmp(record->request_sha256, none, sizeof(none)) != 0) {
		info->has_request_sha256 = true;
		info->request_sha256.data = xmemdup(record->request_sha256, sizeof(none));
		info->request_sha256.len = sizeof(none);
	}
}

void record_rest_from_info(const Control__V1__JobInfo *info, struct job_record *record)
{
	record->share = xstrdup(info->share);
	record->restarts = info->restarts;
	record->not_before = info->not_before;
	if (info->retried_from)
		snprintf(record->retried_from, sizeof(record->retried_from), "%s",
			info->retried_from);
	if (info->request_sha256.len == sizeof(record->request_sha256))
		memcpy(record->request_sha256, info->request_sha256.data,
			sizeof(record->request_sha256));
}

Control__V1__JobInfo *record_to_info(
	const struct job_record *record, const char *result_dir, enum record_detail detail)
{
	const struct job_result *result = &record->result;
	Control__V1__JobInfo *info = xmalloc(sizeof(*info));

	control__v1__job_info__init(info);
	info->id = xstrdup(record->id);
	info->spec = detail == RECORD_STORE || detail == RECORD_EARLIER ? spec_stub()
									: spec_copy(record->spec);
	info->state = (Control__V1__State)record->state;
	info->times = times_to_info(result->times);
	info->result_dir = xstrdup(result_dir);
	info->share = xstrdup(record->share);
	if (record->vm[0])
		info->vm = xstrdup(record->vm);
	if (record->attempt)
		SET(info, attempt, record->attempt);
	if (result->outcome != OUTCOME_NONE) {
		SET(info, outcome, (Job__V1__Outcome)result->outcome);
		SET(info, exit_code, result->exit_code);
		info->error = xstrdup(result->error);
		info->left_out = xstrdup(result->left_out);
		SET(info, max_rss_bytes, result->max_rss_bytes);
		SET(info, cpu_usec, result->cpu_usec);
		SET(info, stdout_truncated, result->stdout_truncated);
		SET(info, stderr_truncated, result->stderr_truncated);
		info->wall = wall_to_info(
			&result->wall, detail == RECORD_FULL || detail == RECORD_STORE);
	}
	rest_to_info(record, info);
	if (result->signal)
		SET(info, signal, result->signal);
	SET(info, stdout_bytes, result->stdout_bytes);
	SET(info, stderr_bytes, result->stderr_bytes);
	uint64_t room = detail == RECORD_STORE ? UINT64_MAX : ARTIFACTS_ROOM;
	if (detail == RECORD_FULL || detail == RECORD_STORE)
		files_to_info(result->artifacts, result->n_artifacts, &room, &info->artifacts,
			&info->n_artifacts);
	if (detail == RECORD_FULL && record->inputs)
		files_to_info(record->inputs->files, record->inputs->n, &room, &info->inputs,
			&info->n_inputs);
	return info;
}

void record_result_from_info(const Control__V1__JobInfo *info, struct job_result *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (info->has_outcome && (unsigned)info->outcome < OUTCOMES)
		ret->outcome = (enum job_outcome)info->outcome;
	ret->exit_code = info->exit_code;
	ret->signal = info->signal;
	ret->error = xstrdup(info->error);
	ret->left_out = xstrdup(info->left_out);
	if (info->times)
		times_from_info(info->times, ret->times);
	ret->stdout_bytes = info->stdout_bytes;
	ret->stderr_bytes = info->stderr_bytes;
	ret->stdout_truncated = info->stdout_truncated;
	ret->stderr_truncated = info->stderr_truncated;
	ret->max_rss_bytes = info->max_rss_bytes;
	ret->cpu_usec = info->cpu_usec;
	artifacts_from_info(info, ret);
	if (info->wall)
		wall_from_info(info->wall, &ret->wall);
}

/* --- result.json ----------------------------------------------------------------------------- */

/* Names of files come from a guest and need not be UTF-8, which JSON must be. */
static json_t *json_text(const char *s)
{
	if (!s)
		return json_null();
	if (utf8_valid(s, strlen(s)))
		return json_string(s);
	_cleanup_free_ char *escaped = str_escape(s, strlen(s), false);
	return json_string(escaped);
}

static json_t *json_times(const uint64_t times[STAGES])
{
	json_t *object = json_object();

	for (size_t i = 0; i < STAGES; i++) {
		if (times[i])
			json_object_set_new(object, job_stage_name((enum job_stage)i),
				json_integer((json_int_t)times[i]));
	}
	return object;
}

static json_t *json_files(const struct job_artifact *files, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++) {
		const struct job_artifact *artifact = &files[i];
		_cleanup_free_ char *digest =
			hex_encode(artifact->sha256, sizeof(artifact->sha256));

		json_array_append_new(
			array, json_pack("{s:o, s:I, s:s}", "path", json_text(artifact->path),
				       "size", (json_int_t)artifact->size, "sha256", digest));
	}
	return array;
}

static json_t *json_wall(const struct job_wall *wall)
{
	json_t *devices = json_array();

	for (size_t i = 0; i < wall->n_devices; i++)
		json_array_append_new(devices, json_text(wall->devices[i]));
	return json_pack("{s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:b}", "accelerator",
		json_text(wall->accelerator), "vsock_device", json_text(wall->vsock_device), "cid",
		(json_int_t)wall->cid, "network_interface",
		wall->n_devices ? json_boolean(wall->network_interface) : json_null(), "devices",
		devices, "kernel", json_text(wall->kernel), "image_digest",
		json_text(wall->image_digest), "libvirt_uri", json_text(wall->libvirt_uri), "warm",
		(int)wall->warm);
}

static json_t *json_stream(uint64_t bytes, bool truncated)
{
	return json_pack("{s:I, s:b}", "bytes", (json_int_t)bytes, "truncated", (int)truncated);
}

char *record_result_json(const struct job_record *record)
{
	const struct job_result *result = &record->result;
	const struct input_list *inputs = record->inputs;
	json_t *object = json_object();

	json_object_set_new(object, "id", json_text(record->id));
	json_object_set_new(object, "name", json_text(record->spec->name));
	json_object_set_new(object, "image", json_text(record->spec->image));
	json_object_set_new(object, "attempt", json_integer(record->attempt));
	json_object_set_new(object, "retried_from",
		json_text(record->retried_from[0] ? record->retried_from : NULL));
	json_object_set_new(object, "vm", json_text(record->vm[0] ? record->vm : NULL));
	json_object_set_new(object, "outcome", json_text(job_outcome_name(result->outcome)));
	json_object_set_new(object, "exit_code", json_integer(result->exit_code));
	json_object_set_new(
		object, "signal", result->signal ? json_integer(result->signal) : json_null());
	json_object_set_new(object, "error", json_text(result->error));
	json_object_set_new(object, "times_usec", json_times(result->times));
	json_object_set_new(
		object, "stdout", json_stream(result->stdout_bytes, result->stdout_truncated));
	json_object_set_new(
		object, "stderr", json_stream(result->stderr_bytes, result->stderr_truncated));
	json_object_set_new(
		object, "max_rss_bytes", json_integer((json_int_t)result->max_rss_bytes));
	json_object_set_new(object, "cpu_usec", json_integer((json_int_t)result->cpu_usec));
	json_object_set_new(object, "inputs",
		json_files(inputs ? inputs->files : NULL, inputs ? inputs->n : 0));
	json_object_set_new(
		object, "artifacts", json_files(result->artifacts, result->n_artifacts));
	json_object_set_new(object, "left_out", json_text(result->left_out));
	json_object_set_new(object, "wall", json_wall(&result->wall));

	_cleanup_free_ char *text = json_dumps(object, JSON_INDENT(2));
	json_decref(object);
	return str_printf("%s\n", text ? text : "{}");
}
