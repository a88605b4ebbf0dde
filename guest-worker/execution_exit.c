/* How an execution ended, by what the job's processes and the kernel said. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "common/util.h"
#include "guest-worker/executor_internal.h"

void execution_set_exit(struct execution *ex, Worker__V1__RunExit__Reason reason, char *error)
{
	ex->exit.reason = reason;
	free(ex->error);
	ex->error = error;
	ex->exit.error = error;
}

void execution_exit_not_started(struct execution *ex, const struct launch_report *r)
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
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND,
			str_printf("%s: the interpreter it names is not in the image", name));
	else if (r->step == STEP_EXEC && r->errnum == ENOENT && strchr(name, '/'))
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND,
			str_printf("%s: not found in the image", name));
	else if (r->step == STEP_EXEC && r->errnum == ENOENT)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND,
			str_printf("%s: not found in the image's PATH", name));
	else if (r->step == STEP_EXEC && r->errnum == E2BIG)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			str_printf("%s: arguments and environment are too large", name));
	else if (r->step == STEP_EXEC)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__NOT_EXECUTABLE,
			str_printf("%s: %s", name, why));
	else if (r->step == STEP_WORKDIR)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
			str_printf("working directory %s: %s", ex->launch.workdir, why));
	else
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__START_FAILED,
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

void execution_exit_after_run(struct execution *ex)
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
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__OOM_KILLED,
			xstrdup("out of memory: the kernel killed the job"));
	else if (ex->why == STOPPED_TIMEOUT)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__TIMED_OUT, NULL);
	else if (ex->why == STOPPED_ORDER)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__STOPPED, NULL);
	else if (!ex->has_end)
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__SIGNALED,
			xstrdup("the process that watches the job was killed"));
	else if (WIFEXITED(ex->end.status))
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__EXITED, NULL);
	else
		execution_set_exit(ex, WORKER__V1__RUN_EXIT__REASON__SIGNALED, NULL);
}
