/* Who polls the completion queue: one thread at a time, which runs what completes.
 *
 * Mostly that is the poller, a thread of its own, and who waits for a completion is woken by it.
 * But to wake a thread takes as long as half a small call. So in a process that serves no calls, a
 * thread that makes a unary one polls itself until its answer is here, if nobody else does. For
 * that the poller keeps away from the queue a little after each turn of anybody's, so that the next
 * call of a burst finds it free; the first finds the poller in it, and is woken.
 *
 *	FREE     nobody polls. The poller comes at once if somebody waits for a completion or the
 *	         process serves calls, else when it has been so for PAUSE_USEC
 *	POLLER   until a completion has come and has been run
 *	CALLER   until that caller has its own; whoever else waits meanwhile is woken by it
 *
 * While CALLER lasts the poller looks in every PAUSE_USEC, and when it finds the same turn twice it
 * sleeps: only then need the caller wake it at the end.
 */
#include <time.h>

#include "common/log.h"
#include "common/rpc_internal.h"
#include "common/util.h"

#define PAUSE_USEC 50000

static struct {
	pthread_mutex_t lock; /* the last to be taken; not held while an op runs */
	pthread_cond_t poller_wakes;
	enum { FREE, POLLER, CALLER } state;
	uint64_t turn;	  /* counts callers' turns */
	unsigned waiting; /* threads that are woken by who polls */
	unsigned servers;
	bool sleeping; /* the poller, until it is woken */
	bool stopping;
} polls = {.lock = PTHREAD_MUTEX_INITIALIZER};

static grpc_completion_queue *queue;
static pthread_t poller;

grpc_completion_queue *rpc_queue(void)
{
	return queue;
}

/* Under the lock. */
static bool must_poll(void)
{
	return polls.waiting || polls.servers || polls.stopping;
}

/* Under the lock. */
static void wake_poller(void)
{
	if (polls.state == FREE && (polls.sleeping || must_poll()))
		pthread_cond_signal(&polls.poller_wakes);
}

/* False when it has been woken. Under the lock. */
static bool pause_passes(void)
{
	uint64_t until = now_mono_usec() + PAUSE_USEC;
	const struct timespec ts = {
		.tv_sec = (time_t)(until / 1000000), .tv_nsec = (long)(until % 1000000) * 1000};

	return pthread_cond_timedwait(&polls.poller_wakes, &polls.lock, &ts) != 0;
}

/* Until it is the poller's turn. Under the lock. */
static void await_turn(void)
{
	uint64_t seen = polls.turn;

	while (polls.state != FREE || !must_poll()) {
		bool passed = pause_passes(), same = seen == polls.turn;

		seen = polls.turn;
		if (!passed || !same)
			continue;
		if (polls.state == FREE)
			return;
		polls.sleeping = true;
		pthread_cond_wait(&polls.poller_wakes, &polls.lock);
		polls.sleeping = false;
	}
}

static void run_op(const grpc_event *event)
{
	struct rpc_op *op = event->tag;

	rpc_op_take_over(op);
	op->done(op, event->success);
}

static grpc_event next_event(void)
{
	return grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
}

static void *poll_queue(void *arg)
{
	(void)arg;
	for (;;) {
		pthread_mutex_lock(&polls.lock);
		await_turn();
		polls.state = POLLER;
		pthread_mutex_unlock(&polls.lock);
		grpc_event event = next_event();
		/* Before another polls: what that one waits for may be this. */
		if (event.type != GRPC_QUEUE_SHUTDOWN)
			run_op(&event);
		pthread_mutex_lock(&polls.lock);
		polls.state = FREE;
		pthread_mutex_unlock(&polls.lock);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
	}
}

/* Under no lock. */
static bool take_turn(void)
{
	pthread_mutex_lock(&polls.lock);
	bool mine = polls.state == FREE && !polls.servers && !polls.stopping;
	if (mine) {
		polls.state = CALLER;
		polls.turn++;
	}
	pthread_mutex_unlock(&polls.lock);
	return mine;
}

static void end_turn(void)
{
	pthread_mutex_lock(&polls.lock);
	polls.state = FREE;
	wake_poller();
	pthread_mutex_unlock(&polls.lock);
}

static bool all_done(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	bool done = call->pending == 0;
	pthread_mutex_unlock(&call->lock);
	return done;
}

void rpc_poll_for(struct rpc_call *call)
{
	if (take_turn()) {
		while (!all_done(call)) {
			grpc_event event = next_event();
			run_op(&event);
		}
		end_turn();
		return;
	}
	pthread_mutex_lock(&call->lock);
	while (call->pending)
		rpc_call_wait(call, 0);
	pthread_mutex_unlock(&call->lock);
}

void rpc_poll_await(void)
{
	pthread_mutex_lock(&polls.lock);
	polls.waiting++;
	wake_poller();
	pthread_mutex_unlock(&polls.lock);
}

void rpc_poll_awaited(unsigned n)
{
	pthread_mutex_lock(&polls.lock);
	polls.waiting -= n;
	pthread_mutex_unlock(&polls.lock);
}

void rpc_poll_serve(bool serve)
{
	pthread_mutex_lock(&polls.lock);
	polls.servers += serve ? 1 : -1u;
	wake_poller();
	pthread_mutex_unlock(&polls.lock);
}

void rpc_poll_start(void)
{
	queue = grpc_completion_queue_create_for_next(NULL);
	rpc_cond_init(&polls.poller_wakes);
	polls.state = FREE;
	polls.stopping = false;
	if (rpc_thread_start(&poller, 0, poll_queue, NULL) != 0) {
		log_error("rpc", "cannot start a thread");
		abort();
	}
}

void rpc_poll_stop(void)
{
	pthread_mutex_lock(&polls.lock);
	polls.stopping = true;
	wake_poller();
	pthread_mutex_unlock(&polls.lock);
	grpc_completion_queue_shutdown(queue);
	pthread_join(poller, NULL);
	pthread_cond_destroy(&polls.poller_wakes);
	grpc_completion_queue_destroy(queue);
	queue = NULL;
}
