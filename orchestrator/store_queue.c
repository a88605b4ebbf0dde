#include "orchestrator/store_queue.h"

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/ballast.h"

/* In one transaction at most, so that the first of very many is not told too late. */
#define BATCH 512

struct operation {
	struct operation *next;
	struct store_queue *queue;
	store_fn fn;
	store_done done;
	void *arg;
	size_t weight;	      /* how many it counts for in a batch */
	bool here;	      /* done is told on this thread */
	struct error *error;  /* owned: how it went */
	struct latch *waiter; /* of a call, instead of done */
};

struct store_queue {
	struct store *store;
	struct loop *loop;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct operation *first, **last; /* under lock */
	bool stop;			 /* under lock */
};

/* Wait for operations and take a batch of them; NULL: the end. */
static struct operation *take(struct store_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	while (!queue->first && !queue->stop)
		pthread_cond_wait(&queue->cond, &queue->lock);
	struct operation *batch = queue->first, **end = &queue->first;
	for (size_t n = 0; *end && n < BATCH; end = &(*end)->next)
		n += (*end)->weight;
	queue->first = *end;
	if (!queue->first)
		queue->last = &queue->first;
	*end = NULL;
	pthread_mutex_unlock(&queue->lock);
	return batch;
}

/* The transaction is lost: nothing in it was done, whatever each was told. */
static void fail_all(struct operation *batch, const struct error *cause)
{
	for (struct operation *op = batch; op; op = op->next) {
		error_free(steal_ptr(op->error));
		error_set(&op->error, cause->code, "%s", cause->text);
	}
}

static int run_batch(struct store *store, struct operation *batch, struct error **err)
{
	if (store->ops->begin(store, err) < 0)
		return -1;
	FAILPOINT("store.begun");
	for (struct operation *op = batch; op; op = op->next) {
		if (op->fn(store, op->arg, &op->error) == 0 || store->ops->in_transaction(store))
			continue;
		return error_set(err, op->error->code, "%s", op->error->text);
	}
	FAILPOINT("store.operations");
	int r = store->ops->commit(store, err);
	FAILPOINT("store.committed");
	return r;
}

static void tell(void *arg)
{
	struct operation *op = arg;

	FAILPOINT("store.told");
	op->done(op->arg, op->error);
	free(op);
}

static void finish(struct operation *op)
{
	if (op->waiter) {
		latch_open(op->waiter); /* op is on the waiter's stack: it is gone now */
		return;
	}
	if (op->done && op->here) {
		tell(op);
		return;
	}
	if (op->done) {
		loop_post(op->queue->loop, tell, op);
		return;
	}
	if (op->error)
		log_error("store", "%s", op->error->text);
	error_free(op->error);
	free(op);
}

static void *run_thread(void *arg)
{
	struct store_queue *queue = arg;
	struct operation *batch;

	while ((batch = take(queue))) {
		_cleanup_error_ struct error *err = NULL;

		if (run_batch(queue->store, batch, &err) < 0) {
			queue->store->ops->rollback(queue->store);
			/* What must not be lost comes again (jobs_run.c), and finds room. */
			if (err->code == ERR_LIMIT)
				ballast_give();
			fail_all(batch, err);
		}
		while (batch) {
			struct operation *op = batch;

			batch = batch->next;
			finish(op);
		}
	}
	return NULL;
}

struct store_queue *store_queue_new(struct store *store, struct loop *loop, struct error **err)
{
	struct store_queue *queue = xcalloc(1, sizeof(*queue));

	queue->store = store;
	queue->loop = loop;
	queue->last = &queue->first;
	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->cond, NULL);
	int errnum = pthread_create(&queue->thread, NULL, run_thread, queue);
	if (errnum == 0)
		return queue;
	error_errno(err, errnum, "no thread for the store");
	pthread_cond_destroy(&queue->cond);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
	return NULL;
}

void store_queue_free(struct store_queue *queue)
{
	if (!queue)
		return;
	pthread_mutex_lock(&queue->lock);
	queue->stop = true;
	pthread_cond_signal(&queue->cond);
	pthread_mutex_unlock(&queue->lock);
	pthread_join(queue->thread, NULL);
	pthread_cond_destroy(&queue->cond);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
}

static void append(struct store_queue *queue, struct operation *op)
{
	pthread_mutex_lock(&queue->lock);
	*queue->last = op;
	queue->last = &op->next;
	pthread_cond_signal(&queue->cond);
	pthread_mutex_unlock(&queue->lock);
}

static void post(struct store_queue *queue, const struct operation *op)
{
	struct operation *own = xmalloc(sizeof(*own));

	*own = *op;
	own->queue = queue;
	append(queue, own);
}

void store_queue_post(struct store_queue *queue, store_fn fn, store_done done, void *arg)
{
	post(queue, &(struct operation){.fn = fn, .done = done, .arg = arg, .weight = 1});
}

void store_queue_post_direct(
	struct store_queue *queue, size_t n, store_fn fn, store_done done, void *arg)
{
	post(queue, &(struct operation){.fn = fn,
			    .done = done,
			    .arg = arg,
			    .weight = MAX(n, (size_t)1),
			    .here = true});
}

int store_queue_call(struct store_queue *queue, store_fn fn, void *arg, struct error **err)
{
	struct latch done;
	struct operation op = {.queue = queue, .fn = fn, .arg = arg, .weight = 1, .waiter = &done};

	latch_init(&done);
	append(queue, &op);
	latch_wait(&done);
	return op.error ? error_move(err, op.error) : 0;
}
