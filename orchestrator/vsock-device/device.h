/* One guest's vsock device: QEMU's connection, the two rings, the host's sockets, one epoll loop.
 *
 * A turn of the loop: take what epoll has (messages of QEMU's, new and changed host sockets), then
 * move packets until there is nothing to move or the budget is used up, then interrupt the guest
 * once for each ring, then sleep until the next event or deadline. Kicks are asked for only when a
 * ring was found empty, so a busy guest does not leave its VM to kick us.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"

struct device;

/* path: what "_port" is appended to, at most DEVICE_PATH_MAX bytes. uds_fd: the listening socket
 * for the host's connections; borrowed. max: connections. */
#define DEVICE_PATH_MAX 96
struct device *device_new(const char *path, int uds_fd, uint64_t guest_cid, unsigned max);
void device_free(struct device *device);

/* Serve QEMU's connection (taken in every case) until it ends (0), stop_fd becomes readable (0), or
 * something is broken (-1). */
int device_run(struct device *device, int qemu_fd, int stop_fd, struct error **err);

/* The parts of a turn, for tests that bring their own loop: 1 go on, 0 ended, -1 broken. */
int device_attach(struct device *device, int qemu_fd, struct error **err);
int device_turn(struct device *device, int timeout_ms, struct error **err);
