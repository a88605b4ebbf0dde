#include "orchestrator/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/util.h"

extern char **environ;

void spawn_search_sbin(void)
{
	const char *path = getenv("PATH");
	_cleanup_free_ char *longer = str_printf(
		"%s:/usr/local/sbin:/usr/sbin:/sbin", path ? path : "/usr/local/bin:/usr/bin:/bin");

	if (!path || !strstr(path, "/usr/sbin"))
		setenv("PATH", longer, 1);
}

static void default_signals(posix_spawnattr_t *attr)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setsigdefault(attr, &all);
	posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

pid_t spawn_process(
	char *const argv[], const struct spawn_fd *fds, size_t n_fds, struct error **err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int lowest = 3;
	pid_t pid = -1;

	/* Targets must not collide with sources that are still to be moved: lift those out of the
	 * way first. dup'ed descriptors are CLOEXEC, so they do not reach the child by themselves.
	 */
	_cleanup_free_ int *lifted = xcalloc(n_fds, sizeof(*lifted));
	for (size_t i = 0; i < n_fds; i++)
		lowest = MAX(lowest, fds[i].target + 1);
	for (size_t i = 0; i < n_fds; i++)
		lifted[i] = fcntl(fds[i].fd, F_DUPFD_CLOEXEC, lowest);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	default_signals(&attr);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	for (size_t i = 0; i < n_fds; i++)
		posix_spawn_file_actions_adddup2(&actions, lifted[i], fds[i].target);
	posix_spawn_file_actions_addclosefrom_np(&actions, lowest);
	int e = posix_spawnp(&pid, argv[0], &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	for (size_t i = 0; i < n_fds; i++)
		close_fd(&lifted[i]);
	if (e)
		return error_errno(err, e, "starting %s", argv[0]);
	return pid;
}

int spawn_wait(pid_t pid, int timeout_ms, int *ret_status)
{
	_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	int n;

	*ret_status = 0;
	do
		n = fd < 0 ? 1 : poll(&pfd, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return -1;
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return 0;
}

/* The last line in a file of what a program said. */
static char *last_line(int fd)
{
	char buf[4096];
	off_t end = lseek(fd, 0, SEEK_END);
	off_t from = MAX(0, end - (off_t)sizeof(buf) + 1);
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, from);

	if (n <= 0)
		return xstrdup("");
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	ssize_t start = n;
	while (start > 0 && buf[start - 1] != '\n')
		start--;
	return str_escape(buf + start, (size_t)(n - start), false);
}

int spawn_run(char *const argv[], int timeout_ms, struct error **err)
{
	_cleanup_close_ int said = memfd_create("stderr", MFD_CLOEXEC);
	struct spawn_fd fds[] = {{said, 1}, {said, 2}};
	int status;

	if (said < 0)
		return error_errno(err, errno, "starting %s", argv[0]);
	pid_t pid = spawn_process(argv, fds, ARRAY_SIZE(fds), err);
	if (pid < 0)
		return -1;
	if (spawn_wait(pid, timeout_ms, &status) < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return error_set(err, ERR_TIMEOUT, "%s does not end", argv[0]);
	}
	if (status == 0)
		return 0;
	_cleanup_free_ char *line = last_line(said);
	if (WIFSIGNALED(status))
		return error_set(
			err, ERR_UNKNOWN, "%s was killed by signal %d", argv[0], WTERMSIG(status));
	return error_set(err, strstr(line, "No space left") ? ERR_LIMIT : ERR_UNKNOWN,
		"%s failed with exit code %d%s%s", argv[0], WEXITSTATUS(status), *line ? ": " : "",
		line);
}
