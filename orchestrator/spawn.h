/* Child processes, started without a shell. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

struct spawn_fd {
	int fd;	    /* in this process; borrowed */
	int target; /* in the child */
};

/* Start argv[0] (a path, or found in PATH) with only stdio and the given descriptors; stdin is
 * /dev/null, stdout and stderr are ours unless given. Signals are unblocked and default in the
 * child. Returns the pid, which the caller must wait for, or -1. */
pid_t spawn_process(
	char *const argv[], const struct spawn_fd *fds, size_t n_fds, struct error **err);

/* Debian gives ordinary users a PATH without the sbin directories, where mke2fs and others are: put
 * them behind. Before there are threads. */
void spawn_search_sbin(void);

/* Start, wait, and turn a failure into an error with the last line of what it said on stderr. After
 * timeout_ms it is killed (ERR_TIMEOUT). */
int spawn_run(char *const argv[], int timeout_ms, struct error **err);

/* Wait for pid. 0 and *ret_status as from waitpid(); -1 when it still runs after timeout_ms. */
int spawn_wait(pid_t pid, int timeout_ms, int *ret_status);
