/* For tests of what must work with and without root's rights. */
#pragma once

#include <grp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Run the tests once more in a process of user nobody; how many failed. Before the first thread. */
static inline int run_as_nobody(int (*run)(const char *name), const char *name)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 ||
			setresuid(65534, 65534, 65534) < 0)
			_exit(1);
		/* As in a program that nobody started. */
		prctl(PR_SET_DUMPABLE, 1);
		exit(run(name));
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
