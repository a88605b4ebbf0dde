/* Each execution has a thread, which starts the job, reads its pipes into bounded rings, keeps the
 * deadlines, and finds out how it ended. Phases, all on that thread:
 *
 *   start    plan and launch; a failure here is the execution's exit
 *   run      until nothing of the job is left but its init (which says so as its last, or its pidfd
 *            does)
 *   drain    until the pipes are empty, as fast as the reader takes from the rings
 *   ended    the exit is there to be taken; the job init and its namespaces go meanwhile
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "guest-worker/executor_internal.h"

#define PIDS_MAX 4096
/* After the order to kill: when to kill the job init itself, and when to give up on a process that
 * even that does not end. */
#define KILL_INIT_USEC (3 * 1000000)
#define GIVE_UP_USEC   (10 * 1000000)

void execution_wake(struct execution *ex)
{
	uint64_t one = 1;

	if (write(ex->wake, &one, sizeof(one)) < 0)
		return; /* full: it is awake */
}

/* Under the lock. */
void execution_tell_reader(struct execution *ex)
{
	pthread_cond_broadcast(&ex->changed);
	if (ex->listener)
		ex->listener(ex->listener_arg);
}

static uint64_t uptime_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Kills for want of memory in the whole machine, for where there are no cgroups. */
static uint64_t machine_oom_kills(void)
{
	_cleanup_free_ char *all = read_file("/proc/vmstat", 64 * KIB, NULL, NULL);
	const char *line = all ? strstr(all, "\noom_kill ") : NULL;

	return line ? strtoull(line + strlen("\noom_kill "), NULL, 10) : 0;
}

/* How it ended. ---------------------------------------------------------------------------------
 */

static void set_exit(struct execution *ex, Worker__V1__RunExit__Reason reason, char *error)
{
	ex->exit.reason = reason;
	free(ex->error);
	ex->error = error;
	ex->exit.error = error;
}

static void exit_not_started(struct execution *ex, const struct launch_report *r)
{
	static const char *const doing[] = {
		[STEP_PREPARE] = "preparing the job's process",
		[STEP_MOUNT] = "mounting the job's /proc",
		[STEP_ROOT] = "entering the job's root",
		[STEP_FORK] = "making the job's process",
		[STEP_CGROUP] = "joining the job's cgroup",
		[STEP_LIMITS] = "setting the job's resource limits",
		[STEP_CAPS] = "dropping the job's capabilities",
		[STEP_USER] = "becoming the job's user",
		[STEP_FILTER] = "installing the system call filter",
	};
	const char *name = ex->launch.argv[0];
	const char *why = strerrordesc_np(r->errnum);

	if (!why)
		why = "unknown error";
	if (r->step == STEP_INTERPRETER)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND,
			str_printf("%s: the interpreter it names is not in the image", name));
	else if (r->step == STEP_EXEC && r->errnum == ENOENT && strchr(name, '/'))
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND,
			str_printf("%s: not found in the image", name));
	else if (r->step == STEP_EXEC && r->errnum == ENOENT)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND,
			str_printf("%s: not found in the image's PATH", name));
	else if (r->step == STEP_EXEC && r->errnum == E2BIG)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			str_printf("%s: arguments and environment are too large", name));
	else if (r->step == STEP_EXEC)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_EXECUTABLE,
			str_printf("%s: %s", name, why));
	else if (r->step == STEP_WORKDIR)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			str_printf("working directory %s: %s", ex->launch.workdir, why));
	else
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			str_printf("%s: %s", doing[r->step], why));
}

static bool oom_killed(const struct execution *ex)
{
	if (cgroup_oom_killed(ex->cgroup))
		return true;
	/* Somebody was killed for memory, and our program was killed by nobody that we know of. */
	return ex->why == NOT_STOPPED && ex->has_end && WIFSIGNALED(ex->end.status) &&
	       WTERMSIG(ex->end.status) == SIGKILL && machine_oom_kills() > ex->oom_kills_before;
}

static void exit_after_run(struct execution *ex)
{
	if (ex->has_end && WIFEXITED(ex->end.status)) {
		ex->exit.code = WEXITSTATUS(ex->end.status);
		ex->exit.has_code = true;
	} else if (ex->has_end) {
		ex->exit.code = WTERMSIG(ex->end.status);
		ex->exit.has_code = true;
	}
	ex->exit.user_usec = ex->end.user_usec;
	ex->exit.system_usec = ex->end.system_usec;
	ex->exit.max_rss_bytes = ex->end.max_rss_bytes;

	if (oom_killed(ex))
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__OOM_KILLED,
			xstrdup("out of memory: the kernel killed the job"));
	else if (ex->why == STOPPED_TIMEOUT)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__TIMED_OUT, NULL);
	else if (ex->why == STOPPED_ORDER)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__STOPPED, NULL);
	else if (!ex->has_end)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__SIGNALED,
			xstrdup("the process that watches the job was killed"));
	else if (WIFEXITED(ex->end.status))
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__EXITED, NULL);
	else
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__SIGNALED, NULL);
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

static void read_report(struct execution *ex)
{
	struct launch_report r;

	while (read(ex->process.report_fd, &r, sizeof(r)) == sizeof(r)) {
		switch (r.type) {
		case LAUNCH_STARTED:
			ex->started = true;
			ex->pid = (uint32_t)r.pid;
			ex->uptime_usec = uptime_usec();
			break;
		case LAUNCH_FAILED:
			exit_not_started(ex, &r);
			break;
		case LAUNCH_ENDED:
			ex->has_end = true;
			ex->end = r;
			break;
		}
		execution_tell_reader(ex);
	}
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

/* Until no process of the job is left, but perhaps the job init. */
static void run(struct execution *ex)
{
	enum { OUT, ERR, WAKE, REPORT, PIDFD, COUNT };

	for (bool alive = true; alive;) {
		pthread_mutex_lock(&ex->lock);
		uint64_t now = now_mono_usec();
		bool patient = keep_deadlines(ex, now);
		struct pollfd fds[COUNT] = {
			[OUT] = poll_output(&ex->out),
			[ERR] = poll_output(&ex->err),
			[WAKE] = {.fd = ex->wake, .events = POLLIN},
			[REPORT] = {.fd = ex->process.report_fd, .events = POLLIN},
			[PIDFD] = {.fd = ex->process.pidfd, .events = POLLIN},
		};
		int wait_ms = poll_wait_ms(ex, now);
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
		if (fds[REPORT].revents) {
			read_report(ex);
			if (!(fds[REPORT].revents & POLLIN))
				close_fd(&ex->process.report_fd); /* its end: nothing more */
		}
		if (fds[OUT].revents)
			pump(ex, &ex->out, &ex->out_since);
		if (fds[ERR].revents)
			pump(ex, &ex->err, &ex->err_since);
		alive = !fds[PIDFD].revents && !ex->has_end;
		pthread_mutex_unlock(&ex->lock);
	}
}

/* The kernel takes the namespaces apart while it ends. */
static void reap_init(const struct execution *ex)
{
	struct pollfd fd = {.fd = ex->process.pidfd, .events = POLLIN};

	if (poll(&fd, 1, GIVE_UP_USEC / 1000) != 1)
		log_error("executor", "%s: the process that watched the job does not end", ex->id);
	/* PID 1's reaper may have been faster. */
	waitid(P_PIDFD, (id_t)ex->process.pidfd, &(siginfo_t){0}, WEXITED | WNOHANG | __WALL);
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

static int start(struct execution *ex, struct error **err)
{
	char name[32];
	const struct cgroup_limits limits = {.memory = ex->memory_bytes, .pids = PIDS_MAX};

	pthread_mutex_lock(&ex->executor->lock);
	snprintf(name, sizeof(name), "job-%d-%u", (int)getpid(), ++ex->executor->serial);
	pthread_mutex_unlock(&ex->executor->lock);
	ex->cgroup = cgroup_new(ex->executor->cgroups, name, &limits);
	ex->oom_kills_before = machine_oom_kills();
	if (launch_start(&ex->launch, cgroup_fd(ex->cgroup), &ex->process, err) < 0)
		return -1;

	pthread_mutex_lock(&ex->lock);
	output_init(&ex->out, ex->process.out_fd, ex->output_bytes, ex->detached_usec > 0);
	output_init(&ex->err, ex->process.err_fd, ex->output_bytes, ex->detached_usec > 0);
	ex->started_usec = now_mono_usec();
	if (ex->timeout_usec)
		ex->timeout_at = ex->started_usec + ex->timeout_usec;
	pthread_mutex_unlock(&ex->lock);
	return 0;
}

static void finish(struct execution *ex)
{
	struct execution_exit *exit = &ex->exit;

	pthread_mutex_lock(&ex->lock);
	if (ex->started)
		exit_after_run(ex);
	else if (!exit->reason)
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			xstrdup("the job's first process ended without a word"));
	exit->stdout_bytes = ex->out.total;
	exit->stderr_bytes = ex->err.total;
	exit->stdout_truncated = output_truncated(&ex->out);
	exit->stderr_truncated = output_truncated(&ex->err);
	ex->ended = true;
	execution_tell_reader(ex);
	pthread_mutex_unlock(&ex->lock);
}

static void *execution_thread(void *arg)
{
	struct execution *ex = arg;
	struct error *err = NULL;

	/* Where job and worker share a processor, the first byte of a burst does not take it from
	 * the job: what it writes until it pauses goes out as one message. */
	pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
	if (start(ex, &err) == 0) {
		run(ex);
		ex->exit.wall_usec = now_mono_usec() - ex->started_usec;
		drain(ex);
	} else {
		set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED, steal_ptr(err->text));
		error_free(err);
	}
	finish(ex);
	if (ex->process.pidfd >= 0)
		reap_init(ex);
	cgroup_free(ex->cgroup);
	ex->cgroup = NULL;
	return NULL;
}

void execution_free(struct execution *ex)
{
	launch_destroy(&ex->launch);
	output_free(&ex->out);
	output_free(&ex->err);
	close_fd(&ex->process.pidfd);
	close_fd(&ex->process.report_fd);
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
	ex->process = (struct launched){.pidfd = -1, .report_fd = -1};
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
	set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED, xstrdup(why->text));
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
	int r = pthread_create(&ex->thread, NULL, execution_thread, ex);
	return r ? error_errno(err, r, "a thread for the job") : 0;
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
	if (ex->thread)
		pthread_join(ex->thread, NULL);
	executor_forget(ex);
	execution_free(ex);
}
