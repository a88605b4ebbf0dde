/* For tests that change what belongs to the whole process, such as its mounts. */
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#define CHILD_MAY_NOT 77 /* the right to do so is missing: not verified */

/* Run the function in a child; it returns 0, CHILD_MAY_NOT, or a number that says what went wrong.
 */
static inline void assert_in_child(int (*run)(void *arg), void *arg)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(run(arg));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == CHILD_MAY_NOT) {
		print_message("NOT VERIFIED: this user has no right to mount\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}
