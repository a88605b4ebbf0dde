#include "orchestrator/cli/connect_start.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/util.h"

#define LIMIT_READY_LINE 4096
#define LIMIT_LOG_TAIL	 1024

/* In the child: nothing of the command's may reach the daemon but its environment. */
static void __attribute__((noreturn))
exec_daemon(char *const *argv, int log_fd, int ready_fd, int error_fd)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (setsid() >= 0 && null_fd >= 0 && dup2(null_fd, STDIN_FILENO) >= 0 &&
		dup2(log_fd, STDOUT_FILENO) >= 0 && dup2(log_fd, STDERR_FILENO) >= 0 &&
		chdir("/") == 0 && fcntl(ready_fd, F_SETFD, 0) == 0)
		execv("/proc/self/exe", argv);
	dprintf(error_fd, "error: %s\n", strerrordesc_np(errno));
	_exit(EXIT_FAILURE);
}

/* The last line of the log that was written after `from`, for a daemon that ended without a word.
 */
static char *log_tail(int log_fd, off_t from)
{
	char buf[LIMIT_LOG_TAIL + 1];
	off_t end = lseek(log_fd, 0, SEEK_END);
	off_t start = MAX(from, end - (off_t)LIMIT_LOG_TAIL);
	ssize_t n = pread(log_fd, buf, LIMIT_LOG_TAIL, start);

	while (n > 0 && buf[n - 1] == '\n')
		n--;
	if (n <= 0)
		return NULL;
	buf[n] = 0;
	char *line = strrchr(buf, '\n');
	return xstrdup(line ? line + 1 : buf);
}

/* One line from the pipe. "" when it was closed without one. */
static int read_line(int fd, uint64_t deadline, char *line, size_t size, struct error **err)
{
	size_t n = 0;

	for (;;) {
		uint64_t now = now_mono_usec();
		struct pollfd pfd = {.fd = fd, .events = POLLIN};

		if (now >= deadline)
			return error_set(err, ERR_TIMEOUT, "it was not ready in time");
		int r = poll(&pfd, 1, (int)((deadline - now + 999) / 1000));
		if (r <= 0)
			continue; /* EINTR; or the time is up, which is seen above */
		ssize_t got = read(fd, line + n, size - 1 - n);
		if (got < 0 && errno != EINTR)
			return error_errno(err, errno, "reading its answer");
		if (got > 0)
			n += (size_t)got;
		line[n] = 0;
		char *newline = strchr(line, '\n');
		if (newline)
			*newline = 0;
		if (newline || got == 0 || n == size - 1)
			return 0;
	}
}

static int wait_ready(int fd, int log_fd, off_t log_start, const char *log_path, uint64_t deadline,
	struct error **err)
{
	char line[LIMIT_READY_LINE];

	if (read_line(fd, deadline, line, sizeof(line), err) < 0)
		return error_wrap(err, "see %s", log_path);
	if (str_eq(line, "ready"))
		return 0;
	if (str_starts(line, "error: "))
		return error_set(err, ERR_INTERNAL, "%s", line + 7);
	_cleanup_free_ char *tail = log_tail(log_fd, log_start);
	return error_set(err, ERR_INTERNAL, "it ended at once: %s (more in %s)",
		tail ? tail : "without a word", log_path);
}

int connect_start_daemon(const struct cli *cli, uint64_t deadline, struct error **err)
{
	_cleanup_free_ char *log_path = str_printf("%s/daemon.log", cli->config->state_dir);
	_cleanup_close_ int read_fd = -1, write_fd = -1;
	char number[16];
	int fds[2], n = 0;

	if (make_dirs(cli->config->state_dir, config_dir_mode(), err) < 0)
		return error_wrap(err, "making the state directory");
	_cleanup_close_ int log_fd =
		open(log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (log_fd < 0)
		return error_errno(err, errno, "%s", log_path);
	off_t log_start = lseek(log_fd, 0, SEEK_END);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_errno(err, errno, "a pipe");
	read_fd = fds[0];
	write_fd = fds[1];
	snprintf(number, sizeof(number), "%d", write_fd);

	/* execv wants no const, and changes nothing. */
	const char *argv[12] = {"orchestrator"};
	n = 1;
	if (cli->config_file) {
		argv[n++] = "--config";
		argv[n++] = cli->config_file;
	}
	if (cli->state_dir) {
		argv[n++] = "--state-dir";
		argv[n++] = cli->state_dir;
	}
	argv[n++] = "serve";
	argv[n++] = "--idle-exit";
	argv[n++] = "--ready-fd";
	argv[n++] = number;
	pid_t pid = fork();
	if (pid < 0)
		return error_errno(err, errno, "fork");
	if (pid == 0)
		exec_daemon((char *const *)(uintptr_t)argv, log_fd, write_fd, write_fd);
	close_fd(&write_fd);
	return wait_ready(read_fd, log_fd, log_start, log_path, deadline, err);
}
