/* An execution and the streams that look at it, one after the other: taking it up, leaving it,
 * giving it up. Its own thread (execution.c) sees abandoned_at and ends the job then. */
#include <errno.h>
#include <time.h>

#include "common/util.h"
#include "guest-worker/executor_internal.h"

/* How long a stream may take to make place for another. */
#define TAKE_OVER_MS 10000

void execution_ack(struct execution *ex, uint64_t out_offset, uint64_t err_offset)
{
	pthread_mutex_lock(&ex->lock);
	output_ack(&ex->out, out_offset);
	output_ack(&ex->err, err_offset);
	pthread_mutex_unlock(&ex->lock);
	execution_wake(ex); /* a pipe that was not read for want of room may be now */
}

/* Under the lock, which waiting gives up. */
static int take_over(struct execution *ex, struct error **err)
{
	struct timespec ts;

	execution_deadline(TAKE_OVER_MS, &ts);
	while (ex->attached) {
		ex->evict = true;
		execution_tell_reader(ex);
		if (pthread_cond_timedwait(&ex->changed, &ex->lock, &ts) == ETIMEDOUT)
			break;
	}
	if (ex->attached)
		return error_set(
			err, ERR_UNAVAILABLE, "the stream that follows the execution does not end");
	return 0;
}

int execution_attach(
	struct execution *ex, uint64_t out_offset, uint64_t err_offset, struct error **err)
{
	pthread_mutex_lock(&ex->lock);
	int r = take_over(ex, err);
	if (r == 0 && (ex->released || now_mono_usec() >= ex->abandoned_at))
		r = error_set(err, ERR_NOT_FOUND, "the execution was given up");
	if (r == 0 && (!output_has(&ex->out, out_offset) || !output_has(&ex->err, err_offset)))
		r = error_set(err, ERR_RANGE,
			"held are bytes %llu to %llu of stdout and %llu to %llu of stderr",
			(unsigned long long)ex->out.freed, (unsigned long long)ex->out.kept,
			(unsigned long long)ex->err.freed, (unsigned long long)ex->err.kept);
	if (r == 0) {
		ex->attached = true;
		ex->abandoned_at = UINT64_MAX;
		ex->started_taken = false;
		output_rewind(&ex->out, out_offset);
		output_rewind(&ex->err, err_offset);
	}
	pthread_mutex_unlock(&ex->lock);
	execution_wake(ex);
	return r;
}

void execution_detach(struct execution *ex)
{
	if (!ex->detached_usec) {
		execution_release(ex);
		return;
	}
	pthread_mutex_lock(&ex->lock);
	ex->attached = ex->evict = false;
	ex->abandoned_at = now_mono_usec() + ex->detached_usec;
	pthread_cond_broadcast(&ex->changed);
	pthread_mutex_unlock(&ex->lock);
	execution_wake(ex);
}

void execution_wait_for(struct execution *ex, int change)
{
	pthread_mutex_lock(&ex->lock);
	ex->waiting += (unsigned)change;
	pthread_mutex_unlock(&ex->lock);
}

bool execution_abandoned(struct execution *ex, uint64_t now)
{
	pthread_mutex_lock(&ex->lock);
	bool abandoned = !ex->attached && !ex->waiting && now >= ex->abandoned_at;
	pthread_mutex_unlock(&ex->lock);
	return abandoned;
}
