#include "guest-worker/spare.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"

#define END_WAIT_MS 10000

struct spare {
	struct launched process;
	struct cgroup *cgroup; /* or NULL */
	uint64_t oom_kills;
};

struct spares {
	const struct job_root *root;
	const struct sandbox *sandbox;
	struct cgroup_tree *cgroups;
	uint64_t idle_usec;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct spare *spare;	/* or NULL */
	void (*run)(void *arg); /* or NULL: by its thread, for who took the last one */
	void *run_arg;
	bool busy, stopping;
	bool failed; /* once is enough: jobs are started without */
	uint64_t idle_since;
	unsigned serial, taken;
};

static void spare_end(struct spare *spare)
{
	if (!launched_end(&spare->process))
		log_error("spare", "a spare job init does not end");
	cgroup_free(spare->cgroup);
	free(spare);
}

static struct spare *spare_new(struct spares *spares, struct error **err)
{
	const struct cgroup_limits limits = {.pids = LAUNCH_PIDS_MAX};
	struct spare *spare = xcalloc(1, sizeof(*spare));
	char name[40];

	snprintf(name, sizeof(name), "spare-%d-%u", (int)getpid(), ++spares->serial);
	spare->oom_kills = machine_oom_kills();
	spare->cgroup = cgroup_new(spares->cgroups, name, &limits);
	if (launch_prepare(spares->root, spares->sandbox, cgroup_fd(spare->cgroup), true,
		    &spare->process, err) == 0)
		return spare;
	cgroup_free(spare->cgroup);
	free(spare);
	return NULL;
}

/* Under the lock, which it lets go meanwhile. */
static void make(struct spares *spares)
{
	_cleanup_error_ struct error *err = NULL;

	pthread_mutex_unlock(&spares->lock);
	FAILPOINT("worker.spare");
	struct spare *spare = spare_new(spares, &err);
	if (!spare)
		log_warn("spare", "%s", err->text);
	pthread_mutex_lock(&spares->lock);
	spares->spare = spare;
	spares->failed = !spare;
}

/* Under the lock, which it lets go meanwhile. */
static void run(struct spares *spares)
{
	void (*fn)(void *arg) = spares->run;
	void *arg = spares->run_arg;

	spares->run = NULL;
	pthread_mutex_unlock(&spares->lock);
	fn(arg);
	pthread_mutex_lock(&spares->lock);
}

/* Under the lock. */
static void wait_until(struct spares *spares, uint64_t usec)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(usec / 1000000), .tv_nsec = (long)(usec % 1000000) * 1000};

	pthread_cond_timedwait(&spares->changed, &spares->lock, &ts);
}

static void *spares_thread(void *arg)
{
	struct spares *spares = arg;

	/* As the thread of an execution. */
	pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
	pthread_mutex_lock(&spares->lock);
	while (!spares->stopping) {
		uint64_t at = spares->idle_since + spares->idle_usec;
		if (spares->run)
			run(spares);
		else if (spares->busy || spares->spare || spares->failed)
			pthread_cond_wait(&spares->changed, &spares->lock);
		else if (now_mono_usec() < at)
			wait_until(spares, at);
		else
			make(spares);
	}
	pthread_mutex_unlock(&spares->lock);
	return NULL;
}

int spares_new(const struct job_root *root, const struct sandbox *sandbox,
	struct cgroup_tree *cgroups, uint64_t idle_usec, struct spares **ret, struct error **err)
{
	struct spares *spares = xcalloc(1, sizeof(*spares));
	pthread_condattr_t attr;

	spares->root = root;
	spares->sandbox = sandbox;
	spares->cgroups = cgroups;
	spares->idle_usec = idle_usec;
	spares->idle_since = now_mono_usec();
	pthread_mutex_init(&spares->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&spares->changed, &attr);
	pthread_condattr_destroy(&attr);
	int r = pthread_create(&spares->thread, NULL, spares_thread, spares);
	if (r) {
		pthread_cond_destroy(&spares->changed);
		pthread_mutex_destroy(&spares->lock);
		free(spares);
		return error_errno(err, r, "a thread for the spare job init");
	}
	*ret = spares;
	return 0;
}

void spares_free(struct spares *spares)
{
	if (!spares)
		return;
	pthread_mutex_lock(&spares->lock);
	spares->stopping = true;
	pthread_cond_signal(&spares->changed);
	pthread_mutex_unlock(&spares->lock);
	pthread_join(spares->thread, NULL);
	if (spares->spare)
		spare_end(spares->spare);
	pthread_cond_destroy(&spares->changed);
	pthread_mutex_destroy(&spares->lock);
	free(spares);
}

void spares_set_busy(struct spares *spares, bool busy)
{
	if (!spares)
		return;
	pthread_mutex_lock(&spares->lock);
	spares->busy = busy;
	spares->idle_since = now_mono_usec();
	/* A busy one needs no waking: its thread sees it when its wait is over. */
	if (!busy)
		pthread_cond_signal(&spares->changed);
	pthread_mutex_unlock(&spares->lock);
}

/* What has something to say before it has its plan could not be made. */
static bool is_well(const struct spare *spare)
{
	struct pollfd fds[] = {{.fd = spare->process.report_fd, .events = POLLIN},
		{.fd = spare->process.start_fd, .events = POLLIN},
		{.fd = spare->process.pidfd, .events = POLLIN}};

	return poll(fds, ARRAY_SIZE(fds), 0) == 0;
}

bool spares_take(struct spares *spares, const struct launch *launch, uint64_t memory_bytes,
	struct launched *ret, struct cgroup **ret_cgroup, uint64_t *ret_oom_kills)
{
	_cleanup_error_ struct error *err = NULL;

	if (!spares)
		return false;
	pthread_mutex_lock(&spares->lock);
	struct spare *spare = steal_ptr(spares->spare);
	pthread_mutex_unlock(&spares->lock);
	if (!spare)
		return false;
	if (is_well(spare)) {
		cgroup_renew_memory(spare->cgroup, memory_bytes);
		if (launch_start(launch, &spare->process, &err) == 0) {
			*ret = spare->process;
			*ret_cgroup = spare->cgroup;
			*ret_oom_kills = spare->oom_kills;
			free(spare);
			return true;
		}
	}
	log_warn("spare", "a spare job init was of no use: %s",
		err ? err->text : "it could not be prepared");
	spare_end(spare);
	return false;
}

void spares_run(struct spares *spares, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&spares->lock);
	spares->taken++;
	spares->run = fn;
	spares->run_arg = arg;
	pthread_cond_signal(&spares->changed);
	pthread_mutex_unlock(&spares->lock);
}

bool spares_ready(struct spares *spares, unsigned *ret_taken)
{
	pthread_mutex_lock(&spares->lock);
	bool ready = spares->spare != NULL;
	*ret_taken = spares->taken;
	pthread_mutex_unlock(&spares->lock);
	return ready;
}
