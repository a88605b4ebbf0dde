/* Durable operations in a second: the disk's floor, the store behind its queue, the control socket
 * (store_bench_socket.c) and PostgreSQL (store_bench_pg.c), in one run on one file system. */
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
#include "orchestrator/store_queue.h"
#include "tests/unit/control_fixture.h"
#include "tests/unit/fake_attempt.h"

pid_t daemon_pid;

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

static pthread_barrier_t ready;

void wait_for_start(void)
{
	pthread_barrier_wait(&ready);
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

	pthread_barrier_init(&ready, NULL, (unsigned)threads + 1);
	for (size_t i = 0; i < threads; i++) {
		all[i] = (struct thread){.fn = fn, .arg = arg, .i = i};
		pthread_create(&all[i].id, NULL, run_thread, &all[i]);
	}
	wait_for_start();
	double began = now_s();
	for (size_t i = 0; i < threads; i++)
		pthread_join(all[i].id, NULL);
	double seconds = now_s() - began;
	pthread_barrier_destroy(&ready);
	return seconds;
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

Job__V1__Spec *make_spec(void)
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

	wait_for_start();
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

static bool wanted(const char *part, const char *only)
{
	return str_eq(only, "all") || str_eq(only, part);
}

/* store_bench N DIR all|disk|store|socket|postgresql [POSTGRES-SOCKET-DIR] */
int main(int argc, char **argv)
{
	fixture_daemon_main(argc, argv);
	client_main(argc, argv);
	if (argc < 4)
		die("usage", "store_bench N DIR all|disk|store|socket|postgresql "
			     "[POSTGRES-SOCKET-DIR]");
	size_t n = strtoul(argv[1], NULL, 10);
	const char *only = argv[3];
	rpc_init();
	if (wanted("disk", only))
		bench_floor(argv[2]);
	if (wanted("store", only))
		bench_store(argv[2], n);
	if (wanted("socket", only))
		bench_socket(n);
	if (argc > 4 && wanted("postgresql", only))
		bench_postgres(argv[4], n);
	rpc_quit();
	return 0;
}
