#include "guest-worker/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/util.h"
#include "guest-worker/launch_plan.h"

#define DEFAULT_PATH  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PATH_ELEMENTS 64
#define PIPE_BYTES    (256 * 1024)
#define PLAN_SECONDS  5

/* The plan. -------------------------------------------------------------------------------------
 */

static void free_strings(char **strings)
{
	for (size_t i = 0; strings && strings[i]; i++)
		free(strings[i]);
	free(strings);
}

static const char *env_find(char **env, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; env[i]; i++) {
		if (strncmp(env[i], name, n) == 0 && env[i][n] == '=')
			return env[i] + n + 1;
	}
	return NULL;
}

/* env has room for one more. The last value of a name counts. */
static void env_set(char **env, const char *name, const char *value)
{
	size_t n = strlen(name), i;

	for (i = 0; env[i]; i++) {
		if (strncmp(env[i], name, n) == 0 && env[i][n] == '=')
			break;
	}
	free(env[i]);
	env[i] = str_printf("%s=%s", name, value);
}

static int plan_env(const Worker__V1__RunStart *start, struct launch *launch, struct error **err)
{
	if (start->n_env > LIMIT_ENV)
		return error_set(err, ERR_INVALID, "more than %d environment variables", LIMIT_ENV);
	launch->envp = xcalloc(start->n_env + 5, sizeof(char *));
	env_set(launch->envp, "PATH", DEFAULT_PATH);
	env_set(launch->envp, "HOME", launch->user.home);
	env_set(launch->envp, "USER", launch->user.name);
	env_set(launch->envp, "LOGNAME", launch->user.name);
	for (size_t i = 0; i < start->n_env; i++) {
		const Job__V1__EnvVar *var = start->env[i];
		if (!*var->name || strchr(var->name, '='))
			return error_set(err, ERR_INVALID,
				"not an environment variable's name: \"%s\"", var->name);
		env_set(launch->envp, var->name, var->value);
	}
	return 0;
}

static int plan_script(const char *script, struct launch *launch, struct error **err)
{
	uint8_t random[8];

	if (!str_starts(script, "#!")) {
		/* The last word is $0, in the shell's error messages. */
		const char *const argv[] = {"/bin/sh", "-c", script, "script"};
		launch->argv = xcalloc(ARRAY_SIZE(argv) + 1, sizeof(char *));
		for (size_t i = 0; i < ARRAY_SIZE(argv); i++)
			launch->argv[i] = xstrdup(argv[i]);
		return 0;
	}

	random_bytes(random, sizeof(random));
	_cleanup_free_ char *unique = hex_encode(random, sizeof(random));
	_cleanup_free_ char *name = str_printf(".script-%s", unique);
	_cleanup_close_ int dir = job_root_open(launch->root, "/tmp", O_PATH | O_DIRECTORY, 0);
	if (dir < 0)
		return error_errno(err, errno, "a place for the script, /tmp");
	_cleanup_close_ int fd =
		openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0700);
	if (fd < 0)
		return error_errno(err, errno, "writing the script to /tmp");
	launch->script = steal_ptr(name);
	if (write_all(fd, script, strlen(script)) < 0 || fchmod(fd, 0755) < 0)
		return error_errno(err, errno, "writing the script to /tmp");
	launch->argv = xcalloc(2, sizeof(char *));
	launch->argv[0] = str_printf("/tmp/%s", launch->script);
	return 0;
}

static int plan_argv(const Worker__V1__RunStart *start, struct launch *launch, struct error **err)
{
	if ((start->n_argv > 0) == (start->script != NULL))
		return error_set(err, ERR_INVALID, "a job has either argv or a script");
	if (start->script) {
		if (strlen(start->script) > LIMIT_SCRIPT)
			return error_set(err, ERR_INVALID, "the script is larger than %llu bytes",
				(unsigned long long)LIMIT_SCRIPT);
		return plan_script(start->script, launch, err);
	}
	if (start->n_argv > LIMIT_ARGS)
		return error_set(err, ERR_INVALID, "more than %d arguments", LIMIT_ARGS);
	if (!*start->argv[0])
		return error_set(err, ERR_INVALID, "the command is an empty string");
	launch->argv = xcalloc(start->n_argv + 1, sizeof(char *));
	for (size_t i = 0; i < start->n_argv; i++)
		launch->argv[i] = xstrdup(start->argv[i]);
	return 0;
}

/* Where execvp() would look; the job's process tries them with its own rights. */
static void plan_programs(struct launch *launch)
{
	const char *name = launch->argv[0];
	_cleanup_free_ char *path = xstrdup(env_find(launch->envp, "PATH"));
	char *rest = path;
	size_t n = 0;

	launch->programs = xcalloc(PATH_ELEMENTS + 1, sizeof(char *));
	if (strchr(name, '/')) {
		launch->programs[0] = xstrdup(name);
		return;
	}
	for (char *dir; n < PATH_ELEMENTS && (dir = strsep(&rest, ":"));)
		launch->programs[n++] = str_printf("%s/%s", *dir ? dir : ".", name);
}

int launch_plan(const Worker__V1__RunStart *start, const struct job_root *root,
	const struct sandbox *sandbox, struct launch *ret, struct error **err)
{
	struct launch launch = {.root = root, .sandbox = sandbox};
	const char *dir = start->working_dir && *start->working_dir ? start->working_dir : ".";

	if (job_user_find(root, start->user, &launch.user, err) < 0 ||
		plan_env(start, &launch, err) < 0 || plan_argv(start, &launch, err) < 0) {
		launch_destroy(&launch);
		return -1;
	}
	launch.workdir = *dir == '/'	    ? xstrdup(dir)
			 : str_eq(dir, ".") ? xstrdup(root->workdir)
					    : str_printf("%s/%s", root->workdir, dir);
	plan_programs(&launch);
	*ret = launch;
	return 0;
}

void launch_destroy(struct launch *launch)
{
	if (launch->script) {
		_cleanup_close_ int dir =
			job_root_open(launch->root, "/tmp", O_PATH | O_DIRECTORY, 0);
		if (dir >= 0)
			unlinkat(dir, launch->script, 0);
	}
	free_strings(launch->argv);
	free_strings(launch->envp);
	free_strings(launch->programs);
	free(launch->workdir);
	free(launch->script);
	memset(launch, 0, sizeof(*launch));
}

/* The start. ------------------------------------------------------------------------------------
 */

static int output_pipe(int ret[2])
{
	if (pipe2(ret, O_CLOEXEC) < 0 || fd_set_nonblock(ret[0], true) < 0)
		return -1;
	/* Fewer changes between the job and us; the default does too. */
	fcntl(ret[1], F_SETPIPE_SZ, PIPE_BYTES);
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

static long clone_init(unsigned namespaces, int *ret_pidfd)
{
	return syscall(SYS_clone, (unsigned long)(namespaces | CLONE_PIDFD) | SIGCHLD, NULL,
		ret_pidfd, NULL, 0UL);
}

struct pipes {
	int out[2], err[2], report[2];
};

static void close_pipes(struct pipes *pipes)
{
	for (int i = 0; i < 2; i++) {
		close_fd(&pipes->out[i]);
		close_fd(&pipes->err[i]);
		close_fd(&pipes->report[i]);
	}
}

static int open_pipes(struct pipes *ret)
{
	*ret = (struct pipes){{-1, -1}, {-1, -1}, {-1, -1}};
	if (output_pipe(ret->out) < 0 || output_pipe(ret->err) < 0 ||
		pipe2(ret->report, O_CLOEXEC) < 0 || fd_set_nonblock(ret->report[0], true) < 0) {
		close_pipes(ret);
		return -1;
	}
	return 0;
}

/* plan_fd: its end of the socket, or -1. */
static int start(const struct launch *launch, int cgroup_fd, int plan_fd, struct launched *ret,
	struct error **err)
{
	struct pipes pipes;
	sigset_t all, before;
	int pidfd = -1;

	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null < 0)
		return error_errno(err, errno, "/dev/null");
	if (open_pipes(&pipes) < 0)
		return error_errno(err, errno, "making the job's pipes");

	if (plan_fd < 0 && give_pipes(&launch->user, pipes.out[1], pipes.err[1]) < 0) {
		close_pipes(&pipes);
		return error_errno(err, errno, "giving the job its pipes");
	}

	/* No handler of ours may run in the child, which keeps them all blocked. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	long pid = clone_init(launch->sandbox->namespaces, &pidfd);
	if (pid == 0) {
		const struct job_init_fds fds = {
			null, pipes.out[1], pipes.err[1], pipes.report[1], cgroup_fd, plan_fd};
		job_init_run(launch, launch->sandbox->namespaces, &fds);
	}
	int saved = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0) {
		close_pipes(&pipes);
		return error_errno(err, saved, "making the job's namespaces");
	}
	ret->pid = (pid_t)pid;
	ret->pidfd = pidfd;
	ret->report_fd = steal_fd(pipes.report[0]);
	ret->out_fd = steal_fd(pipes.out[0]);
	ret->err_fd = steal_fd(pipes.err[0]);
	close_pipes(&pipes);
	return 0;
}

int launch_start(
	const struct launch *launch, int cgroup_fd, struct launched *ret, struct error **err)
{
	return start(launch, cgroup_fd, -1, ret, err);
}

int launch_spare(const struct job_root *root, const struct sandbox *sandbox, int cgroup_fd,
	struct launched *ret, int *ret_plan_fd, struct error **err)
{
	const struct launch launch = {.root = root, .sandbox = sandbox};
	const struct timeval limit = {.tv_sec = PLAN_SECONDS};
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, errno, "a socket for a job's plan");
	_cleanup_close_ int ours = ends[0], its = ends[1];
	if (setsockopt(ours, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return error_errno(err, errno, "a socket for a job's plan");
	if (start(&launch, cgroup_fd, its, ret, err) < 0)
		return -1;
	*ret_plan_fd = steal_fd(ours);
	return 0;
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

int launch_spare_use(
	const struct launch *launch, const struct launched *spare, int plan_fd, struct error **err)
{
	if (give_pipes(&launch->user, spare->out_fd, spare->err_fd) < 0)
		return error_errno(err, errno, "giving the job its pipes");
	size_t size;
	_cleanup_free_ uint8_t *packed = launch_plan_pack(launch, &size);
	if (send_all(plan_fd, packed, size) < 0)
		return error_errno(err, errno, "giving the job's process its plan");
	return 0;
}
