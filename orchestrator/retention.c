#include "orchestrator/retention.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/util.h"

#define EVERY_S	 3600
#define BATCH	 64
#define LEAST_MS 60000 /* a job's VM is certainly gone then */

struct retention {
	const struct config *config;
	struct store_queue *queue;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool stop; /* under lock */
};

struct batch {
	uint64_t before_usec;
	char ids[BATCH][JOB_ID_SIZE];
	size_t n;
};

static int keep(void *arg, const struct job_record *record, struct error **err)
{
	struct batch *batch = arg;

	(void)err;
	memcpy(batch->ids[batch->n++], record->id, JOB_ID_SIZE);
	return 0;
}

static int store_expired(struct store *store, void *arg, struct error **err)
{
	struct batch *batch = arg;

	return store->ops->expired(store, batch->before_usec, BATCH, keep, batch, err);
}

static int store_remove(struct store *store, void *arg, struct error **err)
{
	struct batch *batch = arg;

	for (size_t i = 0; i < batch->n; i++) {
		if (store->ops->remove(store, batch->ids[i], err) < 0)
			return -1;
	}
	return 0;
}

int retention_sweep(const struct config *config, struct store_queue *queue, uint64_t now_usec,
	struct error **err)
{
	uint64_t age = MAX(config->retain_ms, (uint64_t)LEAST_MS) * 1000;
	struct batch batch;

	if (age > now_usec)
		return 0;
	do {
		batch = (struct batch){.before_usec = now_usec - age};
		if (store_queue_call(queue, store_expired, &batch, err) < 0)
			return -1;
		for (size_t i = 0; i < batch.n; i++) {
			_cleanup_free_ char *dir = config_job_dir(config, batch.ids[i]);

			if (remove_tree(dir, err) < 0)
				return -1;
		}
		if (batch.n && store_queue_call(queue, store_remove, &batch, err) < 0)
			return -1;
	} while (batch.n == BATCH);
	return 0;
}

static bool wait_an_hour(struct retention *retention)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
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

		if (retention_sweep(retention->config, retention->queue, now_real_usec(), &err) < 0)
			log_warn("retention", "%s", err->text);
	} while (wait_an_hour(retention));
	return NULL;
}

struct retention *retention_start(const struct config *config, struct store_queue *queue)
{
	if (!config->retain_ms)
		return NULL;
	struct retention *retention = xcalloc(1, sizeof(*retention));
	retention->config = config;
	retention->queue = queue;
	pthread_mutex_init(&retention->lock, NULL);
	pthread_cond_init(&retention->cond, NULL);
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
