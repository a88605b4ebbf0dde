/* What is to be run: a request as a plan. The start is in launch_start.c. */
#include "guest-worker/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/util.h"

#define DEFAULT_PATH  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PATH_ELEMENTS 64

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
