#include "orchestrator/watch.h"

#include <errno.h>
#include <string.h>
#include <time.h>

void watch_init(struct watch *watch)
{
	pthread_condattr_t attr;

	memset(watch, 0, sizeof(*watch));
	pthread_mutex_init(&watch->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&watch->cond, &attr);
	pthread_condattr_destroy(&attr);
}

void watch_clear(struct watch *watch)
{
	pthread_cond_destroy(&watch->cond);
	pthread_mutex_destroy(&watch->lock);
}

void watch_tell(
	struct watch *watch, enum job_state state, unsigned attempt, bool finished, bool stopping)
{
	pthread_mutex_lock(&watch->lock);
	watch->news.version++;
	watch->news.state = state;
	watch->news.attempt = attempt;
	watch->news.finished |= finished;
	watch->news.stopping |= stopping;
	pthread_cond_signal(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
}

void watch_look(struct watch *watch, struct watch_news *ret)
{
	pthread_mutex_lock(&watch->lock);
	*ret = watch->news;
	pthread_mutex_unlock(&watch->lock);
}

bool watch_wait(struct watch *watch, int timeout_ms, struct watch_news *news)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&watch->lock);
	while (watch->news.version == news->version && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&watch->cond, &watch->lock, &until);
	bool changed = watch->news.version != news->version;
	*news = watch->news;
	pthread_mutex_unlock(&watch->lock);
	return changed;
}
