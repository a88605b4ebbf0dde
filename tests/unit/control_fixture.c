#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/control_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/file_tree.h"
#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/control_api.h"
#include "orchestrator/serve.h"
#include "tests/unit/fake_attempt.h"

#define DEADLINE_MS 30000

/* --- the daemon's process -------------------------------------------------------------------- */

enum { ARG_MODE = 1, ARG_DIR, ARG_MAX_VMS, ARG_MIN_FREE, ARG_IDLE_EXIT, ARG_IDLE_MS, ARG_FD, ARGS };

static void fill_config(struct config *config, const char *dir)
{
	memset(config, 0, sizeof(*config));
	config->state_dir = str_printf("%s/state", dir);
	config->runtime_dir = str_printf("%s/run", dir);
	config->image_dir = str_printf("%s/images", dir);
	config->libvirt_uri = xstrdup("fake:///");
	config->log_level = xstrdup("error");
	config->max_vms = 2;
	config->default_timeout_ms = 60000;
	config->default_memory = 128 * MIB;
	config->default_cpus = 1;
	config->memory_overcommit = 100;
	config->cpu_overcommit = 10000;
	config->idle_timeout_ms = 100;
}

static void clear_config(struct config *config)
{
	free(config->state_dir);
	free(config->runtime_dir);
	free(config->image_dir);
	free(config->libvirt_uri);
	free(config->log_level);
}

void fixture_daemon_main(int argc, char **argv)
{
	struct config config;
	struct error *err = NULL;

	if (argc != ARGS || strcmp(argv[ARG_MODE], "daemon") != 0)
		return;
	fill_config(&config, argv[ARG_DIR]);
	config.max_vms = (uint32_t)atoi(argv[ARG_MAX_VMS]);
	config.min_free_disk = strtoull(argv[ARG_MIN_FREE], NULL, 10);
	config.idle_timeout_ms = strtoull(argv[ARG_IDLE_MS], NULL, 10);
	struct serve_options options = {
		.foreground = true,
		.idle_exit = atoi(argv[ARG_IDLE_EXIT]),
		.ready_fd = atoi(argv[ARG_FD]),
	};
	int r = serve(&config, &options, &err);
	error_free(err);
	clear_config(&config);
	exit(r < 0 ? 125 : 0);
}

static void exec_daemon(const struct fixture *f, int fd)
{
	_cleanup_free_ char *max_vms = str_printf("%u", f->config.max_vms);
	_cleanup_free_ char *min_free =
		str_printf("%llu", (unsigned long long)f->config.min_free_disk);
	_cleanup_free_ char *idle =
		str_printf("%llu", (unsigned long long)f->config.idle_timeout_ms);
	_cleanup_free_ char *fd_text = str_printf("%d", fd);

	fcntl(fd, F_SETFD, 0);
	execl("/proc/self/exe", "daemon", "daemon", f->dir, max_vms, min_free,
		f->idle_exit ? "1" : "0", idle, fd_text, NULL);
	_exit(99);
}

static char *read_line(int fd)
{
	char line[512];
	size_t n = 0;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	while (n < sizeof(line) - 1 && poll(&p, 1, DEADLINE_MS) > 0 && read(fd, line + n, 1) == 1 &&
		line[n] != '\n')
		n++;
	return xstrndup(line, n);
}

char *fixture_start(struct fixture *f)
{
	int pipe_fds[2];

	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	f->daemon = fork();
	assert_true(f->daemon >= 0);
	if (f->daemon == 0)
		exec_daemon(f, pipe_fds[1]);
	close(pipe_fds[1]);
	char *line = read_line(pipe_fds[0]);
	close(pipe_fds[0]);
	if (str_eq(line, "ready"))
		f->peer = fixture_connect(f);
	else
		fixture_wait_end(f);
	return line;
}

int fixture_wait_end(struct fixture *f)
{
	int status = 0, waited = 0;
	pid_t pid;

	/* Polled, for a wait that hangs must not hang the tests. */
	while ((pid = waitpid(f->daemon, &status, WNOHANG)) == 0 && waited++ < DEADLINE_MS / 5)
		sleep_ms(5);
	if (pid == 0) {
		kill(f->daemon, SIGKILL);
		waitpid(f->daemon, &status, 0);
		fail_msg("the daemon does not end");
	}
	f->daemon = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int fixture_end(struct fixture *f, int signum)
{
	kill(f->daemon, signum);
	if (f->peer)
		rpc_peer_free(steal_ptr(f->peer));
	return fixture_wait_end(f);
}

struct rpc_peer *fixture_connect(const struct fixture *f)
{
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	snprintf(ep.path, sizeof(ep.path), "%s/run/control.sock", f->dir);
	int fd = sock_connect(&ep, DEADLINE_MS, NULL);
	assert_true(fd >= 0);
	struct rpc_peer *peer = rpc_peer_new(fd, "daemon", &rpc_limits_control, NULL);
	assert_non_null(peer);
	return peer;
}

/* --- set-up ---------------------------------------------------------------------------------- */

int fixture_setup_stopped(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/control-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	fill_config(&f->config, f->dir);
	/* By its manifest an image is known to be the same. */
	_cleanup_free_ char *manifest = str_printf("%s/manifest.json", f->config.image_dir);
	if (mkdir(f->config.image_dir, 0700) < 0 ||
		write_file(manifest, "", 0, 0600, false, NULL) < 0)
		return -1;
	rpc_init();
	*state = f;
	return 0;
}

int fixture_setup(void **state)
{
	if (fixture_setup_stopped(state) < 0)
		return -1;
	_cleanup_free_ char *line = fixture_start(*state);
	return str_eq(line, "ready") ? 0 : -1;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	int code = 0;

	if (f->daemon) {
		/* What the scripts wait for will not come: a cancel ends all but "gone:". */
		fixture_touch(f, "end");
		code = fixture_end(f, SIGTERM);
	} else if (f->peer) {
		rpc_peer_free(f->peer);
	}
	rpc_quit();
	remove_tree(f->dir, NULL);
	clear_config(&f->config);
	free(f);
	return code; /* a sanitizer's complaint in the daemon is a failure, too */
}

char *fixture_path(const struct fixture *f, const char *name)
{
	return str_printf("%s/%s", f->dir, name);
}

void fixture_touch(const struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = fixture_path(f, name);

	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
}

char *fixture_word(const struct fixture *f, const char *word, const char *name)
{
	return str_printf("%s:%s/%s", word, f->dir, name);
}

char *fixture_log(const struct fixture *f)
{
	_cleanup_free_ char *path = str_printf("%s/" FAKE_LOG, f->config.state_dir);
	char *text = read_file(path, MIB, NULL, NULL);

	return text ? text : xstrdup("");
}

/* --- calls ----------------------------------------------------------------------------------- */

static int emit(void *call, const Job__V1__FileRecord *record, struct error **err)
{
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;

	request.record = (Job__V1__FileRecord *)(uintptr_t)record;
	return rpc_send(call, &request.base, err);
}

static int send_inputs(struct rpc_call *call, const char *const *inputs, struct error **err)
{
	struct tree_totals totals = {0};

	for (size_t i = 0; inputs && inputs[i]; i++) {
		_cleanup_free_ char *name = str_printf("%zu", i);

		if (tree_send(AT_FDCWD, inputs[i], name, &tree_limits_default, emit, call, &totals,
			    err) < 0)
			return -1;
	}
	return rpc_close_send(call, err);
}

static int exchange(struct rpc_call *call, const Control__V1__SubmitRequest *request,
	const char *const *inputs, char ret_id[32], struct error **err)
{
	ProtobufCMessage *reply = NULL;
	_cleanup_error_ struct error *why = NULL;

	/* A call that was refused while it still sent says why when it is received. */
	if (rpc_send(call, &request->base, &why) == 0)
		send_inputs(call, inputs, why ? NULL : &why);
	int r = rpc_recv(call, DEADLINE_MS, &reply, err);
	if (r == 0)
		return error_set(err, ERR_INTERNAL, "no reply");
	if (r < 0)
		return -1;
	snprintf(ret_id, 32, "%s", ((Control__V1__SubmitReply *)reply)->id);
	rpc_message_free(reply);
	return 0;
}

void fixture_retry(struct fixture *f, uint32_t max_attempts, uint64_t backoff_ms)
{
	job__v1__retry__init(&f->policy);
	f->policy.has_max_attempts = f->policy.has_backoff_ms = f->policy.has_max_backoff_ms = true;
	f->policy.max_attempts = max_attempts;
	f->policy.backoff_ms = f->policy.max_backoff_ms = backoff_ms;
	f->retry = &f->policy;
}

int fixture_submit(struct fixture *f, const char *const *argv, const char *key,
	const char *const *inputs, char ret_id[32], struct error **err)
{
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	Job__V1__Input input[8], *input_ptrs[8];

	spec.image = (char *)(uintptr_t)FAKE_IMAGE;
	spec.argv = (char **)(uintptr_t)argv;
	while (argv[spec.n_argv])
		spec.n_argv++;
	for (; inputs && inputs[spec.n_inputs]; spec.n_inputs++) {
		Job__V1__Input *in = input_ptrs[spec.n_inputs] = &input[spec.n_inputs];

		job__v1__input__init(in);
		in->src = (char *)(uintptr_t)inputs[spec.n_inputs];
		in->dest = str_printf("/in/%zu", spec.n_inputs);
	}
	spec.inputs = input_ptrs;
	spec.retry = f->retry;
	request.spec = &spec;
	request.key = (char *)(uintptr_t)key;
	struct rpc_call *call = rpc_open(f->peer, &control_submit, DEADLINE_MS, err);
	int r = call ? exchange(call, &request, inputs, ret_id, err) : -1;
	if (call)
		rpc_close(call);
	for (size_t i = 0; i < spec.n_inputs; i++)
		free(input[i].dest);
	return r;
}

void fixture_submit_ok(struct fixture *f, char ret_id[32], const char *word, ...)
{
	const char *argv[16] = {"fake"};
	struct error *err = NULL;
	va_list ap;
	size_t n = 1;

	va_start(ap, word);
	for (const char *w = word; w && n < ARRAY_SIZE(argv) - 1; w = va_arg(ap, const char *))
		argv[n++] = w;
	va_end(ap);
	if (fixture_submit(f, argv, NULL, NULL, ret_id, &err) < 0)
		fail_msg("submit: %s", err->text);
}

static Control__V1__JobInfo *call_job(struct fixture *f, const struct rpc_method *method,
	const ProtobufCMessage *request, struct error **err)
{
	ProtobufCMessage *reply = NULL;

	rpc_unary(f->peer, method, request, DEADLINE_MS, &reply, err);
	return (Control__V1__JobInfo *)reply;
}

Control__V1__JobInfo *fixture_get(struct fixture *f, const char *id, struct error **err)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;

	request.id = (char *)(uintptr_t)id;
	return call_job(f, &control_get_job, &request.base, err);
}

Control__V1__JobInfo *fixture_cancel(struct fixture *f, const char *id, struct error **err)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;

	request.id = (char *)(uintptr_t)id;
	return call_job(f, &control_cancel, &request.base, err);
}

Control__V1__JobInfo *fixture_wait(
	struct fixture *f, const char *id, int timeout_ms, struct error **err)
{
	Control__V1__WaitRequest request = CONTROL__V1__WAIT_REQUEST__INIT;

	request.id = (char *)(uintptr_t)id;
	request.has_timeout_ms = true;
	request.timeout_ms = (uint64_t)timeout_ms;
	return call_job(f, &control_wait, &request.base, err);
}

void fixture_expect_not_cancellable(struct fixture *f, const char *id, const char *text)
{
	struct error *err = NULL;

	assert_null(fixture_cancel(f, id, &err));
	assert_int_equal(err->code, ERR_STATE);
	assert_non_null(strstr(err->text, text));
	error_free(err);
}

void fixture_until(struct fixture *f, const char *id, Control__V1__State state)
{
	Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
	struct rpc_call *call = rpc_open(f->peer, &control_logs, DEADLINE_MS, NULL);
	ProtobufCMessage *message;
	bool reached = false;

	assert_non_null(call);
	request.id = (char *)(uintptr_t)id;
	request.has_follow = request.follow = true;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	assert_int_equal(rpc_close_send(call, NULL), 0);
	while (!reached && rpc_recv(call, DEADLINE_MS, &message, NULL) == 1) {
		const Control__V1__LogsReply *reply = (Control__V1__LogsReply *)message;

		reached = reply->has_state && reply->state == state;
		rpc_message_free(message);
	}
	rpc_close(call);
	assert_true(reached);
}

void fixture_expect(struct fixture *f, const char *id, Job__V1__Outcome outcome)
{
	struct error *err = NULL;
	Control__V1__JobInfo *info = fixture_wait(f, id, DEADLINE_MS, &err);

	if (!info)
		fail_msg("wait: %s", err->text);
	assert_int_equal(info->state, CONTROL__V1__STATE__FINISHED);
	assert_int_equal(info->outcome, outcome);
	rpc_message_free(&info->base);
}
