#include "orchestrator/loop.h"

#include "common/util.h"

struct posted {
	struct posted *next;
	loop_fn fn;
	void *arg;
};

struct loop {
	uv_loop_t uv;
	uv_async_t wake; /* says: look at the list, or at stop */
	pthread_mutex_t lock;
	struct posted *first, **last; /* under lock */
	bool stop;		      /* under lock */
	pthread_mutex_t running;      /* held while a function runs; taken before all others */
};

struct loop_timer {
	uv_timer_t uv;
	struct loop *loop;
	loop_fn fn;
	void *arg;
};

static void run(struct loop *loop, loop_fn fn, void *arg)
{
	pthread_mutex_lock(&loop->running);
	fn(arg);
	pthread_mutex_unlock(&loop->running);
}

bool loop_try_look(struct loop *loop, loop_fn fn, void *arg)
{
	if (pthread_mutex_trylock(&loop->running) != 0)
		return false;
	fn(arg);
	pthread_mutex_unlock(&loop->running);
	return true;
}

static struct posted *take_all(struct loop *loop, bool *ret_stop)
{
	pthread_mutex_lock(&loop->lock);
	struct posted *all = loop->first;
	loop->first = NULL;
	loop->last = &loop->first;
	*ret_stop = loop->stop;
	pthread_mutex_unlock(&loop->lock);
	return all;
}

static void run_all(struct loop *loop, struct posted *all)
{
	while (all) {
		struct posted *posted = all;

		all = all->next;
		run(loop, posted->fn, posted->arg);
		free(posted);
	}
}

static void on_wake(uv_async_t *wake)
{
	struct loop *loop = wake->data;
	bool stop;

	run_all(loop, take_all(loop, &stop));
	if (stop)
		uv_stop(&loop->uv);
}

struct loop *loop_new(void)
{
	struct loop *loop = xcalloc(1, sizeof(*loop));

	pthread_mutex_init(&loop->lock, NULL);
	pthread_mutex_init(&loop->running, NULL);
	loop->last = &loop->first;
	/* Both fail only where no file descriptors are left, before anything was begun. */
	if (uv_loop_init(&loop->uv) < 0 || uv_async_init(&loop->uv, &loop->wake, on_wake) < 0)
		abort();
	loop->wake.data = loop;
	return loop;
}

void loop_drain(struct loop *loop)
{
	struct posted *left;
	bool stop;

	while ((left = take_all(loop, &stop)))
		run_all(loop, left);
}

void loop_free(struct loop *loop)
{
	loop_drain(loop);
	uv_close((uv_handle_t *)&loop->wake, NULL);
	uv_run(&loop->uv, UV_RUN_DEFAULT); /* closing handles are closed here */
	uv_loop_close(&loop->uv);
	pthread_mutex_destroy(&loop->running);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

void loop_run(struct loop *loop)
{
	uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->stop = true;
	pthread_mutex_unlock(&loop->lock);
	uv_async_send(&loop->wake);
}

void loop_post(struct loop *loop, loop_fn fn, void *arg)
{
	struct posted *posted = xmalloc(sizeof(*posted));

	*posted = (struct posted){.fn = fn, .arg = arg};
	pthread_mutex_lock(&loop->lock);
	*loop->last = posted;
	loop->last = &posted->next;
	pthread_mutex_unlock(&loop->lock);
	uv_async_send(&loop->wake);
}

struct call {
	loop_fn fn;
	void *arg;
	struct latch done;
};

static void run_call(void *arg)
{
	struct call *call = arg;

	call->fn(call->arg);
	latch_open(&call->done);
}

void loop_call(struct loop *loop, loop_fn fn, void *arg)
{
	struct call call = {.fn = fn, .arg = arg};

	latch_init(&call.done);
	loop_post(loop, run_call, &call);
	latch_wait(&call.done);
}

static void on_timer(uv_timer_t *uv)
{
	struct loop_timer *timer = uv->data;

	run(timer->loop, timer->fn, timer->arg);
}

struct loop_timer *loop_timer_start(
	struct loop *loop, uint64_t delay_ms, uint64_t repeat_ms, loop_fn fn, void *arg)
{
	struct loop_timer *timer = xcalloc(1, sizeof(*timer));

	timer->loop = loop;
	timer->fn = fn;
	timer->arg = arg;
	timer->uv.data = timer;
	uv_timer_init(&loop->uv, &timer->uv);
	/* uv's clock stands still while a function runs. */
	uv_update_time(&loop->uv);
	uv_timer_start(&timer->uv, on_timer, delay_ms, repeat_ms);
	return timer;
}

static void on_timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void loop_timer_stop(struct loop_timer *timer)
{
	if (timer)
		uv_close((uv_handle_t *)&timer->uv, on_timer_closed);
}

uv_loop_t *loop_uv(struct loop *loop)
{
	return &loop->uv;
}

void latch_init(struct latch *latch)
{
	pthread_mutex_init(&latch->lock, NULL);
	pthread_cond_init(&latch->cond, NULL);
	latch->open = false;
}

void latch_open(struct latch *latch)
{
	/* Signalled under the lock: once it is released, the latch may be gone. */
	pthread_mutex_lock(&latch->lock);
	latch->open = true;
	pthread_cond_signal(&latch->cond);
	pthread_mutex_unlock(&latch->lock);
}

void latch_wait(struct latch *latch)
{
	pthread_mutex_lock(&latch->lock);
	while (!latch->open)
		pthread_cond_wait(&latch->cond, &latch->lock);
	pthread_mutex_unlock(&latch->lock);
	pthread_cond_destroy(&latch->cond);
	pthread_mutex_destroy(&latch->lock);
}
