#include "orchestrator/retention.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/util.h"

#define EVERY_S	 60
#define BATCH	 64
#define LEAST_MS 60000 /* no job goes earlier: its VM is certainly gone then */

struct retention {
	const struct config *config;
	struct store_queue *queue;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool stop; /* under lock */
};

struct batch {
	struct store_expiry expiry;
	uint64_t retain_usec;
	struct {
		char id[JOB_ID_SIZE];
		uint64_t finished, expired;
	} jobs[BATCH];
	size_t n;
};

/* Two sweeps at once would remove the same job twice. */
static pthread_mutex_t sweeping = PTHREAD_MUTEX_INITIALIZER;

static int keep(void *arg, const struct job_record *record, struct error **err)
{
	struct batch *batch = arg;
	uint64_t finished = record->result.times[STAGE_RECORDED], ttl = batch->retain_usec;

	(void)err;
	if (record->spec->has_ttl_after_finished_ms)
		ttl = record->spec->ttl_after_finished_ms * 1000;
	memcpy(batch->jobs[batch->n].id, record->id, JOB_ID_SIZE);
	batch->jobs[batch->n].finished = finished;
	batch->jobs[batch->n].expired = finished + ttl;
	batch->n++;
	return 0;
}

static int store_expired(struct store *store, void *arg, struct error **err)
{
	struct batch *batch = arg;

	return store->ops->expired(store, &batch->expiry, keep, batch, err);
}

static int store_remove(struct store *store, void *arg, struct error **err)
{
	struct batch *batch = arg;

	for (size_t i = 0; i < batch->n; i++) {
		if (store->ops->remove(store, batch->jobs[i].id, err) < 0)
			return -1;
	}
	return 0;
}

static int remove_batch(const struct config *config, struct store_queue *queue, struct batch *batch,
	struct error **err)
{
	for (size_t i = 0; i < batch->n; i++) {
		_cleanup_free_ char *dir = config_job_dir(config, batch->jobs[i].id);

		if (remove_tree(dir, err) < 0)
			return -1;
	}
	return batch->n ? store_queue_call(queue, store_remove, batch, err) : 0;
}

static int sweep_batch(const struct config *config, struct store_queue *queue, struct batch *batch,
	bool dry_run, struct error **err)
{
	batch->n = 0;
	if (store_queue_call(queue, store_expired, batch, err) < 0)
		return -1;
	if (dry_run)
		batch->expiry.skip += (uint32_t)batch->n;
	else if (remove_batch(config, queue, batch, err) < 0)
		return -1;
	return 0;
}

static int tell(const struct batch *batch, retention_visit visit, void *arg, struct error **err)
{
	for (size_t i = 0; visit && i < batch->n; i++) {
		if (visit(arg, batch->jobs[i].id, batch->jobs[i].finished, batch->jobs[i].expired,
			    err) < 0)
			return -1;
	}
	return 0;
}

int retention_sweep(const struct config *config, struct store_queue *queue, uint64_t now_usec,
	bool dry_run, retention_visit visit, void *arg, struct error **err)
{
	uint64_t retain = config->retain_ms * 1000;
	struct batch batch = {.retain_usec = retain};
	int r;

	batch.expiry.now_usec = now_usec;
	batch.expiry.settled_usec = now_usec - MIN(now_usec, (uint64_t)LEAST_MS * 1000);
	batch.expiry.before_usec = config->retain_ms ? now_usec - MIN(now_usec, retain) : 0;
	batch.expiry.limit = BATCH;
	do {
		pthread_mutex_lock(&sweeping);
		r = sweep_batch(config, queue, &batch, dry_run, err);
		pthread_mutex_unlock(&sweeping);
		if (r == 0)
			r = tell(&batch, visit, arg, err);
	} while (r == 0 && batch.n == BATCH);
	return r;
}

static bool wait_a_minute(struct retention *retention)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += EVERY_S;
	pthread_mutex_lock(&retention->lock);
	while (!retention->stop &&
		pthread_cond_timedwait(&retention->cond, &retention->lock, &until) != ETIMEDOUT)
		;
	bool stop = retention->stop;
	pthread_mutex_unlock(&retention->lock);
	return !stop;
}

static void *run(void *arg)
{
	struct retention *retention = arg;

	do {
		_cleanup_error_ struct error *err = NULL;

		if (retention_sweep(retention->config, retention->queue, now_real_usec(), false,
			    NULL, NULL, &err) < 0)
			log_warn("retention", "%s", err->text);
	} while (wait_a_minute(retention));
	return NULL;
}

struct retention *retention_start(const struct config *config, struct store_queue *queue)
{
	struct retention *retention = xcalloc(1, sizeof(*retention));
	pthread_condattr_t attr;

	retention->config = config;
	retention->queue = queue;
	pthread_mutex_init(&retention->lock, NULL);
	/* Whoever sets the clock must not put it off. */
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&retention->cond, &attr);
	pthread_condattr_destroy(&attr);
	if (pthread_create(&retention->thread, NULL, run, retention) == 0)
		return retention;
	log_warn("retention", "no thread: old jobs are kept");
	free(retention);
	return NULL;
}

void retention_stop(struct retention *retention)
{
	if (!retention)
		return;
	pthread_mutex_lock(&retention->lock);
	retention->stop = true;
	pthread_cond_signal(&retention->cond);
	pthread_mutex_unlock(&retention->lock);
	pthread_join(retention->thread, NULL);
	pthread_cond_destroy(&retention->cond);
	pthread_mutex_destroy(&retention->lock);
	free(retention);
}
