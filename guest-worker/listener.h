/* Where the host comes in: the worker's listening socket, and who may use it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "guest-worker/service.h"

struct listener;

/* vsock: on every CID of ours. unix_path: a Unix socket instead (mode 0600), for tests; or NULL.
 * privileged: the host always dials from a port below 1024, so that whoever does not is another of
 * its users. */
struct listener *listener_new(struct worker *worker, uint32_t port, const char *unix_path,
	bool privileged, struct error **err);
/* Accept, on a thread of its own. */
int listener_start(struct listener *listener, struct error **err);
/* Takes no more connections; those that are there stay. */
void listener_free(struct listener *listener);

/* The host alone: not a process of this guest (its own CID, or VMADDR_CID_LOCAL), not another
 * guest, not the hypervisor's CID 0. */
bool listener_cid_allowed(uint32_t cid);
/* Ports that the kernel gives only to a process with CAP_NET_BIND_SERVICE. */
bool listener_port_is_privileged(uint32_t port);
/* Check a connection before a byte of it is read: ERR_DENIED, also when its peer cannot be found
 * out. */
int listener_check_peer(int fd, bool vsock, bool privileged, struct error **err);

/* Tell the host that the worker listens: dial it, say "ready BOOT_ID\n", hang up. Failure is no
 * matter: a host without that port polls. */
void listener_announce(uint32_t port, const char *boot_id);
