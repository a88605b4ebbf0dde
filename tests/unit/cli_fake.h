/* A daemon for the command line's tests: `serve` that answers by a script. A job's id is its name,
 * and says how the job goes. What was submitted is written to STATE_DIR/submitted. */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/rpc.h"
#include "common/sock.h"
#include "common/util.h"
#include "control.pb-c.h"
#include "orchestrator/cli/cli.h"
#include "orchestrator/control_api.h"

struct fake_job {
	const char *id;
	Job__V1__Outcome outcome;
	int exit_code, signal;
	const char *error;
};

static const struct fake_job fake_jobs[] = {
	{"good", JOB__V1__OUTCOME__SUCCEEDED, 0, 0, NULL},
	{"three", JOB__V1__OUTCOME__FAILED, 3, 0, "the program ended with exit code 3"},
	{"nofile", JOB__V1__OUTCOME__FAILED, 127, 0, "no such program: /bin/nope"},
	{"killed", JOB__V1__OUTCOME__FAILED, 137, 9, NULL},
	{"late", JOB__V1__OUTCOME__TIMEOUT, 124, 0, "ran longer than 5s"},
	{"panic", JOB__V1__OUTCOME__GUEST_PANIC, 125, 0, "Kernel panic - not syncing: \033[2Jboo"},
	{"cancelled", JOB__V1__OUTCOME__CANCELLED, 130, 0, NULL},
	{"hang", JOB__V1__OUTCOME__SUCCEEDED, 0, 0, NULL},  /* its output never ends */
	{"flood", JOB__V1__OUTCOME__SUCCEEDED, 0, 0, NULL}, /* nor does its output pause */
	{"crash", JOB__V1__OUTCOME__SUCCEEDED, 0, 0, NULL}, /* the daemon dies in the middle */
	{"four", JOB__V1__OUTCOME__FAILED, 4, 0, NULL},	    /* the daemon dies three times */
	{"doom", JOB__V1__OUTCOME__SUCCEEDED, 0, 0, NULL},  /* and this one each time */
	{"slow", JOB__V1__OUTCOME__TIMEOUT, 124, 0, NULL},  /* says its states */
};

static const struct fake_job *fake_find(const char *id, struct error **err)
{
	for (size_t i = 0; i < ARRAY_SIZE(fake_jobs); i++)
		if (str_eq(fake_jobs[i].id, id))
			return &fake_jobs[i];
	error_set(err, ERR_NOT_FOUND, "no job '%s'", id);
	return NULL;
}

/* All on the stack of the caller, by this struct. */
struct fake_info {
	Control__V1__JobInfo info;
	Job__V1__Spec spec;
	Control__V1__Times times;
	Control__V1__Wall wall;
	Control__V1__Artifact artifact, *artifacts[1];
	char *argv[2], *devices[2];
};

static const uint64_t fake_epoch = UINT64_C(1767225600000000); /* 2026-01-01 */

static void fake_fill(struct fake_info *f, const struct fake_job *job)
{
	static uint8_t digest[32] = {0xab, 0xcd};
	static char image[] = "debian", echo[] = "echo", hi[] = "hi there", path[] = "0/out.bin";
	static char disk[] = "disk", serial[] = "serial", tcg[] = "tcg";

	control__v1__job_info__init(&f->info);
	job__v1__spec__init(&f->spec);
	control__v1__times__init(&f->times);
	control__v1__wall__init(&f->wall);
	control__v1__artifact__init(&f->artifact);
	f->argv[0] = echo;
	f->argv[1] = hi;
	f->spec.image = image;
	f->spec.argv = f->argv;
	f->spec.n_argv = 2;
	f->devices[0] = disk;
	f->devices[1] = serial;
	f->wall.accelerator = tcg;
	f->wall.devices = f->devices;
	f->wall.n_devices = 2;
	f->wall.has_network_interface = true;
	f->times.has_submitted = f->times.has_started = f->times.has_domain_created = true;
	f->times.submitted = fake_epoch;
	f->times.started = fake_epoch + 1500;
	f->times.domain_created = fake_epoch + 250000;
	f->times.has_recorded = true;
	f->times.recorded = fake_epoch + 2000000;
	f->artifact.path = path;
	f->artifact.size = 2048;
	f->artifact.sha256 = (ProtobufCBinaryData){sizeof(digest), digest};
	f->artifacts[0] = &f->artifact;
	f->info.id = (char *)(uintptr_t)job->id;
	f->info.spec = &f->spec;
	f->info.state = CONTROL__V1__STATE__FINISHED;
	f->info.has_outcome = f->info.has_exit_code = true;
	f->info.outcome = job->outcome;
	f->info.exit_code = job->exit_code;
	f->info.has_signal = job->signal != 0;
	f->info.signal = job->signal;
	f->info.error = (char *)(uintptr_t)job->error;
	f->info.times = &f->times;
	f->info.wall = &f->wall;
	f->info.has_queue_position = str_eq(job->id, "slow");
	f->info.queue_position = 3;
	f->info.has_stdout_bytes = true;
	f->info.stdout_bytes = 1536;
	f->info.artifacts = f->artifacts;
	f->info.n_artifacts = 1;
}

static int fake_reply_info(struct rpc_call *call, const char *id, struct error **err)
{
	const struct fake_job *job = fake_find(id, err);
	struct fake_info f;

	if (!job)
		return -1;
	fake_fill(&f, job);
	return rpc_send(call, &f.info.base, err);
}

#define FAKE_REQUEST(type, name)                                                                   \
	ProtobufCMessage *message_ = NULL;                                                         \
	if (rpc_recv(call, -1, &message_, err) <= 0)                                               \
		return -1;                                                                         \
	type *name = (type *)message_;                                                             \
	(void)arg;

static int fake_get_job(struct rpc_call *call, void *arg, struct error **err)
{
	FAKE_REQUEST(Control__V1__JobRequest, request)
	int r = fake_reply_info(call, request->id, err);

	rpc_message_free(message_);
	return r;
}

static int fake_wait(struct rpc_call *call, void *arg, struct error **err)
{
	FAKE_REQUEST(Control__V1__WaitRequest, request)
	int r = str_eq(request->id, "hang") ? error_set(err, ERR_TIMEOUT, "not yet")
					    : fake_reply_info(call, request->id, err);

	rpc_message_free(message_);
	return r;
}

static int fake_list_jobs(struct rpc_call *call, void *arg, struct error **err)
{
	FAKE_REQUEST(Control__V1__ListJobsRequest, request)
	int r = 0;

	/* With a state asked for there are none. */
	for (size_t i = 0; i < 3 && !request->n_states && r == 0; i++)
		r = fake_reply_info(call, fake_jobs[i].id, err);
	rpc_message_free(message_);
	return r;
}

static int fake_list_vms(struct rpc_call *call, void *arg, struct error **err)
{
	static char id[] = "vm-1", domain[] = "orchestrator-vm-1", uuid[] = "u",
		    state[] = "running", image[] = "debian";
	Control__V1__VmInfo vm = CONTROL__V1__VM_INFO__INIT;
	FAKE_REQUEST(Control__V1__ListVmsRequest, request)

	(void)request;
	vm.id = id;
	vm.domain = domain;
	vm.uuid = uuid;
	vm.state = state;
	vm.image = image;
	vm.cpus = 2;
	vm.memory_bytes = 512 * MIB;
	vm.started = fake_epoch;
	rpc_message_free(message_);
	return rpc_send(call, &vm.base, err);
}

static int fake_say(struct rpc_call *call, Control__V1__LogsReply__Stream stream, const char *text,
	struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;

	reply.has_stream = reply.has_data = true;
	reply.stream = stream;
	reply.data = (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
	return rpc_send(call, &reply.base, err);
}

static int fake_state(struct rpc_call *call, Control__V1__State state, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;

	reply.has_state = true;
	reply.state = state;
	return rpc_send(call, &reply.base, err);
}

static int fake_until_cancelled(struct rpc_call *call, bool flood, struct error **err)
{
	static char block[65537];

	memset(block, 'x', sizeof(block) - 1);
	while (!rpc_call_cancelled(call)) {
		if (!flood)
			sleep_ms(10);
		else if (fake_say(call, CONTROL__V1__LOGS_REPLY__STREAM__STDOUT, block, err) < 0)
			return -1;
	}
	return error_set(err, ERR_CANCELLED, "the caller left");
}

static int fake_logs(struct rpc_call *call, void *arg, struct error **err)
{
	Control__V1__LogsReply last = CONTROL__V1__LOGS_REPLY__INIT;
	FAKE_REQUEST(Control__V1__LogsRequest, request)
	const struct fake_job *job = fake_find(request->id, err);
	uint64_t offset = request->stdout_offset;
	bool follow = request->follow;
	struct fake_info f;

	rpc_message_free(message_);
	if (!job)
		return -1;
	if (str_eq(job->id, "slow") &&
		(fake_state(call, CONTROL__V1__STATE__QUEUED, err) < 0 ||
			fake_state(call, CONTROL__V1__STATE__STARTING, err) < 0))
		return -1;
	if (offset == 0 &&
		(fake_say(call, CONTROL__V1__LOGS_REPLY__STREAM__STDOUT, "out\0331\n", err) < 0 ||
			fake_say(call, CONTROL__V1__LOGS_REPLY__STREAM__STDERR, "err\0332\n", err) <
				0))
		return -1;
	if (str_eq(job->id, "hang") || str_eq(job->id, "flood"))
		return fake_until_cancelled(call, str_eq(job->id, "flood"), err);
	if (str_eq(job->id, "crash") && offset == 0) {
		sleep_ms(200); /* that what was said has left this process */
		_exit(1);
	}
	if (str_eq(job->id, "doom")) {
		sleep_ms(offset ? 0 : 200);
		_exit(1);
	}
	if (offset && fake_say(call, CONTROL__V1__LOGS_REPLY__STREAM__STDOUT, "more\n", err) < 0)
		return -1;
	if (str_eq(job->id, "four") && offset < 16) {
		sleep_ms(200);
		_exit(1);
	}
	if (!follow)
		return 0;
	fake_fill(&f, job);
	last.ended = &f.info;
	return rpc_send(call, &last.base, err);
}

static void fake_note_submit(FILE *to, const Control__V1__SubmitRequest *request)
{
	if (request->spec) {
		fprintf(to, "image %s\n", request->spec->image);
		for (size_t i = 0; i < request->spec->n_argv; i++)
			fprintf(to, "arg %s\n", request->spec->argv[i]);
		for (size_t i = 0; i < request->spec->n_env; i++)
			fprintf(to, "env %s=%s\n", request->spec->env[i]->name,
				request->spec->env[i]->value);
		if (request->spec->resources)
			fprintf(to, "memory %llu cpus %u\n",
				(unsigned long long)request->spec->resources->memory_bytes,
				request->spec->resources->cpus);
		if (request->spec->has_timeout_ms)
			fprintf(to, "timeout %llu\n",
				(unsigned long long)request->spec->timeout_ms);
	}
	if (request->key)
		fprintf(to, "key %s\n", request->key);
	if (request->record && request->record->part_case == JOB__V1__FILE_RECORD__PART_HEAD)
		fprintf(to, "head %s\n", request->record->head->path);
	if (request->record && request->record->part_case == JOB__V1__FILE_RECORD__PART_CHUNK)
		fprintf(to, "chunk %.*s\n", (int)request->record->chunk.len,
			(const char *)request->record->chunk.data);
}

static int fake_submit(struct rpc_call *call, void *arg, struct error **err)
{
	const struct config *config = arg;
	_cleanup_free_ char *path = str_printf("%s/submitted", config->state_dir);
	_cleanup_free_ char *id = xstrdup("good"), *tmp = str_printf("%s.tmp", path);
	Control__V1__SubmitReply reply = CONTROL__V1__SUBMIT_REPLY__INIT;
	ProtobufCMessage *message;
	FILE *to = fopen(tmp, "we");
	int r;

	while ((r = rpc_recv(call, -1, &message, err)) > 0) {
		Control__V1__SubmitRequest *request = (Control__V1__SubmitRequest *)message;
		bool refused = request->spec && str_eq(request->spec->image, "nowhere");

		if (request->spec && request->spec->name) {
			free(id);
			id = xstrdup(request->spec->name);
		}
		fake_note_submit(to, request);
		rpc_message_free(message);
		if (refused) {
			fclose(to);
			return error_set(err, ERR_NOT_FOUND, "no image 'nowhere'");
		}
	}
	fclose(to);
	if (r < 0)
		return -1;
	if (rename(tmp, path) < 0)
		return error_set(err, ERR_INTERNAL, "rename");
	reply.id = id;
	return rpc_send(call, &reply.base, err);
}

/* A reply for each job, whose id is its name; "hang" gets none, "crash" is the end. */
static int fake_submit_many(struct rpc_call *call, void *arg, struct error **err)
{
	static char refusal[] = "no image 'nowhere'";
	ProtobufCMessage *message;
	int r;

	(void)arg;
	while ((r = rpc_recv(call, -1, &message, err)) > 0) {
		const Control__V1__SubmitManyRequest *request =
			(Control__V1__SubmitManyRequest *)message;

		for (size_t i = 0; i < request->n_jobs && r >= 0; i++) {
			Control__V1__SubmitManyReply reply = CONTROL__V1__SUBMIT_MANY_REPLY__INIT;
			Control__V1__SubmitManyReply__Result
				result = CONTROL__V1__SUBMIT_MANY_REPLY__RESULT__INIT,
				*results[] = {&result};
			const Job__V1__Spec *spec = request->jobs[i]->spec;

			if (str_eq(spec->name, "hang"))
				return fake_until_cancelled(call, false, err);
			if (str_eq(spec->name, "crash")) {
				sleep_ms(200); /* that what was said has left this process */
				_exit(1);
			}
			result.index = request->jobs[i]->index;
			reply.results = results;
			reply.n_results = 1;
			if (str_eq(spec->image, "nowhere")) {
				result.has_code = true;
				result.code = ERR_NOT_FOUND;
				result.error = refusal;
			} else {
				result.id = spec->name;
			}
			r = rpc_send(call, &reply.base, err);
		}
		rpc_message_free(message);
	}
	return r;
}

static int fake_file(struct rpc_call *call, const char *path, const char *text, struct error **err)
{
	/* SHA-256 of "42\n" */
	static uint8_t digest[32];
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	Job__V1__FileHead head = JOB__V1__FILE_HEAD__INIT;
	Job__V1__FileTail tail = JOB__V1__FILE_TAIL__INIT;

	if (hex_decode("084c799cd551dd1d8d5c5f9a5d593b2e931f5e36122ee5c793c1d08a19839cc0", digest,
		    32) < 0)
		abort();
	head.path = (char *)(uintptr_t)path;
	head.type = JOB__V1__FILE_HEAD__TYPE__REGULAR;
	head.mode = 0644;
	head.size = strlen(text);
	record.part_case = JOB__V1__FILE_RECORD__PART_HEAD;
	record.head = &head;
	if (rpc_send(call, &record.base, err) < 0)
		return -1;
	record.part_case = JOB__V1__FILE_RECORD__PART_CHUNK;
	record.chunk = (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
	if (rpc_send(call, &record.base, err) < 0)
		return -1;
	tail.has_sha256 = true;
	tail.sha256 = (ProtobufCBinaryData){sizeof(digest), digest};
	record.part_case = JOB__V1__FILE_RECORD__PART_TAIL;
	record.tail = &tail;
	return rpc_send(call, &record.base, err);
}

static int fake_result(struct rpc_call *call, void *arg, struct error **err)
{
	FAKE_REQUEST(Control__V1__JobRequest, request)
	/* One that would like to be elsewhere. */
	const char *path = str_eq(request->id, "killed") ? "../evil" : "stdout";

	rpc_message_free(message_);
	return fake_file(call, path, "42\n", err);
}

static int fake_info(struct rpc_call *call, void *arg, struct error **err)
{
	static char old[] = "0.0.0", now[] = ORCHESTRATOR_VERSION;
	const struct config *config = arg;
	Control__V1__InfoReply reply = CONTROL__V1__INFO_REPLY__INIT;
	FAKE_REQUEST(Control__V1__InfoRequest, request)

	(void)request;
	rpc_message_free(message_);
	reply.version = getenv("FAKE_OLD") ? old : now;
	reply.pid = (uint32_t)getpid();
	reply.state_dir = config->state_dir;
	reply.max_vms = 2;
	return rpc_send(call, &reply.base, err);
}

static int fake_stopping = -1; /* write end of a pipe: ends the server */

static int fake_stop(struct rpc_call *call, void *arg, struct error **err)
{
	Control__V1__StopReply reply = CONTROL__V1__STOP_REPLY__INIT;
	FAKE_REQUEST(Control__V1__StopRequest, request)

	(void)request;
	rpc_message_free(message_);
	int r = rpc_send(call, &reply.base, err);
	if (write(fake_stopping, "x", 1) < 0)
		abort();
	return r;
}

static const struct rpc_service fake_services[] = {
	{&control_get_job, fake_get_job},
	{&control_cancel, fake_get_job},
	{&control_wait, fake_wait},
	{&control_list_jobs, fake_list_jobs},
	{&control_list_vms, fake_list_vms},
	{&control_logs, fake_logs},
	{&control_submit, fake_submit},
	{&control_submit_many, fake_submit_many},
	{&control_result, fake_result},
	{&control_info, fake_info},
	{&control_stop, fake_stop},
};

static int fake_tell(const struct cli *cli, const char *text)
{
	const char *fd = cli_value(cli, "ready-fd");

	if (fd && write_all(atoi(fd), text, strlen(text)) < 0)
		return -1;
	if (fd)
		close(atoi(fd));
	return 0;
}

static int fake_serve(const struct cli *cli, int argc, char **argv)
{
	_cleanup_free_ char *path = config_control_socket(cli->config);
	struct endpoint ep = {.kind = ENDPOINT_UNIX};
	int stopping[2];

	(void)argc;
	(void)argv;
	if (getenv("FAKE_ERROR"))
		return fake_tell(cli, "error: QEMU is missing\n") + 125;
	if (getenv("FAKE_MUTE")) {
		fprintf(stderr, "first words\nlast words\n");
		return 125;
	}
	alarm(120); /* whatever becomes of the test, this process ends */
	snprintf(ep.path, sizeof(ep.path), "%s", path);
	int listen_fd = sock_listen(&ep, 16, 0600, NULL);
	if (listen_fd < 0 || pipe2(stopping, O_CLOEXEC) < 0)
		return fake_tell(cli, "error: cannot listen\n") + 125;
	fake_stopping = stopping[1];
	rpc_init();
	struct rpc_server *server = rpc_server_new(
		fake_services, ARRAY_SIZE(fake_services), cli->config, &rpc_limits_control, NULL);
	fake_tell(cli, "ready\n");
	for (;;) {
		struct pollfd pfds[] = {
			{.fd = listen_fd, .events = POLLIN}, {.fd = stopping[0], .events = POLLIN}};
		if (poll(pfds, 2, -1) > 0 && pfds[1].revents)
			break;
		int fd = sock_accept(listen_fd, 1000, NULL);
		if (fd >= 0)
			rpc_server_add(server, fd, NULL, NULL, NULL);
	}
	close(listen_fd);
	unlink(path);
	rpc_server_free(server, 1000);
	rpc_quit();
	close(stopping[0]);
	close(stopping[1]);
	return 0;
}

static const struct cli_option fake_serve_options[] = {
	{0, "idle-exit", NULL, "x"}, {0, "ready-fd", "N", NULL}, {0, NULL, NULL, NULL}};

static const struct cli_command fake_command_serve = {
	.name = "serve", .summary = "A script", .options = fake_serve_options, .run = fake_serve};

static const struct cli_command *const fake_commands[] = {&command_run, &command_submit,
	&command_list, &command_status, &command_logs, &command_result, &command_wait,
	&command_cancel, &command_validate, &command_config, &command_stop, &command_version,
	&command_help, &fake_command_serve, NULL};
