/* A call that has no deadline of its own, made on a thread of its own: who waits for it may stop
 * waiting, and the thread is left to itself.
 *
 * What the call works with is passed in one piece, arg. It is the thread's from bounded_start() on.
 * When the call has returned while somebody waited, it is the waiting one's again; when he has
 * left, late(arg) is called instead, on the thread: it undoes what nobody wants any more, and frees
 * arg. So arg must hold all that run() and late() use, by references of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct bounded;

/* No more than so many may be left to themselves at a time. */
#define BOUNDED_LEFT_MAX 256

/* NULL: no thread can be had, or too many have been left; nothing was called, arg is the caller's.
 */
struct bounded *bounded_start(
	void (*run)(void *arg), void (*late)(void *arg), void *arg, struct error **err);

enum bounded_answer {
	BOUNDED_RETURNED,  /* the call has; the handle is no more */
	BOUNDED_TIMEOUT,   /* it has not until end_usec (now_mono_usec) */
	BOUNDED_CANCELLED, /* nor until cancel_fd was readable, */
	BOUNDED_PROGRESS,  /* or progress_fd; either may be -1 */
};
enum bounded_answer bounded_wait(
	struct bounded *bounded, uint64_t end_usec, int cancel_fd, int progress_fd);

/* Readable when the call has returned. */
int bounded_fd(const struct bounded *bounded);

/* Wait no more: the handle is given up, and arg with it. False: it has just returned, and all is as
 * after BOUNDED_RETURNED. */
bool bounded_leave(struct bounded *bounded);

/* How many were left and have not returned. */
unsigned bounded_left(void);
