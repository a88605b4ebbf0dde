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

/* Both in the job's process, in its namespaces and root, one after the other. Async-signal-safe. On
 * failure they return the step, and errno says why.
 *
 * The first gives up what no job has, whoever runs it, in this order: resource limits; the
 * capability bounding set (needs CAP_SETPCAP); no_new_privs, so that no set-uid file gives anything
 * back; the system call filter, which the second keeps to as well. self: as in struct job_user. */
enum sandbox_step sandbox_confine(const struct sandbox *sandbox, bool self);
/* The second becomes the user: groups and uid (need CAP_SETUID); the capabilities themselves; the
 * working directory (as the user, so that the user's rights decide). */
enum sandbox_step sandbox_enter(const struct job_user *user, const char *workdir);
