/* A real QEMU with the vsock device and the guest of tests/bench/vsock_guest.c, for tests and
 * benchmarks of the device. Failures in here print a line and exit: without a VM there is no test.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct vsock_vm {
	char dir[32]; /* private; holds the sockets and the console's output */
	pid_t device, qemu;
	int ready; /* listens on the host's port GUEST_READY */
};

/* Start the device (program), then QEMU with DIR/kernel and DIR/initramfs of make-vsock-guest. The
 * guest is not ready yet. */
void vsock_vm_start(struct vsock_vm *vm, const char *program, const char *guest_dir);
/* Wait for the guest's word. 0, or -1: not within timeout_ms. */
int vsock_vm_wait_ready(struct vsock_vm *vm, int timeout_ms);
/* Ends both processes, by force if they do not go, and removes everything. Also called at exit. */
void vsock_vm_stop(struct vsock_vm *vm);

/* Connect to a port of the guest: an fd behind the handshake, or -1: refused. */
int vsock_vm_dial(const struct vsock_vm *vm, unsigned port);
/* Only the Unix connection and the line. */
int vsock_vm_ask(const struct vsock_vm *vm, unsigned port);
/* Connect to a Unix socket; or -1. */
int vsock_vm_unix(const char *path);
/* Listen on a port of the host's, for the guest. */
int vsock_vm_listen(const struct vsock_vm *vm, unsigned port);
/* Accept within timeout_ms, or -1. */
int vsock_accept(int listen_fd, int timeout_ms);

/* A path below the VM's directory; static storage. */
const char *vsock_vm_path(const struct vsock_vm *vm, const char *name);
/* The process ends within timeout_ms: its status, or -1: it does not. */
int wait_pid(pid_t pid, int timeout_ms);
/* Private memory that is resident, without files and shared memory; KiB. */
long rss_kib(pid_t pid, const char *field);
