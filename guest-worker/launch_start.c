/* The worker's side of a job init: its pipes and sockets, its birth, its plan. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "guest-worker/launch.h"
#include "guest-worker/launch_plan.h"

#define PIPE_BYTES   (256 * 1024)
#define PLAN_SECONDS 5
#define END_WAIT_MS  10000
#define STACK	     (32 * KIB)

/* A sanitizer knows nothing of a child on a stack of its own in our memory. */
#define NOT_SANITIZED __attribute__((no_sanitize("address"), no_sanitize("thread")))

struct ends {
	int out[2], err[2], report[2], start[2]; /* ours first */
};

static void close_ends(struct ends *ends)
{
	for (int i = 0; i < 2; i++) {
		close_fd(&ends->out[i]);
		close_fd(&ends->err[i]);
		close_fd(&ends->report[i]);
		close_fd(&ends->start[i]);
	}
}
#define _cleanup_ends_ __attribute__((cleanup(close_ends)))

static int output_pipe(int ret[2])
{
	if (pipe2(ret, O_CLOEXEC) < 0 || fd_set_nonblock(ret[0], true) < 0)
		return -1;
	/* Fewer changes between the job and us; the default does too. */
	fcntl(ret[1], F_SETPIPE_SZ, PIPE_BYTES);
	return 0;
}

static int open_ends(struct ends *ret)
{
	const struct timeval limit = {.tv_sec = PLAN_SECONDS};

	if (output_pipe(ret->out) < 0 || output_pipe(ret->err) < 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret->report) < 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret->start) < 0)
		return -1;
	return setsockopt(ret->start[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static int send_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

/* The birth. ------------------------------------------------------------------------------------
 */

struct birth {
	int fds[JOB_INIT_FDS];
	int program; /* our own */
	int failed;  /* errno, by the child */
};

/* Move the fds to their places, by way of high numbers, so that none is overwritten before it was
 * moved; close all others. */
NOT_SANITIZED static int arrange_fds(struct birth *birth)
{
	const int count = JOB_INIT_FDS;
	int high[JOB_INIT_FDS + 1];

	for (int i = 0; i <= count; i++) {
		high[i] = fcntl(i < count ? birth->fds[i] : birth->program, F_DUPFD_CLOEXEC, 64);
		if (high[i] < 0)
			return -1;
	}
	for (int i = 0; i <= count; i++) {
		if (dup3(high[i], i, i < count ? 0 : O_CLOEXEC) < 0)
			return -1;
	}
	birth->program = count;
	return (int)syscall(SYS_close_range, (unsigned)count + 1, ~0U, 0U);
}

/* Shares our memory, and we wait, until it has become the new program or has ended: so nothing is
 * copied. */
NOT_SANITIZED static int be_born(void *arg)
{
	char *const argv[] = {job_init_name, NULL}, *const envp[] = {NULL};
	struct birth *birth = arg;

	/* Our parent cannot have ended yet. It is a thread, and each of them has its own. */
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (arrange_fds(birth) == 0)
		syscall(SYS_execveat, birth->program, "", argv, envp, AT_EMPTY_PATH);
	birth->failed = errno;
	_exit(1);
}

/* The other way: a copy of us. */
static pid_t fork_init(int flags, struct birth *birth, int *ret_pidfd)
{
	long pid = syscall(SYS_clone, (unsigned long)flags, NULL, ret_pidfd, NULL, 0UL);

	if (pid != 0)
		return (pid_t)pid;
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (arrange_fds(birth) < 0)
		_exit(1);
	job_init_run();
}

static pid_t bear(bool ahead, unsigned namespaces, struct birth *birth, int *ret_pidfd)
{
	_cleanup_free_ uint8_t *stack = ahead ? xmalloc(STACK) : NULL;
	sigset_t all, before;
	pid_t pid;

	/* No handler of ours may run in the child, which keeps them all blocked. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int flags = (int)namespaces | CLONE_PIDFD | SIGCHLD;
	if (ahead)
		pid = clone(
			be_born, stack + STACK, flags | CLONE_VM | CLONE_VFORK, birth, ret_pidfd);
	else
		pid = fork_init(flags, birth, ret_pidfd);
	int saved = pid < 0 ? errno : birth->failed;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = saved;
	return saved ? -1 : pid;
}

int launch_prepare(const struct job_root *root, const struct sandbox *sandbox, int cgroup_fd,
	bool ahead, struct launched *ret, struct error **err)
{
	_cleanup_ends_ struct ends ends = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int program = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	_cleanup_close_ int pidfd = -1;
	size_t size;

	if (null < 0 || program < 0)
		return error_errno(err, errno, null < 0 ? "/dev/null" : "/proc/self/exe");
	if (open_ends(&ends) < 0)
		return error_errno(err, errno, "making the job's pipes");
	_cleanup_free_ uint8_t *setup = launch_setup_pack(root, sandbox, cgroup_fd >= 0, &size);
	if (send_all(ends.start[0], setup, size) < 0)
		return error_errno(err, errno, "telling the job init what to do");

	struct birth birth = {.program = program,
		.fds = {[JOB_INIT_IN] = null,
			[JOB_INIT_OUT] = ends.out[1],
			[JOB_INIT_ERR] = ends.err[1],
			[JOB_INIT_REPORT] = ends.report[1],
			[JOB_INIT_CGROUP] = cgroup_fd >= 0 ? cgroup_fd : null,
			[JOB_INIT_START] = ends.start[1]}};
	pid_t pid = bear(ahead, sandbox->namespaces, &birth, &pidfd);
	if (pid < 0) {
		int saved = errno;
		if (pidfd >= 0) /* it was born, and has ended */
			waitid(P_PIDFD, (id_t)pidfd, &(siginfo_t){0}, WEXITED | __WALL);
		return error_errno(err, saved, "making the job's namespaces");
	}
	ret->pid = pid;
	ret->pidfd = steal_fd(pidfd);
	ret->report_fd = steal_fd(ends.report[0]);
	ret->start_fd = steal_fd(ends.start[0]);
	ret->out_fd = steal_fd(ends.out[0]);
	ret->err_fd = steal_fd(ends.err[0]);
	return 0;
}

/* A pipe for the job's output belongs to the job's user: /dev/stdout is opened anew by the
 * permissions of the pipe itself. */
static int give_pipes(const struct job_user *user, int out, int err)
{
	if (user->self)
		return 0;
	return fchown(out, user->uid, user->gid) < 0 ? -1 : fchown(err, user->uid, user->gid);
}

int launch_start(const struct launch *launch, const struct launched *process, struct error **err)
{
	if (give_pipes(&launch->user, process->out_fd, process->err_fd) < 0)
		return error_errno(err, errno, "giving the job its pipes");
	size_t size;
	_cleanup_free_ uint8_t *packed = launch_plan_pack(launch, &size);
	if (send_all(process->start_fd, packed, size) < 0)
		return error_errno(err, errno, "giving the job's process its plan");
	return 0;
}

bool launched_end(struct launched *process)
{
	struct pollfd fd = {.fd = process->pidfd, .events = POLLIN};

	syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
	bool ended = poll(&fd, 1, END_WAIT_MS) == 1;
	/* PID 1's reaper may have been faster. */
	waitid(P_PIDFD, (id_t)process->pidfd, &(siginfo_t){0}, WEXITED | WNOHANG | __WALL);
	close_fd(&process->pidfd);
	close_fd(&process->report_fd);
	close_fd(&process->start_fd);
	close_fd(&process->out_fd);
	close_fd(&process->err_fd);
	return ended;
}
