#include "orchestrator/cli/job_view.h"

#include <signal.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/cli/attempt_view.h"
#include "orchestrator/job.h"

/* The enums of control.v1 and job.v1 are those of job.h by value. */
_Static_assert((int)CONTROL__V1__STATE__FINISHED == (int)JOB_FINISHED, "states agree");
_Static_assert((int)JOB__V1__OUTCOME__INFRA == (int)OUTCOME_INFRA, "outcomes agree");

const struct output_type job_columns = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "NAME", .key = "name", .gives = true},
			{.title = "STATUS", .key = "status"},
			{.title = "EXIT", .key = "exit_code", .right = true},
			{.title = "IMAGE", .key = "image", .gives = true},
			{.title = "SUBMITTED", .key = "times_usec.submitted", .kind = COLUMN_AGE},
			{.title = "COMMAND", .key = "command", .gives = true},
			{.title = NULL},
		},
};

const struct output_type job_fields = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "Name", .key = "name"},
			{.title = "Status", .key = "status"},
			{.title = "Priority", .key = "priority"},
			{.title = "Share", .key = "share"},
			{.title = "Place in queue", .key = "queue_position"},
			{.title = "Exit code", .key = "exit_code"},
			{.title = "Signal", .key = "signal"},
			{.title = "Error", .key = "error"},
			{.title = "Left out", .key = "left_out"},
			{.title = "Image", .key = "image"},
			{.title = "Command", .key = "command"},
			{.title = "Run", .key = "run", .kind = COLUMN_LINES},
			{.title = "Labels", .key = "labels"},
			{.title = "Submitted", .key = "times_usec.submitted", .kind = COLUMN_TIME},
			{.title = "Ended", .key = "times_usec.recorded", .kind = COLUMN_TIME},
			{.title = "VM", .key = "vm"},
			{.title = "Attempt", .key = "attempt"},
			{.title = "Next attempt", .key = "not_before_usec", .kind = COLUMN_TIME},
			{.title = "Retried from", .key = "retried_from"},
			{.title = "Stdout", .key = "stdout"},
			{.title = "Stderr", .key = "stderr"},
			{.title = "CPU time", .key = "cpu_usec", .kind = COLUMN_DURATION},
			{.title = "Memory used", .key = "max_rss_bytes", .kind = COLUMN_SIZE},
			{.title = "Accelerator", .key = "wall.accelerator"},
			{.title = "Vsock device", .key = "wall.vsock_device"},
			{.title = "CID", .key = "wall.cid"},
			{.title = "Network", .key = "wall.network_interface"},
			{.title = "Devices", .key = "wall.devices"},
			{.title = "Warm VM", .key = "wall.warm"},
			{.title = "Kernel", .key = "wall.kernel"},
			{.title = "Image digest", .key = "wall.image_digest"},
			{.title = "Libvirt", .key = "wall.libvirt_uri"},
			{.title = "Results", .key = "result_dir"},
			{.title = NULL},
		},
};

const struct output_type vm_columns = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "STATE", .key = "state"},
			{.title = "JOB", .key = "job"},
			{.title = "IMAGE", .key = "image", .gives = true},
			{.title = "CPUS", .key = "cpus", .right = true},
			{.title = "MEMORY",
				.key = "memory_bytes",
				.kind = COLUMN_SIZE,
				.right = true},
			{.title = "ACCEL", .key = "accelerator"},
			{.title = "VSOCK", .key = "vsock_device"},
			{.title = "CID", .key = "cid", .right = true},
			{.title = "STARTED", .key = "started_usec", .kind = COLUMN_AGE},
			{.title = "DOMAIN", .key = "domain", .gives = true},
			{.title = NULL},
		},
};

const struct output_type pool_columns = {
	.name_key = "image",
	.columns =
		(const struct output_column[]){
			{.title = "IMAGE", .key = "image", .gives = true},
			{.title = "STATE", .key = "state"},
			{.title = "IDLE", .key = "idle", .right = true},
			{.title = "BOOTING", .key = "booting", .right = true},
			{.title = "MIN", .key = "min_idle", .right = true},
			{.title = "MAX", .key = "max", .right = true},
			{.title = "CPUS", .key = "cpus", .right = true},
			{.title = "MEMORY",
				.key = "memory_bytes",
				.kind = COLUMN_SIZE,
				.right = true},
			{.title = "FAILED", .key = "failures", .right = true},
			{.title = "REASON", .key = "reason", .gives = true},
			{.title = NULL},
		},
};

static const struct output_type artifact_columns = {
	.name_key = "path",
	.columns =
		(const struct output_column[]){
			{.title = "ARTIFACT", .key = "path"},
			{.title = "SIZE", .key = "size", .kind = COLUMN_SIZE, .right = true},
			{.title = "SHA256", .key = "sha256", .gives = true},
			{.title = NULL},
		},
};

static const struct output_type input_columns = {
	.name_key = "path",
	.columns =
		(const struct output_column[]){
			{.title = "INPUT", .key = "path"},
			{.title = "SIZE", .key = "size", .kind = COLUMN_SIZE, .right = true},
			{.title = "SHA256", .key = "sha256", .gives = true},
			{.title = NULL},
		},
};

static void set_string(json_t *object, const char *key, const char *value)
{
	json_object_set_new(object, key, output_string(value));
}

static void set_number(json_t *object, const char *key, bool has, uint64_t value)
{
	json_object_set_new(object, key, has ? json_integer((json_int_t)value) : json_null());
}

static const uint64_t *stage_time(const Control__V1__Times *t, enum job_stage stage)
{
#define TIME(name) return t && t->has_##name ? &t->name : NULL
	switch (stage) {
	case STAGE_SUBMITTED:
		TIME(submitted);
	case STAGE_STARTED:
		TIME(started);
	case STAGE_DOMAIN_CREATED:
		TIME(domain_created);
	case STAGE_KERNEL_UP:
		TIME(kernel_up);
	case STAGE_WORKER_READY:
		TIME(worker_ready);
	case STAGE_INPUTS_SENT:
		TIME(inputs_sent);
	case STAGE_PROGRAM_STARTED:
		TIME(program_started);
	case STAGE_FIRST_BYTE:
		TIME(first_byte);
	case STAGE_PROGRAM_ENDED:
		TIME(program_ended);
	case STAGE_COLLECTED:
		TIME(collected);
	case STAGE_RECORDED:
		TIME(recorded);
	case STAGE_DESTROYED:
		TIME(destroyed);
	case STAGES:
		break;
	}
#undef TIME
	return NULL;
}

static json_t *times_view(const Control__V1__Times *times)
{
	json_t *object = json_object();

	for (enum job_stage stage = 0; stage < STAGES; stage++) {
		const uint64_t *usec = stage_time(times, stage);
		if (usec && *usec)
			set_number(object, job_stage_name(stage), true, *usec);
	}
	return object;
}

static json_t *stream_view(bool has, uint64_t bytes, bool truncated)
{
	if (!has)
		return json_null();
	return json_pack("{s:I, s:b}", "bytes", (json_int_t)bytes, "truncated", (int)truncated);
}

static json_t *wall_view(const Control__V1__Wall *wall)
{
	json_t *object, *devices;

	if (!wall)
		return json_null();
	object = json_object();
	set_string(object, "accelerator", wall->accelerator);
	set_string(object, "vsock_device", wall->vsock_device);
	set_number(object, "cid", wall->has_cid, wall->cid);
	json_object_set_new(object, "network_interface",
		wall->has_network_interface ? json_boolean(wall->network_interface) : json_null());
	devices = json_array();
	for (size_t i = 0; i < wall->n_devices; i++)
		json_array_append_new(devices, output_string(wall->devices[i]));
	json_object_set_new(object, "devices", devices);
	set_string(object, "kernel", wall->kernel);
	set_string(object, "image_digest", wall->image_digest);
	set_string(object, "libvirt_uri", wall->libvirt_uri);
	json_object_set_new(object, "warm", json_boolean(wall->warm));
	return object;
}

static json_t *files_view(Control__V1__Artifact *const *files, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++) {
		const Control__V1__Artifact *artifact = files[i];
		_cleanup_free_ char *hex = hex_encode(artifact->sha256.data, artifact->sha256.len);
		json_t *object = json_object();

		set_string(object, "path", artifact->path);
		set_number(object, "size", true, artifact->size);
		set_string(object, "sha256", hex);
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *retry_view(const Job__V1__Retry *retry)
{
	json_t *object, *on;

	if (!retry)
		return json_null();
	object = json_object();
	set_number(object, "max_attempts", true, retry->max_attempts);
	on = json_array();
	for (size_t i = 0; i < retry->n_on; i++)
		json_array_append_new(on, output_string(retry->on[i]));
	json_object_set_new(object, "on", on);
	set_number(object, "backoff_ms", retry->has_backoff_ms, retry->backoff_ms);
	set_number(object, "max_backoff_ms", retry->has_max_backoff_ms, retry->max_backoff_ms);
	return object;
}

static json_t *command_view(const Job__V1__Spec *spec)
{
	json_t *array;

	if (spec->script)
		return output_string(spec->script);
	array = json_array();
	for (size_t i = 0; i < spec->n_argv; i++)
		json_array_append_new(array, output_string(spec->argv[i]));
	return array;
}

static json_t *labels_view(const Job__V1__Spec *spec)
{
	json_t *object = json_object();

	for (size_t i = 0; i < spec->n_labels; i++) {
		_cleanup_free_ char *name =
			str_escape(spec->labels[i]->name, strlen(spec->labels[i]->name), false);
		set_string(object, name, spec->labels[i]->value);
	}
	return object;
}

json_t *job_view(const Control__V1__JobInfo *info)
{
	json_t *object = json_object();
	const char *state = job_state_name((enum job_state)info->state);
	const char *outcome =
		info->has_outcome ? job_outcome_name((enum job_outcome)info->outcome) : NULL;

	set_string(object, "id", info->id);
	set_string(object, "name", info->spec->name);
	set_string(object, "image", info->spec->image);
	json_object_set_new(
		object, info->spec->script ? "run" : "command", command_view(info->spec));
	json_object_set_new(object, "labels", labels_view(info->spec));
	set_string(object, "state", state);
	/* One word for both: how it ended once it did. */
	set_string(object, "status", outcome ? outcome : state);
	set_string(object, "outcome", outcome);
	set_string(object, "share", info->share);
	if (info->spec->has_priority)
		json_object_set_new(object, "priority", json_integer(info->spec->priority));
	set_number(object, "queue_position", info->has_queue_position && info->queue_position > 0,
		info->queue_position);
	set_number(object, "exit_code", info->has_exit_code, 0);
	if (info->has_exit_code)
		json_object_set_new(object, "exit_code", json_integer(info->exit_code));
	set_number(object, "signal", info->has_signal && info->signal > 0, (uint64_t)info->signal);
	set_string(object, "error", info->error);
	set_number(object, "attempt", info->has_attempt, info->attempt);
	json_object_set_new(object, "retry", retry_view(info->spec->retry));
	set_number(object, "not_before_usec", info->has_not_before, info->not_before);
	set_number(object, "restarts", info->has_restarts, info->restarts);
	set_string(object, "retried_from", info->retried_from);
	json_object_set_new(object, "earlier_attempts", attempt_views(info));
	set_string(object, "vm", info->vm);
	json_object_set_new(object, "times_usec", times_view(info->times));
	json_object_set_new(object, "stdout",
		stream_view(info->has_stdout_bytes, info->stdout_bytes, info->stdout_truncated));
	json_object_set_new(object, "stderr",
		stream_view(info->has_stderr_bytes, info->stderr_bytes, info->stderr_truncated));
	set_number(object, "max_rss_bytes", info->has_max_rss_bytes, info->max_rss_bytes);
	set_number(object, "cpu_usec", info->has_cpu_usec, info->cpu_usec);
	json_object_set_new(object, "inputs", files_view(info->inputs, info->n_inputs));
	json_object_set_new(object, "artifacts", files_view(info->artifacts, info->n_artifacts));
	set_string(object, "left_out", info->left_out);
	json_object_set_new(object, "wall", wall_view(info->wall));
	set_string(object, "result_dir", info->result_dir);
	return object;
}

json_t *vm_view(const Control__V1__VmInfo *info)
{
	json_t *object = json_object();

	set_string(object, "id", info->id);
	set_string(object, "state", info->state);
	set_string(object, "job", info->job);
	set_string(object, "image", info->image);
	set_number(object, "cpus", true, info->cpus);
	set_number(object, "memory_bytes", true, info->memory_bytes);
	set_string(object, "accelerator", info->accelerator);
	set_string(object, "vsock_device", info->vsock_device);
	set_number(object, "cid", info->has_cid && info->cid, info->cid);
	set_number(object, "started_usec", true, info->started);
	set_string(object, "domain", info->domain);
	set_string(object, "uuid", info->uuid);
	set_number(object, "pid", info->has_pid && info->pid, info->pid);
	json_object_set_new(object, "pooled", json_boolean(info->pooled));
	return object;
}

json_t *pool_view(const Control__V1__PoolInfo *info)
{
	json_t *object = json_object();

	set_string(object, "image", info->image);
	set_string(object, "state", info->state);
	set_number(object, "idle", true, info->idle);
	set_number(object, "booting", true, info->booting);
	set_number(object, "min_idle", true, info->min_idle);
	set_number(object, "max", true, info->max);
	set_number(object, "cpus", true, info->cpus);
	set_number(object, "memory_bytes", true, info->memory_bytes);
	set_number(object, "disk_bytes", info->has_disk_bytes, info->disk_bytes);
	set_number(object, "max_age_usec", true, info->max_age_ms * 1000);
	set_number(object, "failures", true, info->failures);
	set_string(object, "reason", info->reason);
	set_number(object, "retry_in_usec", info->has_retry_in_ms, info->retry_in_ms * 1000);
	return object;
}

/* If there are any. */
static void list_below(
	const struct output *output, const struct output_type *type, const json_t *rows)
{
	if (!json_array_size(rows))
		return;
	fputc('\n', output->to);
	output_list(output, type, rows);
}

/* For people: a stream's size and whether it is all of it, in one text. */
static void set_stream_text(json_t *job, const char *name)
{
	const json_t *stream = json_object_get(job, name);
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(stream, "bytes"));
	bool cut = json_is_true(json_object_get(stream, "truncated"));

	if (!json_is_object(stream))
		return;
	_cleanup_free_ char *size = format_size(bytes);
	_cleanup_free_ char *text = str_printf("%s%s%s", size, bytes < KIB ? " bytes" : "",
		cut ? ", cut off at limits.output" : "");
	set_string(job, name, text);
}

static void print_fields_of(
	const struct output *output, const struct output_type *fields, const json_t *job)
{
	/* jansson's copy wants a pointer that is not const, and changes nothing. */
	json_t *shown = json_copy((json_t *)(uintptr_t)job);

	set_stream_text(shown, "stdout");
	set_stream_text(shown, "stderr");
	output_object(output, fields, shown);
	json_decref(shown);
}

void job_view_print(
	const struct output *output, const struct output_type *fields, const json_t *job)
{
	if (output->format != OUTPUT_TABLE) {
		output_object(output, fields, job);
		return;
	}
	print_fields_of(output, fields, job);
	list_below(output, &attempt_columns, json_object_get(job, "earlier_attempts"));
	if (fields == &job_fields)
		list_below(output, &input_columns, json_object_get(job, "inputs"));
	list_below(output, &artifact_columns, json_object_get(job, "artifacts"));
}

void job_view_timing(const struct output *output, const Control__V1__JobInfo *info)
{
	/* What was being done until the stage was reached. */
	static const char *const doing[STAGES] = {
		[STAGE_STARTED] = "queued",
		[STAGE_DOMAIN_CREATED] = "domain created",
		[STAGE_KERNEL_UP] = "kernel",
		[STAGE_WORKER_READY] = "worker ready",
		[STAGE_INPUTS_SENT] = "inputs",
		[STAGE_PROGRAM_STARTED] = "program started",
		[STAGE_FIRST_BYTE] = "first byte",
		[STAGE_PROGRAM_ENDED] = "exit",
		[STAGE_COLLECTED] = "collected",
		[STAGE_RECORDED] = "recorded",
		[STAGE_DESTROYED] = "destroyed",
	};
	const uint64_t *begin = stage_time(info->times, STAGE_SUBMITTED);
	uint64_t last = begin ? *begin : 0;

	if (!begin)
		return;
	fprintf(output->to, "%-16s  %12s  %12s\n", "STAGE", "TOOK", "TOTAL");
	for (enum job_stage stage = STAGE_STARTED; stage < STAGES; stage++) {
		const uint64_t *at = stage_time(info->times, stage);
		if (!at || !*at)
			continue;
		/* The clock may have been set back meanwhile; the stages stay in their order. */
		uint64_t took = *at > last ? *at - last : 0;
		uint64_t total = *at > *begin ? *at - *begin : 0;
		fprintf(output->to, "%-16s  %10.1fms  %10.1fms\n", doing[stage],
			(double)took / 1000, (double)total / 1000);
		last = MAX(last, *at);
	}
}

int job_exit_code(const Control__V1__JobInfo *info)
{
	if (info->has_exit_code && info->exit_code >= 0 && info->exit_code <= 255)
		return info->exit_code;
	switch ((int)info->outcome) {
	case JOB__V1__OUTCOME__SUCCEEDED:
		return 0;
	case JOB__V1__OUTCOME__TIMEOUT:
		return EXIT_TIMEOUT;
	case JOB__V1__OUTCOME__CANCELLED:
		return EXIT_CANCELLED;
	case JOB__V1__OUTCOME__FAILED:
		return info->signal > 0 && info->signal < 128 ? 128 + info->signal : 1;
	default:
		return EXIT_INFRA;
	}
}

char *job_what_happened(const Control__V1__JobInfo *info)
{
	static const char *const said[OUTCOMES] = {
		[OUTCOME_TIMEOUT] = "timed out",
		[OUTCOME_CANCELLED] = "was cancelled",
		[OUTCOME_OOM_GUEST] = "ran out of its memory",
		[OUTCOME_OOM_HOST] = "got no memory from this host",
		[OUTCOME_GUEST_PANIC] = "made its kernel panic",
		[OUTCOME_AGENT_LOST] = "lost the worker in its VM",
		[OUTCOME_BOOT_FAILED] = "never began: its VM did not boot",
		[OUTCOME_INFRA] = "failed because of this host",
	};
	unsigned outcome = info->has_outcome ? (unsigned)info->outcome : OUTCOME_INFRA;
	const char *error = info->error && *info->error ? info->error : NULL;

	if (outcome == OUTCOME_SUCCEEDED)
		return NULL;
	if (outcome == OUTCOME_FAILED && info->has_signal && info->signal > 0)
		return str_printf("was killed by signal %d (%s)", info->signal,
			sigdescr_np(info->signal) ? sigdescr_np(info->signal) : "unknown");
	/* A program's own exit code needs no words, unless it could also be ours. */
	if (outcome == OUTCOME_FAILED)
		return error && info->exit_code >= EXIT_INFRA && info->exit_code <= EXIT_NOT_FOUND
			       ? str_printf("failed: %s", error)
			       : NULL;
	const char *what =
		outcome < OUTCOMES && said[outcome] ? said[outcome] : "ended in a way unknown here";
	return error ? str_printf("%s: %s", what, error) : xstrdup(what);
}
