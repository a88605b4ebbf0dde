/* The vsock device of a VM: the kernel's vhost-vsock where it is usable, otherwise the userspace
 * one, a small process per VM (orchestrator/vsock-device). Both are hidden behind connect(port) ->
 * fd. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "orchestrator/config.h"

/* The userspace device of a VM may have more files open than this, or it does not start. */
#define VSOCK_DEVICE_FILES 128

enum vsock_kind { VSOCK_DEVICE_KERNEL, VSOCK_DEVICE_USER };

/* Which device this host's VMs get. With `kernel` asked for and not possible: an error that says
 * why (module, permission and which group). remote: QEMU is started by a daemon with rights of its
 * own. */
int vsock_choose(
	enum config_vsock wanted, bool remote, enum vsock_kind *ret_kind, struct error **err);
const char *vsock_kind_name(enum vsock_kind kind); /* "kernel", "user" */

struct vsock_device;

/* For a VM whose private directory is dir; owner: who QEMU and the device's process run as (-1: as
 * we). The userspace device's process is started here, lives until its VM is gone, and finds the
 * directory given to them. */
struct vsock_device *vsock_device_new(enum vsock_kind kind, const char *dir, uint32_t cid,
	uid_t uid, gid_t gid, struct error **err);
/* The device of a VM that runs already; pidfd of its process (taken), or -1: it has ended, or the
 * device is the kernel's. */
struct vsock_device *vsock_device_adopt(
	enum vsock_kind kind, const char *dir, uint32_t cid, int pidfd);
/* The socket for QEMU's vhost-user chardev; NULL for the kernel's device. */
const char *vsock_device_vhost_socket(const struct vsock_device *device);
/* A listening socket on which the guest announces itself (READY_PORT); -1 for the kernel's device:
 * nothing of ours listens on AF_VSOCK, there the console tells. */
int vsock_device_ready_fd(const struct vsock_device *device);
/* Connect to a port of the guest: a connected blocking fd, or -1; with ERR_CANCELLED once cancel_fd
 * is readable. */
int vsock_device_connect(const struct vsock_device *device, uint32_t port, int timeout_ms,
	int cancel_fd, struct error **err);
/* Readable when the device's process has ended; -1: it has none. */
int vsock_device_end_fd(const struct vsock_device *device);
/* Its process has ended; it is collected here. */
bool vsock_device_has_ended(struct vsock_device *device);
/* Then its wait status; -1 for one that an earlier daemon started. */
int vsock_device_status(struct vsock_device *device);
/* The device's process; 0: none. */
pid_t vsock_device_pid(const struct vsock_device *device);
/* Ends the process if it still runs; call after QEMU is gone. */
void vsock_device_free(struct vsock_device *device);
