/* The store's thread, which makes all calls of the store, and the queue before it.
 *
 * Group commit: whatever waits when the thread looks is done in one transaction, so that the price
 * of a commit - the disk's - is shared by all that came meanwhile. Nobody is told before the
 * commit; those of one batch are told in their order. Posted functions are told on the loop, so
 * that what is posted to the loop afterwards sees the effect of all of them; those that only pass
 * it on are told directly.
 */
#pragma once

#include "orchestrator/loop.h"
#include "orchestrator/store.h"

struct store_queue;

/* On the store's thread, within a transaction. -1 with *err if this one operation failed. */
typedef int (*store_fn)(struct store *store, void *arg, struct error **err);
/* On the loop, mostly; error is NULL when the operation is committed, else it is the callee's. */
typedef void (*store_done)(void *arg, struct error *error);

/* Both are borrowed until store_queue_free(). */
struct store_queue *store_queue_new(struct store *store, struct loop *loop, struct error **err);
/* Does what still waits, then ends the thread. */
void store_queue_free(struct store_queue *queue);

/* From any thread. done may be NULL: then a failure is logged. */
void store_queue_post(struct store_queue *queue, store_fn fn, store_done done, void *arg);
/* The same for a function that does the work of n operations, and done, which is not NULL, is told
 * on the store's thread itself, at once behind the commit: what it posts to the loop is there
 * before anybody can know of the commit. It does not wait, and makes no calls of the store. */
void store_queue_post_direct(
	struct store_queue *queue, size_t n, store_fn fn, store_done done, void *arg);
/* From any thread but the loop's and the store's: wait for it. */
int store_queue_call(struct store_queue *queue, store_fn fn, void *arg, struct error **err);
