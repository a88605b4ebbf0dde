/* What this process gives up before it looks at the first byte from QEMU or the guest.
 *
 * If a guest takes this process over, it finds itself with: the guest's own memory, the host's
 * sockets for this one guest, and a directory with nothing else in it.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"

/* Stage 1: fds that were inherited by accident are closed: all from 3 on but those in keep (n of
 * them, in any order; negative ones are skipped). */
void sandbox_close_fds(const int *keep, unsigned n);

/* Stage 2: limits. No new privileges, no core dumps and no ptrace (guest memory is somebody's
 * data), no processes, no big files; at most max_fds fds. Returns how many fds it may really have.
 */
unsigned sandbox_limit(unsigned max_fds);

/* Stage 3: privileges and sight. The directory becomes the root, networks and with them abstract
 * sockets go out of reach, all capabilities are dropped; started by root, the process becomes the
 * owner of the directory. A host that allows no user namespaces to ordinary users leaves them the
 * file system: *ret_rooted is false, and stage 4 still holds. */
int sandbox_confine(const char *dir, bool *ret_rooted, struct error **err);

/* Stage 4: only the system calls that serving needs; any other ends the process. */
int sandbox_seal(struct error **err);
