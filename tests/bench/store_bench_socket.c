/* Submits through the control socket: a call for each job, and streams of them.
 *
 * The daemon is the tests' one: all of the real daemon but the VMs. Its only slot is held by a job
 * that does not end, so that what is submitted stays queued. Clients that make a call for each job
 * and wait for it are processes, as commands are, but for one row: there they are threads of one.
 */
#include "tests/bench/store_bench.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <cmocka.h>
#include <signal.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "tests/unit/control_fixture.h"

#define STREAM_WINDOW 256
#define STREAM_BATCH  64
#define CALL_MS	      60000

/* What a client's process has of its parent. */
#define FD_GO 3 /* ends when all may begin */
#define FD_SAYS                                                                                    \
	4 /* a double when it is connected, and the seconds of processor time at the end           \
	   */

struct socket_bench {
	struct fixture *fixture;
	Job__V1__Spec *spec;
	const char *job; /* the one that runs */
	size_t each;
	size_t batch; /* jobs in a message of a stream */
};

static double cpu_of(pid_t pid)
{
	struct timespec t = {0};
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) < 0)
		die("clock", "no processor time of a process");
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* client_cpu < 0: unknown. */
static void report_socket(
	const char *what, size_t n, double seconds, double daemon_cpu, double client_cpu)
{
	printf("%-52s %9.0f /s %7.1f us of the daemon's", what, (double)n / seconds,
		daemon_cpu * 1e6 / (double)n);
	if (client_cpu >= 0)
		printf(", %.1f of the clients'", client_cpu * 1e6 / (double)n);
	printf("\n");
	fflush(stdout);
}

/* --- a call for each job --------------------------------------------------------------------- */

static void call_often(struct rpc_peer *peer, const struct rpc_method *method,
	const ProtobufCMessage *request, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct error *err = NULL;
		ProtobufCMessage *reply = NULL;

		if (rpc_unary(peer, method, request, CALL_MS, &reply, &err) < 0)
			die(method->path, err->text);
		rpc_message_free(reply);
	}
}

static void submit_calls(struct rpc_peer *peer, Job__V1__Spec *spec, size_t n)
{
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;

	request.spec = spec;
	call_often(peer, &control_submit, &request.base, n);
}

/* what: submit, info, or the id of a job that is asked for. */
static void make_calls(struct rpc_peer *peer, Job__V1__Spec *spec, char *what, size_t n)
{
	Control__V1__InfoRequest info = CONTROL__V1__INFO_REQUEST__INIT;
	Control__V1__JobRequest get = CONTROL__V1__JOB_REQUEST__INIT;

	get.id = what;
	if (str_eq(what, "submit"))
		submit_calls(peer, spec, n);
	else if (str_eq(what, "info"))
		call_often(peer, &control_info, &info.base, n);
	else
		call_often(peer, &control_get_job, &get.base, n);
}

/* store_bench client DIR WHAT EACH */
void client_main(int argc, char **argv)
{
	struct fixture fixture = {.daemon = 0};
	double cpu = 0;
	char c;

	if (argc != 5 || strcmp(argv[1], "client") != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(fixture.dir, sizeof(fixture.dir), "%s", argv[2]);
	rpc_init();
	struct rpc_peer *peer = fixture_connect(&fixture);
	Job__V1__Spec *spec = make_spec();
	make_calls(peer, spec, argv[3], 1);
	if (write(FD_SAYS, &cpu, sizeof(cpu)) < 0 || read(FD_GO, &c, 1) < 0)
		die("client", "the parent is gone");
	double before = cpu_of(getpid());
	make_calls(peer, spec, argv[3], strtoul(argv[4], NULL, 10));
	cpu = cpu_of(getpid()) - before;
	if (write(FD_SAYS, &cpu, sizeof(cpu)) < 0)
		die("client", "the parent is gone");
	_exit(0);
}

static pid_t start_client(const struct socket_bench *b, const char *call, int go, int says)
{
	_cleanup_free_ char *each = str_printf("%zu", b->each);
	pid_t pid = fork();

	if (pid < 0)
		die("client", "no process");
	if (pid > 0)
		return pid;
	/* Above both, so that neither is overwritten by the other. */
	go = fcntl(go, F_DUPFD_CLOEXEC, 10);
	says = fcntl(says, F_DUPFD_CLOEXEC, 10);
	dup2(go, FD_GO);
	dup2(says, FD_SAYS);
	execl("/proc/self/exe", "store_bench", "client", b->fixture->dir, call, each, NULL);
	_exit(99);
}

static double hear_all(int fd, size_t n)
{
	double sum = 0, one;

	for (size_t i = 0; i < n; i++) {
		if (read(fd, &one, sizeof(one)) != sizeof(one))
			die("client", "it is gone");
		sum += one;
	}
	return sum;
}

static void bench_processes(struct socket_bench *b, size_t n, const char *call, const char *what)
{
	_cleanup_free_ pid_t *pids = xcalloc(n, sizeof(*pids));
	int go[2], says[2];

	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(says, O_CLOEXEC) < 0)
		die("client", "no pipe");
	for (size_t i = 0; i < n; i++)
		pids[i] = start_client(b, call, go[0], says[1]);
	close(go[0]);
	close(says[1]);
	hear_all(says[0], n);
	double cpu = cpu_of(daemon_pid), began = now_s();
	close(go[1]);
	double clients = hear_all(says[0], n);
	report_socket(what, b->each * n, now_s() - began, cpu_of(daemon_pid) - cpu, clients);
	for (size_t i = 0; i < n; i++)
		waitpid(pids[i], NULL, 0);
	close(says[0]);
}

static void on_thread(void *arg, size_t client)
{
	struct socket_bench *b = arg;
	struct rpc_peer *peer = fixture_connect(b->fixture);

	(void)client;
	wait_for_start();
	submit_calls(peer, b->spec, b->each);
	rpc_peer_free(peer);
}

static void take_id(struct rpc_call *call)
{
	struct error *err = NULL;
	ProtobufCMessage *reply = NULL;

	if (rpc_recv(call, CALL_MS, &reply, &err) != 1)
		die("submit", err ? err->text : "no answer");
	rpc_message_free(reply);
	rpc_close(call);
}

/* One client that does not wait for each. */
static void on_the_way(void *arg, size_t client)
{
	struct socket_bench *b = arg;
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;
	struct rpc_call *calls[WINDOW];

	(void)client;
	wait_for_start();
	request.spec = b->spec;
	for (size_t i = 0; i < b->each + WINDOW; i++) {
		struct rpc_call **place = &calls[i % WINDOW];
		struct error *err = NULL;

		if (i >= WINDOW)
			take_id(*place);
		if (i >= b->each)
			continue;
		*place = rpc_open(b->fixture->peer, &control_submit, CALL_MS, &err);
		if (!*place || rpc_send(*place, &request.base, &err) < 0 ||
			rpc_close_send(*place, &err) < 0)
			die("submit", err->text);
	}
}

/* --- streams --------------------------------------------------------------------------------- */

struct streamed {
	struct rpc_call *call;
	size_t under_way;
};

static void take_results(struct streamed *s, int wait_ms)
{
	struct error *err = NULL;
	ProtobufCMessage *message = NULL;
	int r = rpc_recv(s->call, wait_ms, &message, &err);

	if (r < 0 && err->code == ERR_TIMEOUT && wait_ms == 0) {
		error_free(err);
		return;
	}
	if (r != 1)
		die("submit", err ? err->text : "no answer");
	const Control__V1__SubmitManyReply *reply = (Control__V1__SubmitManyReply *)message;
	for (size_t i = 0; i < reply->n_results; i++) {
		if (!reply->results[i]->id)
			die("submit", reply->results[i]->error);
	}
	s->under_way -= reply->n_results;
	rpc_message_free(message);
}

/* As the command line does it: messages of STREAM_BATCH jobs, STREAM_WINDOW jobs on their way. */
static void submit_streamed(void *arg, size_t client)
{
	struct socket_bench *b = arg;
	struct rpc_peer *peer = fixture_connect(b->fixture);
	struct streamed s = {.call = rpc_open(peer, &control_submit_many, -1, NULL)};
	Control__V1__SubmitManyRequest__Job jobs[STREAM_BATCH], *pointers[STREAM_BATCH];
	Control__V1__SubmitManyRequest request = CONTROL__V1__SUBMIT_MANY_REQUEST__INIT;
	struct error *err = NULL;

	(void)client;
	wait_for_start();
	request.jobs = pointers;
	for (size_t i = 0; i < STREAM_BATCH; i++) {
		control__v1__submit_many_request__job__init(&jobs[i]);
		jobs[i].spec = b->spec;
		pointers[i] = &jobs[i];
	}
	for (size_t left = b->each; left; left -= request.n_jobs) {
		request.n_jobs = MIN(left, b->batch);
		while (s.under_way + request.n_jobs > STREAM_WINDOW)
			take_results(&s, 60000);
		if (rpc_send(s.call, &request.base, &err) < 0)
			die("submit", err->text);
		s.under_way += request.n_jobs;
		take_results(&s, 0);
	}
	rpc_close_send(s.call, NULL);
	while (s.under_way)
		take_results(&s, 60000);
	rpc_close(s.call);
	rpc_peer_free(peer);
}

static void bench_threads(
	struct socket_bench *b, size_t n, void (*fn)(void *arg, size_t i), const char *what)
{
	double cpu = cpu_of(daemon_pid), own = cpu_of(getpid());
	double seconds = on_threads(n, fn, b);

	report_socket(what, b->each * n, seconds, cpu_of(daemon_pid) - cpu, cpu_of(getpid()) - own);
}

static void bench_calls(struct socket_bench *b, size_t n)
{
	b->each = n / 10;
	bench_processes(b, 1, "info", "socket: info, 1 client, one by one");
	bench_processes(b, 1, b->job, "socket: get, 1 client, one by one");
	bench_processes(b, 1, "submit", "socket: submit, 1 client, one by one");
	b->each = n;
	bench_threads(b, 1, on_the_way, "socket: submit, 1 client, 64 calls on their way");
	b->each = n / CLIENTS;
	bench_processes(b, CLIENTS, b->job, "socket: get, 50 clients");
	bench_processes(b, CLIENTS, "submit", "socket: submit, 50 clients");
	bench_threads(b, CLIENTS, on_thread, "socket: submit, 50 clients, threads of a process");
}

static void bench_streams(struct socket_bench *b, size_t n)
{
	b->batch = 1;
	b->each = n;
	bench_threads(b, 1, submit_streamed, "socket: stream, 1 client, a job a message");
	b->batch = STREAM_BATCH;
	b->each = 2 * n;
	bench_threads(b, 1, submit_streamed, "socket: stream, 1 client");
	b->each = 2 * n / CLIENTS;
	bench_threads(b, CLIENTS, submit_streamed, "socket: stream, 50 clients");
}

void bench_socket(size_t n)
{
	struct fixture *f = NULL;
	void *state = NULL;
	char id[32];

	if (fixture_setup_stopped(&state) != 0)
		die("daemon", "no directory for it");
	f = state;
	f->config.max_vms = 1;
	_cleanup_free_ char *ready = fixture_start(f);
	if (!str_eq(ready, "ready"))
		die("daemon", ready);
	daemon_pid = f->daemon;
	fixture_submit_ok(f, id, "wait:/nonexistent", NULL);
	fixture_until(f, id, CONTROL__V1__STATE__RUNNING);

	struct socket_bench b = {.fixture = f, .spec = make_spec(), .job = id};
	bench_calls(&b, n);
	bench_streams(&b, n);
	job__v1__spec__free_unpacked(b.spec, NULL);
	fixture_teardown(&state);
	daemon_pid = 0;
}
