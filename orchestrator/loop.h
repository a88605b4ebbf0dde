/* The daemon's loop: one thread that owns the daemon's state, and the ways in from other threads.
 *
 * What is posted runs on the loop's thread, one at a time, in the order of posting; so a function
 * that runs there may touch all of the daemon's state, and must not block.
 */
#pragma once

#include "common/util.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h> /* behind util.h: both define MIN */

struct loop;
struct loop_timer;

typedef void (*loop_fn)(void *arg);

struct loop *loop_new(void);
/* After loop_run() returned: run what was posted and did not run any more. */
void loop_drain(struct loop *loop);
/* Drains, and lets libuv's handles that were closed go. */
void loop_free(struct loop *loop);
/* On the calling thread, which is the loop's from now on, until loop_stop(). */
void loop_run(struct loop *loop);
/* From any thread: what was posted before still runs. */
void loop_stop(struct loop *loop);

/* From any thread, the loop's too: run fn(arg) on the loop, later. */
void loop_post(struct loop *loop, loop_fn fn, void *arg);
/* From any other thread: the same, and wait until it ran. */
void loop_call(struct loop *loop, loop_fn fn, void *arg);

/* From any other thread: run fn(arg) here, if no function of the loop's runs just now. It only
 * looks at the daemon's state, posts nothing and makes no timers. False: it was not run. */
bool loop_try_look(struct loop *loop, loop_fn fn, void *arg);

/* On the loop's thread only: fn(arg) after delay_ms, and again every repeat_ms if that is not 0. */
struct loop_timer *loop_timer_start(
	struct loop *loop, uint64_t delay_ms, uint64_t repeat_ms, loop_fn fn, void *arg);
/* NULL is allowed. Also after it has run: a timer is stopped exactly once. */
void loop_timer_stop(struct loop_timer *timer);

/* For handles of libuv's own (signals, sockets), made and closed on the loop's thread. */
uv_loop_t *loop_uv(struct loop *loop);

/* A thing that one thread waits for and another says once. */
struct latch {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool open;
};
void latch_init(struct latch *latch);
void latch_open(struct latch *latch);
/* Waits, and destroys the latch. */
void latch_wait(struct latch *latch);
