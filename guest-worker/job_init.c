/* Process 1 of a job, and the job's process up to its exec.
 *
 * Where it is a copy of the worker, nothing here may allocate, lock or touch what another thread of
 * the worker may have held at the fork: system calls on what it was given only. Where the worker's
 * program is executed anew for it, it never comes to that program's main(): before that, and before
 * the libraries that the worker needs have begun, be_job_init() looks what it was called.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/util.h"
#include "guest-worker/launch_plan.h"

char job_init_name[] = "orchestrator-job-init";

struct job_init {
	struct launch_setup setup;
	pid_t job;
};

static void report(const struct launch_report *r)
{
	/* If the worker is gone, its end has killed us or will. */
	if (send(JOB_INIT_REPORT, r, sizeof(*r), MSG_NOSIGNAL) < 0)
		return;
}

static _Noreturn void fail(enum launch_step step)
{
	const struct launch_report r = {.type = LAUNCH_FAILED, .step = step, .errnum = errno};

	report(&r);
	_exit(1);
}

/* What the job's program must not have. */
static int hide_fds(void)
{
	static const int fds[] = {JOB_INIT_REPORT, JOB_INIT_CGROUP, JOB_INIT_START};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0)
			return -1;
	return 0;
}

/* Namespaces. -----------------------------------------------------------------------------------
 */

static int join_path(char *to, size_t size, const char *root, const char *below)
{
	size_t a = strlen(root), b = strlen(below);

	if (a == 1)
		a = 0; /* "/" */
	if (a + b >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(to, root, a);
	memcpy(to + a, below, b + 1);
	return 0;
}

/* What /proc shows that a job must not write, even one that runs as uid 0 (which owns these files,
 * and needs no capability for them): a core_pattern would be run by the kernel as root. */
static int guard_proc(const char *root)
{
	static const char *const read_only[] = {
		"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"};
	static const char *const hidden[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list"};
	const unsigned long flags =
		MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char path[512];

	for (size_t i = 0; i < ARRAY_SIZE(read_only); i++) {
		if (join_path(path, sizeof(path), root, read_only[i]) < 0)
			return -1;
		if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0) {
			if (errno == ENOENT)
				continue; /* not in this kernel */
			return -1;
		}
		if (mount(NULL, path, NULL, flags, NULL) < 0)
			return -1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(hidden); i++) {
		if (join_path(path, sizeof(path), root, hidden[i]) < 0)
			return -1;
		if (mount("/dev/null", path, NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
			return -1;
	}
	return 0;
}

static int mount_proc(const struct job_init *init)
{
	const char *root = init->setup.root.path;
	bool must = job_root_is_separate(&init->setup.root);
	char path[512];

	/* Otherwise a mount made here would appear in the machine's own namespace. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return must ? -1 : 0;
	if (!(init->setup.sandbox.namespaces & CLONE_NEWPID))
		return 0;
	if (join_path(path, sizeof(path), root, "/proc") < 0)
		return -1;
	if (mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ||
		guard_proc(root) < 0)
		return must ? -1 : 0; /* some containers forbid it: then the old one stays */
	return 0;
}

/* pivot_root() cannot leave an initramfs; moving the mount over "/" does the same for a process
 * that has no right to unmount. */
static int enter_root(const struct job_root *root)
{
	if (chdir(root->path) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		return -1;
	return chdir("/");
}

static void bring_loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
}

/* The job's process. ----------------------------------------------------------------------------
 */

static void tell_worker(const struct launch_report *r)
{
	if (send(JOB_INIT_START, r, sizeof(*r), MSG_NOSIGNAL) < 0)
		_exit(126); /* there is no worker any more */
}

static _Noreturn void job_fail(enum launch_step step)
{
	tell_worker(&(struct launch_report){.type = LAUNCH_FAILED, .step = step, .errnum = errno});
	_exit(125);
}

static int join_cgroup(void)
{
	int fd = openat(JOB_INIT_CGROUP, "cgroup.procs", O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, "0", 1) == 1 ? close(fd) : -1;
}

/* Born in its cgroup, where the kernel can do that: to move a process the kernel first waits until
 * no other makes one, which takes some ticks of its clock. *ret_joined in the child too. */
static pid_t clone_job(const struct job_init *init, bool *ret_joined)
{
	struct clone_args args = {
		.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = JOB_INIT_CGROUP};

	if (init->setup.cgroup) {
		*ret_joined = true;
		long pid = syscall(SYS_clone3, &args, sizeof(args));
		if (pid >= 0)
			return (pid_t)pid;
	}
	*ret_joined = false;
	return (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, NULL, NULL, NULL, 0UL);
}

/* The worker is safe from the out-of-memory killer; a job is not. */
static void allow_oom_kill(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "0", 1) == 1)
		close(fd);
}

static void reset_signals(void)
{
	struct sigaction action = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &action, NULL); /* fails for the two that cannot be changed */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void try_program(const struct launch *launch, const char *program)
{
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};

	/* Busy: another thread's fork still holds the script open for a moment. */
	for (int i = 0; i < 50; i++) {
		execve(program, launch->argv, launch->envp);
		if (errno != ETXTBSY)
			return;
		nanosleep(&pause, NULL);
	}
}

static _Noreturn void exec_program(const struct launch *launch)
{
	enum launch_step step = STEP_EXEC;
	int why = ENOENT;

	for (char **program = launch->programs; *program; program++) {
		try_program(launch, *program);
		if (errno == EACCES) {
			why = EACCES; /* unless a later one can be run */
		} else if (errno == ENOENT &&
			   faccessat(AT_FDCWD, *program, F_OK, AT_EACCESS) == 0) {
			step = STEP_INTERPRETER;
			break;
		} else if (errno != ENOENT && errno != ENOTDIR) {
			why = errno;
			break;
		}
	}
	errno = why;
	job_fail(step);
}

static _Noreturn void job_run(const struct job_init *init, bool joined)
{
	static const enum launch_step steps[] = {
		[SANDBOX_LIMITS] = STEP_LIMITS,
		[SANDBOX_CAPS] = STEP_CAPS,
		[SANDBOX_USER] = STEP_USER,
		[SANDBOX_WORKDIR] = STEP_WORKDIR,
		[SANDBOX_FILTER] = STEP_FILTER,
	};
	struct launch launch = {0};

	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (init->setup.cgroup && !joined && join_cgroup() < 0)
		job_fail(STEP_CGROUP);
	if (init->setup.cgroup)
		unshare(CLONE_NEWCGROUP); /* hides a path, no more: may fail */
	allow_oom_kill();
	reset_signals();
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
	enum sandbox_step failed = sandbox_confine(&init->setup.sandbox, geteuid() != 0);
	if (failed == SANDBOX_OK && launch_plan_receive(JOB_INIT_START, &launch) < 0)
		job_fail(STEP_PREPARE);
	if (failed == SANDBOX_OK)
		failed = sandbox_enter(&launch.user, launch.workdir);
	if (failed != SANDBOX_OK)
		job_fail(steps[failed]);
	tell_worker(&(struct launch_report){.type = LAUNCH_STARTING, .pid = getpid()});
	exec_program(&launch);
}

static void start_job(struct job_init *init)
{
	bool joined;

	init->job = clone_job(init, &joined);
	if (init->job < 0)
		fail(STEP_FORK);
	if (init->job == 0)
		job_run(init, joined);

	/* Ours would keep the job's streams open, and hide its start. */
	for (int fd = 0; fd < JOB_INIT_FDS; fd++)
		if (fd != JOB_INIT_REPORT)
			close(fd);
}

/* Watching. -------------------------------------------------------------------------------------
 */

/* Our children, which since we are their reaper are all orphans of the job too. Their own children
 * become ours when they die. */
static void kill_children(void)
{
	char buf[512];
	pid_t pid = 0;
	int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0;) {
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] >= '0' && buf[i] <= '9') {
				pid = pid * 10 + (buf[i] - '0');
			} else if (pid > 1) {
				kill(pid, SIGKILL);
				pid = 0;
			}
		}
	}
	close(fd);
}

static void kill_all(const struct job_init *init)
{
	if (init->setup.sandbox.namespaces & CLONE_NEWPID) {
		kill(-1, SIGKILL); /* everything in the namespace but us */
		return;
	}
	kill(-init->job, SIGKILL);
	kill_children();
}

/* Reap what there is. False when no child is left; *ret_ended when the program was among them. */
static bool reap(const struct job_init *init, int *ret_status, bool *ret_ended)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		if (pid == init->job) {
			*ret_status = status;
			*ret_ended = true;
		}
	}
	return pid == 0 || errno != ECHILD;
}

/* Until the program has ended; returns its status. */
static int watch(const struct job_init *init)
{
	sigset_t wanted;
	bool ended = false;
	int status = 0;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, LAUNCH_SIGNAL_STOP);
	sigaddset(&wanted, LAUNCH_SIGNAL_KILL);
	while (reap(init, &status, &ended) && !ended) {
		switch (sigwaitinfo(&wanted, NULL)) {
		case LAUNCH_SIGNAL_STOP:
			kill(-init->job, SIGTERM);
			kill(-init->job, SIGCONT); /* a stopped one must hear it */
			break;
		case LAUNCH_SIGNAL_KILL:
			kill_all(init);
			break;
		}
	}
	return status;
}

static void end_rest(const struct job_init *init)
{
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	sigset_t child;
	bool ended;
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	kill_all(init);
	while (reap(init, &status, &ended)) {
		sigtimedwait(&child, NULL, &pause);
		kill_all(init);
	}
}

static uint64_t usec(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * 1000000 + (uint64_t)tv->tv_usec;
}

/* The worker first: our end takes the namespaces apart. It may leave us waiting for a while. */
static void wait_to_be_let_go(void)
{
	char byte;

	while (read(JOB_INIT_REPORT, &byte, 1) < 0 && errno == EINTR)
		;
}

void job_init_run(void)
{
	struct job_init init = {0};
	struct rusage used;

	if (hide_fds() < 0)
		_exit(1);
	/* Not by prctl(): a sanitizer's takes a lock, which another thread may have had when we
	 * were forked. */
	syscall(SYS_prctl, PR_SET_NAME, "job-init");
	/* Not even root in the job may look at our memory, nor at the program that we are. */
	prctl(PR_SET_DUMPABLE, 0);
	if (launch_setup_receive(JOB_INIT_START, &init.setup) < 0)
		fail(STEP_PREPARE);
	const unsigned namespaces = init.setup.sandbox.namespaces;
	if (!(namespaces & CLONE_NEWPID))
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (namespaces & CLONE_NEWNS && mount_proc(&init) < 0)
		fail(STEP_MOUNT);
	if (job_root_is_separate(&init.setup.root) && enter_root(&init.setup.root) < 0)
		fail(STEP_ROOT);
	if (namespaces & CLONE_NEWNET)
		bring_loopback_up();
	start_job(&init);

	struct launch_report r = {.type = LAUNCH_ENDED, .status = watch(&init)};
	end_rest(&init);
	if (getrusage(RUSAGE_CHILDREN, &used) == 0) {
		r.user_usec = usec(&used.ru_utime);
		r.system_usec = usec(&used.ru_stime);
		r.max_rss_bytes = (uint64_t)used.ru_maxrss * 1024;
	}
	report(&r);
	wait_to_be_let_go();
	_exit(0);
}

/* 101: the first that is ours to have. */
__attribute__((constructor(101))) static void be_job_init(int argc, char **argv)
{
	if (argc == 1 && str_eq(argv[0], job_init_name))
		job_init_run();
}
