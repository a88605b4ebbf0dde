/* What a job's process gives up before it becomes the job's program.
 *
 * The filter is made once, by sandbox_prepare(), on an ordinary thread; sandbox_enter() runs in a
 * process forked from a program with threads, where nothing may be called that allocates or locks.
 */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>

#include "common/error.h"
#include "guest-worker/job_user.h"

struct sandbox {
	struct sock_fprog filter; /* owned */
	unsigned namespaces;	  /* CLONE_NEW* flags that this process may use */
	int last_cap;
};

/* init: we are PID 1 and may do everything; else each namespace is tried, and one log line says
 * which are missing. */
int sandbox_prepare(bool init, struct sandbox *ret, struct error **err);
void sandbox_destroy(struct sandbox *sandbox);

enum sandbox_step {
	SANDBOX_OK,
	SANDBOX_LIMITS,
	SANDBOX_CAPS,
	SANDBOX_USER,
	SANDBOX_WORKDIR,
	SANDBOX_FILTER,
};

/* In the job's process, in its namespaces and root. Enters workdir as the user. Async-signal-safe.
 * On failure returns the step, and errno says why. */
enum sandbox_step sandbox_enter(
	const struct sandbox *sandbox, const struct job_user *user, const char *workdir);
