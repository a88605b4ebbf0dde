/* Runs the command line as a process of its own and looks at it: this very program, executed again,
 * is the command line when it is called "orchestrator". So a daemon that a command starts is this
 * program too, and what it does is up to the test's own `serve`. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "orchestrator/cli/cli.h"

#define PATIENCE_MS 60000

struct ran {
	pid_t pid;
	int out_fd, err_fd; /* read ends */
	char *out, *err;    /* owned; what came */
	int code;	    /* 128+n when a signal ended it */
};

static char run_dir[64]; /* this test's own, with everything in it */

/* main() of a test program: is this run the command line, rather than the test? */
static bool run_is_cli(char **argv)
{
	return str_eq(argv[0], "orchestrator");
}

static int run_setup(void **state)
{
	(void)state;
	snprintf(run_dir, sizeof(run_dir), "/tmp/test_cli.XXXXXX");
	if (!mkdtemp(run_dir) || chdir(run_dir) < 0)
		return -1;
	_cleanup_free_ char *state_dir = str_printf("%s/state", run_dir);
	setenv("HOME", run_dir, 1);
	setenv("ORCHESTRATOR_STATE_DIR", state_dir, 1);
	setenv("TZ", "UTC", 1);
	setenv("TERM", "xterm", 1);
	setenv("NO_COLOR", "1", 1);
	unsetenv("ORCHESTRATOR_RUNTIME_DIR");
	unsetenv("XDG_CONFIG_HOME");
	return 0;
}

static int run_teardown(void **state)
{
	(void)state;
	return chdir("/") < 0 ? -1 : remove_tree(run_dir, NULL);
}

/* Where stdout goes instead of being read. */
static const char *run_stdout;

/* args: words after "orchestrator", NULL at the end. */
static struct ran run_begin(const char *const *args)
{
	struct ran ran = {.out = xstrdup(""), .err = xstrdup("")};
	const char *argv[40] = {"orchestrator"};
	int out[2], err[2];

	for (int i = 0; args[i]; i++)
		argv[i + 1] = args[i];
	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		abort();
	ran.pid = fork();
	if (ran.pid == 0) {
		int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
		dup2(null, STDIN_FILENO);
		dup2(run_stdout ? open(run_stdout, O_WRONLY | O_CLOEXEC) : out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
		_exit(99);
	}
	close(out[1]);
	close(err[1]);
	ran.out_fd = out[0];
	ran.err_fd = err[0];
	return ran;
}

static void run_append(char **text, int *fd)
{
	char buf[65536];
	ssize_t n = read(*fd, buf, sizeof(buf) - 1);

	if (n <= 0) {
		close_fd(fd);
		return;
	}
	buf[n] = 0;
	char *old = *text;
	*text = str_printf("%s%s", old, buf);
	free(old);
}

/* Read until both streams ended, or stdout or stderr has `until` in it (NULL: until the end). */
static void run_read(struct ran *ran, const char *until)
{
	while (ran->out_fd >= 0 || ran->err_fd >= 0) {
		struct pollfd pfds[] = {{.fd = ran->out_fd, .events = POLLIN},
			{.fd = ran->err_fd, .events = POLLIN}};

		if (until && (strstr(ran->out, until) || strstr(ran->err, until)))
			return;
		if (poll(pfds, 2, PATIENCE_MS) <= 0)
			break;
		if (pfds[0].revents)
			run_append(&ran->out, &ran->out_fd);
		if (pfds[1].revents)
			run_append(&ran->err, &ran->err_fd);
	}
}

static void run_end(struct ran *ran)
{
	int status = 0;

	run_read(ran, NULL);
	if (ran->out_fd >= 0 || ran->err_fd >= 0)
		kill(ran->pid, SIGKILL); /* it said nothing for too long */
	close_fd(&ran->out_fd);
	close_fd(&ran->err_fd);
	while (waitpid(ran->pid, &status, 0) < 0 && errno == EINTR)
		;
	ran->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run_free(struct ran *ran)
{
	free(ran->out);
	free(ran->err);
}
#define _cleanup_ran_ __attribute__((cleanup(run_free)))

static struct ran run_words(const char *const *args)
{
	struct ran ran = run_begin(args);

	run_end(&ran);
	return ran;
}
#define run_cli(...) run_words((const char *const[]){__VA_ARGS__, NULL})

/* An exit code and, in whatever else there is, a part of stderr. */
#define assert_ran(ran, expected_code, part)                                                       \
	do {                                                                                       \
		if ((ran).code != (expected_code) || !strstr((ran).err, part))                     \
			print_error("exit code %d\nstdout: %s\nstderr: %s\n", (ran).code,          \
				(ran).out, (ran).err);                                             \
		assert_int_equal((ran).code, expected_code);                                       \
		assert_non_null(strstr((ran).err, part));                                          \
	} while (0)

static void run_put(const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", run_dir, name);

	if (write_file(path, text, strlen(text), 0644, false, NULL) < 0)
		abort();
}
