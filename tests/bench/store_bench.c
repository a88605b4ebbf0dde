/* Durable operations in a second: the disk's floor, the store behind its queue, the control socket,
 * and PostgreSQL, in one run on one file system.
 *
 * The daemon is the tests' one: all of the real daemon but the VMs. Its only slot is held by a job
 * that does not end, so that what is submitted stays queued. */
#include "tests/bench/store_bench.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <semaphore.h>
#include <signal.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "orchestrator/store_queue.h"
#include "tests/unit/control_fixture.h"
#include "tests/unit/fake_attempt.h"

#define WINDOW	      64
#define STREAM_WINDOW 256
#define STREAM_BATCH  64

static pid_t daemon_pid; /* not to be left behind */

void die(const char *what, const char *why)
{
	if (daemon_pid > 0)
		kill(daemon_pid, SIGKILL);
	fprintf(stderr, "store_bench: %s: %s\n", what, why);
	exit(1);
}

void report(const char *what, size_t n, double seconds)
{
	printf("%-52s %9.0f /s\n", what, (double)n / seconds);
	fflush(stdout);
}

struct thread {
	pthread_t id;
	void (*fn)(void *arg, size_t i);
	void *arg;
	size_t i;
};

static void *run_thread(void *arg)
{
	struct thread *t = arg;

	t->fn(t->arg, t->i);
	return NULL;
}

double on_threads(size_t threads, void (*fn)(void *arg, size_t i), void *arg)
{
	struct thread all[256];
	double began = now_s();

	for (size_t i = 0; i < threads; i++) {
		all[i] = (struct thread){.fn = fn, .arg = arg, .i = i};
		pthread_create(&all[i].id, NULL, run_thread, &all[i]);
	}
	for (size_t i = 0; i < threads; i++)
		pthread_join(all[i].id, NULL);
	return now_s() - began;
}

/* --- the disk -------------------------------------------------------------------------------- */

static void bench_floor(const char *dir)
{
	_cleanup_free_ char *path = str_printf("%s/floor", dir);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND, 0600);
	char block[4096] = {0};
	size_t n = 1000;
	double began = now_s();

	for (size_t i = 0; i < n; i++) {
		if (write(fd, block, sizeof(block)) < 0 || fdatasync(fd) < 0)
			die(path, "cannot write");
	}
	report("disk: append of 4 KiB and fdatasync", n, now_s() - began);
	/* What a log does that is written over: PostgreSQL's, and SQLite's after its first round.
	 */
	_cleanup_close_ int again = open(path, O_WRONLY | O_CLOEXEC);
	began = now_s();
	for (size_t i = 0; i < n; i++) {
		if (write(again, block, sizeof(block)) < 0 || fdatasync(again) < 0)
			die(path, "cannot write");
	}
	report("disk: 4 KiB written over, and fdatasync", n, now_s() - began);
}

/* --- the store ------------------------------------------------------------------------------- */

static Job__V1__Spec *make_spec(void)
{
	Job__V1__Spec *spec = xmalloc(sizeof(*spec));

	job__v1__spec__init(spec);
	spec->image = xstrdup(FAKE_IMAGE);
	spec->script = xcalloc(1, SPEC_BYTES + 1);
	memset(spec->script, 'x', SPEC_BYTES);
	return spec;
}

static struct job_record *make_record(void)
{
	struct job_record *record = job_record_new();

	job_id_make(now_real_usec(), record->id);
	record->state = JOB_QUEUED;
	record->spec = make_spec();
	record->share = xstrdup("uid:0");
	record->result.times[STAGE_SUBMITTED] = now_real_usec();
	return record;
}

struct store_bench {
	struct store_queue *queue;
	size_t each;
	bool claim;
	struct job_record **records; /* those of the claims */
	sem_t room;
};

static int store_op(struct store *store, void *arg, struct error **err)
{
	struct job_record *record = arg;
	char other[JOB_ID_SIZE];

	if (record->state == JOB_STARTING)
		return store->ops->claim(store, record, err);
	return store->ops->submit(store, record, other, err);
}

struct posted {
	struct store_bench *bench;
	struct job_record *record;
};

static int store_posted(struct store *store, void *arg, struct error **err)
{
	return store_op(store, ((struct posted *)arg)->record, err);
}

static void posted_done(void *arg, struct error *error)
{
	struct posted *posted = arg;

	if (error)
		die("store", error->text);
	sem_post(&posted->bench->room);
	job_record_free(posted->record);
	free(posted);
}

static void submit_pipelined(struct store_bench *b)
{
	sem_init(&b->room, 0, WINDOW);
	for (size_t i = 0; i < b->each; i++) {
		struct posted *posted = xmalloc(sizeof(*posted));

		*posted = (struct posted){b, make_record()};
		sem_wait(&b->room);
		store_queue_post(b->queue, store_posted, posted_done, posted);
	}
	for (size_t i = 0; i < WINDOW; i++)
		sem_wait(&b->room);
}

static void call_blocking(void *arg, size_t client)
{
	struct store_bench *b = arg;

	for (size_t i = 0; i < b->each; i++) {
		struct error *err = NULL;
		struct job_record *record =
			b->claim ? b->records[client * b->each + i] : make_record();

		if (b->claim) {
			record->state = JOB_STARTING;
			record->epoch++;
		}
		if (store_queue_call(b->queue, store_op, record, &err) < 0)
			die("store", err->text);
		if (b->records && !b->claim)
			b->records[client * b->each + i] = record;
		else
			job_record_free(record);
	}
}

static void *run_loop(void *loop)
{
	loop_run(loop);
	return NULL;
}

static void bench_store(const char *dir, size_t n)
{
	_cleanup_free_ char *path = str_printf("%s/bench.db", dir);
	struct error *err = NULL;
	struct store *store = store_sqlite_open(path, &err);
	pthread_t thread;

	if (!store)
		die(path, err->text);
	struct loop *loop = loop_new();
	pthread_create(&thread, NULL, run_loop, loop);
	struct store_bench b = {.queue = store_queue_new(store, loop, NULL), .each = n};
	double began = now_s();
	submit_pipelined(&b);
	report("store: submit, 1 client, 64 on their way", n, now_s() - began);
	b.each = n / 10;
	report("store: submit, 1 client, one by one", b.each, on_threads(1, call_blocking, &b));
	b.each = n / CLIENTS;
	b.records = xcalloc(n, sizeof(struct job_record *));
	report("store: submit, 50 clients", b.each * CLIENTS,
		on_threads(CLIENTS, call_blocking, &b));
	b.claim = true;
	report("store: claim, 50 clients", b.each * CLIENTS,
		on_threads(CLIENTS, call_blocking, &b));
	free(b.records);
	store_queue_free(b.queue);
	loop_stop(loop);
	pthread_join(thread, NULL);
	loop_free(loop);
	store->ops->close(store);
}

/* --- the control socket ---------------------------------------------------------------------- */

struct socket_bench {
	struct fixture *fixture;
	struct rpc_peer *shared; /* NULL: each thread connects itself */
	Job__V1__Spec *spec;
	size_t each;
	size_t batch; /* jobs in a message of a stream */
};

static void submit_calls(void *arg, size_t client)
{
	struct socket_bench *b = arg;
	struct rpc_peer *peer = b->shared ? b->shared : fixture_connect(b->fixture);
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;

	(void)client;
	request.spec = b->spec;
	for (size_t i = 0; i < b->each; i++) {
		struct error *err = NULL;
		ProtobufCMessage *reply = NULL;
		struct rpc_call *call = rpc_open(peer, &control_submit, 60000, &err);

		if (!call || rpc_send(call, &request.base, &err) < 0 ||
			rpc_close_send(call, &err) < 0 || rpc_recv(call, 60000, &reply, &err) != 1)
			die("submit", err ? err->text : "no answer");
		rpc_message_free(reply);
		rpc_close(call);
	}
	if (!b->shared)
		rpc_peer_free(peer);
}

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

static void bench_streams(struct socket_bench *b, size_t n)
{
	b->batch = 1;
	b->each = n;
	report("socket: stream, 1 client, a job a message", n, on_threads(1, submit_streamed, b));
	b->batch = STREAM_BATCH;
	b->each = 2 * n;
	report("socket: stream, 1 client", b->each, on_threads(1, submit_streamed, b));
	b->each = 2 * n / CLIENTS;
	report("socket: stream, 50 clients", b->each * CLIENTS,
		on_threads(CLIENTS, submit_streamed, b));
}

static void bench_socket(size_t n)
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

	struct socket_bench b = {.fixture = f, .spec = make_spec()};
	b.each = n / 10;
	b.shared = f->peer;
	report("socket: submit, 1 client, one by one", b.each, on_threads(1, submit_calls, &b));
	b.each = n / WINDOW;
	report("socket: submit, 1 client, 64 calls on their way", b.each * WINDOW,
		on_threads(WINDOW, submit_calls, &b));
	b.each = n / CLIENTS;
	b.shared = NULL;
	report("socket: submit, 50 clients", b.each * CLIENTS,
		on_threads(CLIENTS, submit_calls, &b));
	bench_streams(&b, n);
	job__v1__spec__free_unpacked(b.spec, NULL);
	fixture_teardown(&state);
	daemon_pid = 0;
}

/* store_bench N DIR [POSTGRES-SOCKET-DIR] */
int main(int argc, char **argv)
{
	fixture_daemon_main(argc, argv);
	if (argc < 3)
		die("usage", "store_bench N DIR [POSTGRES-SOCKET-DIR]");
	size_t n = strtoul(argv[1], NULL, 10);
	rpc_init();
	bench_floor(argv[2]);
	bench_store(argv[2], n);
	bench_socket(n);
	if (argc > 3)
		bench_postgres(argv[3], n);
	rpc_quit();
	return 0;
}
