/* What the stream that looks at an execution takes out of it. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/util.h"
#include "guest-worker/executor_internal.h"

/* Under the lock. */
void execution_tell_reader(struct execution *ex)
{
	pthread_cond_broadcast(&ex->changed);
	if (ex->listener)
		ex->listener(ex->listener_arg);
}

/* What there is for the reader now. Under the lock. */
static bool take_event(struct execution *ex, void *buf, size_t size, struct execution_event *ret)
{
	uint64_t out_pending = output_pending(&ex->out), err_pending = output_pending(&ex->err);

	if (ex->evict) {
		ret->type = EXECUTION_TAKEN_OVER;
		return true;
	}
	if (ex->started && !ex->started_taken) {
		ex->started_taken = true;
		ret->type = EXECUTION_STARTED;
		ret->pid = ex->pid;
		ret->uptime_usec = ex->uptime_usec;
		return true;
	}
	/* A program may write before the word of its start has come here: who follows hears it
	 * first.
	 */
	if ((out_pending || err_pending) && (ex->started || ex->ended)) {
		bool out = out_pending && (!err_pending || ex->out_since < ex->err_since);
		struct output *output = out ? &ex->out : &ex->err;
		bool was_full = !output_wants(output);
		ret->type = out ? EXECUTION_OUT : EXECUTION_ERR;
		ret->size = output_take(output, buf, size);
		/* Behind the other, if more is left: neither starves. */
		*(out ? &ex->out_since : &ex->err_since) = ++ex->sequence;
		if (was_full)
			execution_wake(ex);
		return true;
	}
	if (ex->ended) {
		ret->type = EXECUTION_EXIT;
		ret->exit = ex->exit;
		return true;
	}
	return false;
}

void execution_deadline(int wait_ms, struct timespec *ret)
{
	uint64_t until = now_mono_usec() + (uint64_t)wait_ms * 1000;

	ret->tv_sec = (time_t)(until / 1000000);
	ret->tv_nsec = (long)(until % 1000000) * 1000;
}

void execution_next(
	struct execution *ex, int wait_ms, void *buf, size_t size, struct execution_event *ret)
{
	struct timespec ts;

	execution_deadline(wait_ms, &ts);
	memset(ret, 0, sizeof(*ret));
	pthread_mutex_lock(&ex->lock);
	while (!take_event(ex, buf, size, ret)) {
		if (pthread_cond_timedwait(&ex->changed, &ex->lock, &ts) == ETIMEDOUT) {
			take_event(ex, buf, size, ret);
			break;
		}
	}
	pthread_mutex_unlock(&ex->lock);
}

void execution_listen(struct execution *ex, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&ex->lock);
	ex->listener = fn;
	ex->listener_arg = arg;
	pthread_mutex_unlock(&ex->lock);
}
