#include "orchestrator/bounded.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "common/util.h"

#define STACK_BYTES (512 * KIB)

struct bounded {
	void (*run)(void *arg);
	void (*late)(void *arg);
	void *arg;
	int done_fd; /* readable when it has returned */

	pthread_mutex_t lock; /* below; who sets the second one frees: */
	bool returned;
	bool left;
};

static atomic_uint left_now;

static void bounded_free(struct bounded *bounded)
{
	close_fd(&bounded->done_fd);
	pthread_mutex_destroy(&bounded->lock);
	free(bounded);
}

static void *call(void *arg)
{
	struct bounded *bounded = arg;

	bounded->run(bounded->arg);
	pthread_mutex_lock(&bounded->lock);
	bool left = bounded->left;
	bounded->returned = true;
	if (!left)
		eventfd_write(bounded->done_fd, 1);
	pthread_mutex_unlock(&bounded->lock);
	if (!left)
		return NULL;
	bounded->late(bounded->arg);
	bounded_free(bounded);
	atomic_fetch_sub(&left_now, 1);
	return NULL;
}

static int start_thread(struct bounded *bounded)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int e = pthread_create(&thread, &attr, call, bounded);
	pthread_attr_destroy(&attr);
	return e;
}

struct bounded *bounded_start(
	void (*run)(void *arg), void (*late)(void *arg), void *arg, struct error **err)
{
	unsigned left = bounded_left();

	if (left >= BOUNDED_LEFT_MAX) {
		error_set(err, ERR_UNAVAILABLE, "%u calls before it have had no answer yet", left);
		return NULL;
	}
	struct bounded *bounded = xcalloc(1, sizeof(*bounded));
	bounded->run = run;
	bounded->late = late;
	bounded->arg = arg;
	bounded->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&bounded->lock, NULL);
	int e = bounded->done_fd < 0 ? errno : start_thread(bounded);
	if (!e)
		return bounded;
	error_errno(err, e, "starting a thread");
	bounded_free(bounded);
	return NULL;
}

static bool has_returned(struct bounded *bounded)
{
	pthread_mutex_lock(&bounded->lock);
	bool returned = bounded->returned;
	pthread_mutex_unlock(&bounded->lock);
	return returned;
}

enum bounded_answer bounded_wait(
	struct bounded *bounded, uint64_t end_usec, int cancel_fd, int progress_fd)
{
	struct pollfd fds[] = {{.fd = bounded->done_fd, .events = POLLIN},
		{.fd = cancel_fd, .events = POLLIN}, {.fd = progress_fd, .events = POLLIN}};

	for (;;) {
		uint64_t now = now_mono_usec();
		int ms = now >= end_usec ? 0 : (int)MIN((end_usec - now) / 1000 + 1, 1000000);
		int n = poll(fds, ARRAY_SIZE(fds), ms);

		if (has_returned(bounded)) {
			bounded_free(bounded);
			return BOUNDED_RETURNED;
		}
		if (n > 0 && fds[1].revents)
			return BOUNDED_CANCELLED;
		if (n > 0 && fds[2].revents)
			return BOUNDED_PROGRESS;
		if (now >= end_usec)
			return BOUNDED_TIMEOUT;
	}
}

int bounded_fd(const struct bounded *bounded)
{
	return bounded->done_fd;
}

bool bounded_leave(struct bounded *bounded)
{
	pthread_mutex_lock(&bounded->lock);
	bool left = !bounded->returned;
	bounded->left = left;
	if (left)
		atomic_fetch_add(&left_now, 1);
	pthread_mutex_unlock(&bounded->lock);
	if (!left)
		bounded_free(bounded);
	return left;
}

unsigned bounded_left(void)
{
	return atomic_load(&left_now);
}
