/* Each execution has a thread, its own or that of the spare job init that it took (spare.h), which
 * starts the job, reads its pipes into bounded rings, keeps the deadlines, and finds out how it
 * ended. Phases, all on that thread:
 *
 *   start    launch, unless a spare has its plan already; a failure here is the execution's exit
 *   run      until nothing of the job is left but its init (which says so as its last, or its pidfd
 *            does)
 *   drain    until the pipes are empty, as fast as the reader takes from the rings
 *   ended    the exit is there to be taken; when it was, the job init and its namespaces go
 *
 * `lock` guards everything that the reader's thread sees; `changed` wakes the reader, `wake` (an
 * eventfd) wakes the execution's thread.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "guest-worker/executor_internal.h"

/* After the order to kill: when to kill the job init itself, and when to give up on a process that
 * even that does not end. */
#define KILL_INIT_USEC (3 * 1000000)
#define GIVE_UP_USEC   (10 * 1000000)
/* The job's time begins when its program does, which may take so much of its own. */
#define START_USEC (10 * 1000000)
/* How long what is left waits for the exit to be told. */
#define TELL_USEC 1000000
/* How long the word of the start may wait for that of the end. */
#define TOGETHER_USEC (10 * 1000)

void execution_wake(struct execution *ex)
{
	uint64_t one = 1;

	if (write(ex->wake, &one, sizeof(one)) < 0)
		return; /* full: it is awake */
}

/* Running. --------------------------------------------------------------------------------------
 */

static void signal_init(const struct execution *ex, int sig)
{
	/* By the pidfd: the pid may have been reaped and used again. */
	syscall(SYS_pidfd_send_signal, ex->process.pidfd, sig, NULL, 0);
}

static void begin_kill(struct execution *ex, uint64_t now)
{
	ex->kill_at = UINT64_MAX;
	ex->kill_init_at = now + KILL_INIT_USEC;
	ex->give_up_at = now + GIVE_UP_USEC;
	signal_init(ex, LAUNCH_SIGNAL_KILL);
	cgroup_kill(ex->cgroup);
}

static void begin_stop(struct execution *ex, enum why_stopped why, uint64_t kill_at, uint64_t now)
{
	if (ex->why == NOT_STOPPED) {
		ex->why = why;
		ex->timeout_at = UINT64_MAX;
		if (kill_at > now)
			signal_init(ex, LAUNCH_SIGNAL_STOP);
	}
	/* Once the kill has begun there is nothing to bring forward. */
	if (ex->kill_init_at == UINT64_MAX)
		ex->kill_at = MIN(ex->kill_at, kill_at);
}

/* Act on the deadlines that have passed. Under the lock. False: give up on it. */
static bool keep_deadlines(struct execution *ex, uint64_t now)
{
	if (now >= ex->abandoned_at)
		ex->released = true;
	if (ex->released)
		ex->stop_at = 0;
	if (ex->stop_at != UINT64_MAX) {
		begin_stop(ex, STOPPED_ORDER, ex->stop_at, now);
		ex->stop_at = UINT64_MAX;
	}
	if (now >= ex->timeout_at)
		begin_stop(ex, STOPPED_TIMEOUT, now + ex->grace_usec, now);
	if (now >= ex->kill_at)
		begin_kill(ex, now);
	if (now >= ex->kill_init_at) {
		signal_init(ex, SIGKILL);
		cgroup_kill(ex->cgroup);
		ex->kill_init_at = UINT64_MAX - 1;
	}
	return now < ex->give_up_at;
}

static int poll_wait_ms(const struct execution *ex, uint64_t now)
{
	uint64_t next =
		MIN(MIN(ex->timeout_at, ex->kill_at), MIN(ex->kill_init_at, ex->give_up_at));

	if (!ex->released)
		next = MIN(next, ex->abandoned_at);

	if (next >= UINT64_MAX - 1)
		return -1;
	return next <= now ? 0 : (int)MIN((next - now + 999) / 1000, UINT64_C(3600000));
}

/* The job's process has become the program when it has let go of its end. Under the lock. */
static void hear_start(struct execution *ex)
{
	struct launch_report r;
	ssize_t n;

	if (ex->process.start_fd < 0)
		return;
	while ((n = recv(ex->process.start_fd, &r, sizeof(r), MSG_DONTWAIT)) == sizeof(r)) {
		if (r.type == LAUNCH_STARTING)
			ex->pid = (uint32_t)r.pid;
		else
			execution_exit_not_started(ex, &r);
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	close_fd(&ex->process.start_fd);
	if (ex->pid && !ex->exit.reason) {
		ex->runs_since = now_mono_usec();
		if (ex->timeout_at != UINT64_MAX)
			ex->timeout_at = ex->runs_since + ex->timeout_usec;
		ex->uptime_usec = now_boot_usec();
	}
}

/* Under the lock. False: it will say no more. */
static bool hear_report(struct execution *ex)
{
	struct launch_report r;

	if (recv(ex->process.report_fd, &r, sizeof(r), MSG_DONTWAIT) != sizeof(r))
		return errno == EAGAIN || errno == EINTR;
	if (r.type == LAUNCH_ENDED) {
		ex->has_end = true;
		ex->end = r;
	} else {
		execution_exit_not_started(ex, &r);
	}
	return true;
}

static void pump(struct execution *ex, struct output *output, uint64_t *since)
{
	bool was_empty = output_pending(output) == 0;

	output_pump(output);
	if (was_empty && output_pending(output))
		*since = ++ex->sequence;
	if (output_pending(output))
		execution_tell_reader(ex);
}

static struct pollfd poll_output(const struct output *output)
{
	return (struct pollfd){.fd = output_wants(output) ? output->fd : -1, .events = POLLIN};
}

static void clear_wake(struct execution *ex)
{
	uint64_t n;

	if (read(ex->wake, &n, sizeof(n)) < 0)
		return;
}

/* Tell of the start, but if both its streams have ended already the program has most likely ended
 * too: then one message will say it all, and for that the reader may wait a little. Returns how
 * much longer, 0 for no more. Under the lock. */
static uint64_t tell_start(struct execution *ex, uint64_t now)
{
	if (!ex->runs_since || ex->started)
		return 0;
	bool streams = ex->out.fd >= 0 || ex->err.fd >= 0;
	uint64_t until = ex->runs_since + TOGETHER_USEC;
	if (!streams && !ex->has_end && now < until)
		return until - now;
	ex->started = true;
	execution_tell_reader(ex);
	return 0;
}

/* Until no process of the job is left, but perhaps the job init. */
static void run(struct execution *ex)
{
	enum { OUT, ERR, WAKE, START, REPORT, PIDFD, COUNT };
	bool reports = true;

	for (bool alive = true; alive;) {
		pthread_mutex_lock(&ex->lock);
		uint64_t now = now_mono_usec();
		bool patient = keep_deadlines(ex, now);
		struct pollfd fds[COUNT] = {
			[OUT] = poll_output(&ex->out),
			[ERR] = poll_output(&ex->err),
			[WAKE] = {.fd = ex->wake, .events = POLLIN},
			[START] = {.fd = ex->process.start_fd, .events = POLLIN},
			[REPORT] = {.fd = reports ? ex->process.report_fd : -1, .events = POLLIN},
			[PIDFD] = {.fd = ex->process.pidfd, .events = POLLIN},
		};
		int wait_ms = poll_wait_ms(ex, now);
		if (tell_start(ex, now) && (wait_ms < 0 || wait_ms > TOGETHER_USEC / 1000))
			wait_ms = TOGETHER_USEC / 1000;
		pthread_mutex_unlock(&ex->lock);
		if (!patient) {
			log_error("executor", "%s: a process of the job cannot be killed", ex->id);
			return;
		}
		if (poll(fds, COUNT, wait_ms) < 0)
			continue;

		pthread_mutex_lock(&ex->lock);
		if (fds[WAKE].revents)
			clear_wake(ex);
		if (fds[REPORT].revents)
			reports = hear_report(ex);
		if (fds[OUT].revents)
			pump(ex, &ex->out, &ex->out_since);
		if (fds[ERR].revents)
			pump(ex, &ex->err, &ex->err_since);
		alive = !fds[PIDFD].revents && !ex->has_end;
		/* It was before the end, if it was. */
		if (fds[START].revents || !alive)
			hear_start(ex);
		pthread_mutex_unlock(&ex->lock);
	}
}

/* What is still in a pipe. Nobody writes any more, so "nothing now" is the end. Under the lock. */
static bool drain_one(struct execution *ex, struct output *output, uint64_t *since)
{
	while (output->fd >= 0 && output_wants(output)) {
		uint64_t before = output->total;
		pump(ex, output, since);
		if (output->total == before)
			close_fd(&output->fd);
	}
	return output->fd < 0;
}

static int drain_wait_ms(const struct execution *ex, uint64_t now)
{
	if (ex->abandoned_at == UINT64_MAX)
		return -1;
	return ex->abandoned_at <= now
		       ? 0
		       : (int)MIN((ex->abandoned_at - now + 999) / 1000, UINT64_C(3600000));
}

static void drain(struct execution *ex)
{
	for (bool done = false; !done;) {
		pthread_mutex_lock(&ex->lock);
		bool out_done = drain_one(ex, &ex->out, &ex->out_since);
		bool err_done = drain_one(ex, &ex->err, &ex->err_since);
		uint64_t now = now_mono_usec();
		if (now >= ex->abandoned_at)
			ex->released = true;
		done = (out_done && err_done) || ex->released;
		int wait_ms = drain_wait_ms(ex, now);
		pthread_mutex_unlock(&ex->lock);
		if (!done) {
			struct pollfd fd = {.fd = ex->wake, .events = POLLIN};
			if (poll(&fd, 1, wait_ms) > 0)
				clear_wake(ex);
		}
	}
}

static void begin_to_read(struct execution *ex)
{
	pthread_mutex_lock(&ex->lock);
	output_init(
		&ex->out, steal_fd(ex->process.out_fd), ex->output_bytes, ex->detached_usec > 0);
	output_init(
		&ex->err, steal_fd(ex->process.err_fd), ex->output_bytes, ex->detached_usec > 0);
	ex->started_usec = now_mono_usec();
	if (ex->timeout_usec)
		ex->timeout_at = ex->started_usec + ex->timeout_usec + START_USEC;
	pthread_mutex_unlock(&ex->lock);
}

static int launch(struct execution *ex, struct error **err)
{
	struct executor *executor = ex->executor;
	char name[32];
	const struct cgroup_limits limits = {.memory = ex->memory_bytes, .pids = LAUNCH_PIDS_MAX};

	pthread_mutex_lock(&executor->lock);
	snprintf(name, sizeof(name), "job-%d-%u", (int)getpid(), ++executor->serial);
	pthread_mutex_unlock(&executor->lock);
	ex->oom_kills_before = machine_oom_kills();
	ex->cgroup = cgroup_new(executor->cgroups, name, &limits);
	if (launch_prepare(executor->root, &executor->sandbox, cgroup_fd(ex->cgroup), false,
		    &ex->process, err) < 0)
		return -1;
	return launch_start(&ex->launch, &ex->process, err);
}

/* Nothing of the job is left but perhaps its init, which takes its namespaces apart as it ends. */
static void clear_away(struct execution *ex)
{
	if (ex->process.pidfd >= 0 && !launched_end(&ex->process))
		log_error("executor", "%s: the process that watched the job does not end", ex->id);
	cgroup_free(steal_ptr(ex->cgroup));
}

/* A spare job init that died before it had begun with the plan: the program has not run. */
static bool spare_was_lost(const struct execution *ex)
{
	return ex->spare && !ex->pid && !ex->exit.reason && ex->why == NOT_STOPPED && !ex->released;
}

static int start_again(struct execution *ex, struct error **err)
{
	log_warn("executor", "%s: the spare job init was lost; another is made", ex->id);
	pthread_mutex_lock(&ex->lock);
	output_free(&ex->out);
	output_free(&ex->err);
	ex->spare = ex->has_end = false;
	pthread_mutex_unlock(&ex->lock);
	clear_away(ex);
	return launch(ex, err);
}

/* Start it, unless a spare has, and let it run. */
static int start_and_run(struct execution *ex, struct error **err)
{
	if (!ex->spare && launch(ex, err) < 0)
		return -1;
	begin_to_read(ex);
	run(ex);
	if (spare_was_lost(ex)) {
		if (start_again(ex, err) < 0)
			return -1;
		begin_to_read(ex);
		run(ex);
	}
	ex->exit.wall_usec = now_mono_usec() - ex->started_usec;
	drain(ex);
	return 0;
}

static void finish(struct execution *ex)
{
	struct execution_exit *exit = &ex->exit;

	pthread_mutex_lock(&ex->lock);
	ex->started = ex->runs_since != 0;
	if (ex->started || (!exit->reason && ex->why != NOT_STOPPED))
		execution_exit_after_run(ex);
	else if (!exit->reason)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			xstrdup("the job's first process ended without a word"));
	exit->stdout_bytes = ex->out.total;
	exit->stderr_bytes = ex->err.total;
	exit->stdout_truncated = output_truncated(&ex->out);
	exit->stderr_truncated = output_truncated(&ex->err);
	ex->ended = true;
	execution_tell_reader(ex);
	pthread_mutex_unlock(&ex->lock);
}

/* What is cleared away now would keep the exit from being told: there may be one processor. The
 * stream goes when it has told it. */
static void let_it_be_told(struct execution *ex)
{
	uint64_t now, until = now_mono_usec() + TELL_USEC;
	struct pollfd fd = {.fd = ex->wake, .events = POLLIN};

	while ((now = now_mono_usec()) < until) {
		pthread_mutex_lock(&ex->lock);
		bool told = !ex->attached || ex->released;
		pthread_mutex_unlock(&ex->lock);
		if (told)
			return;
		if (poll(&fd, 1, (int)((until - now + 999) / 1000)) > 0)
			clear_wake(ex);
	}
}

static void live(void *arg)
{
	struct execution *ex = arg;
	struct error *err = NULL;

	if (start_and_run(ex, &err) < 0) {
		execution_set_exit(
			ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED, steal_ptr(err->text));
		error_free(err);
	}
	finish(ex);
	let_it_be_told(ex);
	clear_away(ex);
	pthread_mutex_lock(&ex->lock);
	ex->lives = false;
	pthread_cond_broadcast(&ex->changed);
	pthread_mutex_unlock(&ex->lock);
}

static void *execution_thread(void *arg)
{
	/* Where job and worker share a processor, the first byte of a burst does not take it from
	 * the job: what it writes until it pauses goes out as one message. */
	pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
	live(arg);
	return NULL;
}

void execution_free(struct execution *ex)
{
	launch_destroy(&ex->launch);
	output_free(&ex->out);
	output_free(&ex->err);
	close_fd(&ex->wake);
	pthread_cond_destroy(&ex->changed);
	pthread_mutex_destroy(&ex->lock);
	free(ex->error);
	free(ex->id);
	free(ex);
}

struct execution *execution_new(
	struct executor *executor, const Worker__V1__RunStart *start, struct error **err)
{
	struct execution *ex = xcalloc(1, sizeof(*ex));
	pthread_condattr_t attr;
	uint64_t grace =
		start->has_stop_grace_period_ms ? start->stop_grace_period_ms : DEFAULT_GRACE_MS;

	ex->executor = executor;
	ex->id = xstrdup(start->id);
	ex->timeout_usec = MIN(start->timeout_ms, LIMIT_TIMEOUT_MS) * 1000;
	ex->grace_usec = MIN(grace, LIMIT_GRACE_MS) * 1000;
	ex->output_bytes =
		start->has_output_bytes ? MIN(start->output_bytes, LIMIT_OUTPUT) : DEFAULT_OUTPUT;
	ex->memory_bytes = start->memory_bytes;
	ex->detached_usec = MIN(start->detached_ms, LIMIT_TIMEOUT_MS) * 1000;
	ex->attached = true;
	ex->abandoned_at = UINT64_MAX;
	ex->process = (struct launched){
		.pidfd = -1, .report_fd = -1, .start_fd = -1, .out_fd = -1, .err_fd = -1};
	ex->out.fd = ex->err.fd = -1;
	ex->timeout_at = ex->kill_at = ex->kill_init_at = ex->give_up_at = UINT64_MAX;
	ex->stop_at = UINT64_MAX;
	ex->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&ex->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&ex->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (ex->wake < 0) {
		error_errno(err, errno, "eventfd");
		execution_free(ex);
		return NULL;
	}
	return ex;
}

/* A plan that cannot be carried out here is the job's failure and not the request's. */
static int plan(struct execution *ex, const Worker__V1__RunStart *start, struct error **err)
{
	struct executor *executor = ex->executor;
	struct error *why = NULL;

	if (launch_plan(start, executor->root, &executor->sandbox, &ex->launch, &why) == 0)
		return 0;
	if (why->code == ERR_INVALID)
		return error_move(err, why);
	execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED, xstrdup(why->text));
	ex->ended = true;
	error_free(why);
	return 0;
}

int execution_begin(struct execution *ex, const Worker__V1__RunStart *start, struct error **err)
{
	if (plan(ex, start, err) < 0)
		return -1;
	if (ex->ended)
		return 0;
	struct spares *spares = ex->executor->spares;
	ex->lives = true;
	ex->spare = spares_take(spares, &ex->launch, ex->memory_bytes, &ex->process, &ex->cgroup,
		&ex->oom_kills_before);
	if (ex->spare) {
		spares_run(spares, live, ex);
		return 0;
	}
	int r = pthread_create(&ex->thread, NULL, execution_thread, ex);
	ex->has_thread = r == 0;
	return r ? error_errno(err, r, "a thread for the job") : 0;
}

void execution_stop(struct execution *ex, uint64_t grace_ms)
{
	uint64_t at = grace_ms ? now_mono_usec() + MIN(grace_ms, LIMIT_GRACE_MS) * 1000 : 0;

	pthread_mutex_lock(&ex->lock);
	ex->stop_at = MIN(ex->stop_at, at);
	pthread_mutex_unlock(&ex->lock);
	execution_wake(ex);
}

void execution_release(struct execution *ex)
{
	pthread_mutex_lock(&ex->lock);
	ex->released = true;
	pthread_mutex_unlock(&ex->lock);
	execution_wake(ex);
	pthread_mutex_lock(&ex->lock);
	while (ex->lives)
		pthread_cond_wait(&ex->changed, &ex->lock);
	pthread_mutex_unlock(&ex->lock);
	if (ex->has_thread)
		pthread_join(ex->thread, NULL);
	executor_forget(ex);
	execution_free(ex);
}
