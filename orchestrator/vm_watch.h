/* Watches over all running VMs on one thread: reads their consoles, so that a guest is never held
 * up by us, keeps them in capped files, notices what a kernel says there, and notices the end of
 * QEMU.
 *
 * QEMU connects its serial port to a Unix socket of ours. That gives a cap on the file whatever the
 * guest prints, and QEMU's pid by the socket's credentials, whoever started it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct vm_watcher; /* the thread */
struct vm_watch;   /* one VM */

struct vm_watcher *vm_watcher_new(struct error **err);
/* After all VMs are removed. */
void vm_watcher_free(struct vm_watcher *watcher);

struct vm_watch_state {
	bool ready;    /* the worker said on the console that it listens */
	bool panicked; /* the guest's kernel said so; panic has its words, escaped */
	char panic[200];
	bool qemu_ended;
	int qemu_status; /* as from waitpid(), or -1 where QEMU is not our descendant */
	pid_t qemu_pid;	 /* 0: has not connected yet */
	uint64_t bytes;	 /* printed, kept or not */
};

/* listen_fd: a listening Unix socket which QEMU will connect to; file_fd: where the console's bytes
 * go, at most cap of them. Both are taken. reap: QEMU is a descendant of this process, which is a
 * subreaper: its zombie is collected here. */
struct vm_watch *vm_watch_new(struct vm_watcher *watcher, int listen_fd, int file_fd, uint64_t cap,
	bool reap, struct error **err);
/* QEMU runs already, started by an earlier daemon: its pid and pidfd (taken; -1: it has ended). It
 * need not connect to be known. */
void vm_watch_adopt(struct vm_watch *vm, pid_t pid, int pidfd);
/* What was printed so far goes to the end of the file, and what comes too; file_fd is taken. The
 * file until now must be one that can be read. */
int vm_watch_move_file(struct vm_watch *vm, int file_fd, struct error **err);
/* Readable (an eventfd, to be read by the owner) after any change of state. */
int vm_watch_fd(struct vm_watch *vm);
void vm_watch_get(struct vm_watch *vm, struct vm_watch_state *ret);
/* The last bytes printed, at most max, from the start of a line, escaped; to be freed. */
char *vm_watch_tail(struct vm_watch *vm, size_t max);
/* Wait until QEMU has ended. 0, or -1 after timeout_ms. At once 0 if it never connected. */
int vm_watch_wait_end(struct vm_watch *vm, int timeout_ms);
/* Have fn(arg) called once QEMU has ended, at once if it has: on the watcher's thread or this one.
 * NULL: it is not called any more after this returns. */
void vm_watch_on_end(struct vm_watch *vm, void (*fn)(void *arg), void *arg);
/* SIGKILL to QEMU, if it has connected and has not ended. By pidfd: never to a pid used again. */
void vm_watch_kill(struct vm_watch *vm);
/* libvirt says that the domain has stopped: an end also for a QEMU that never connected. */
void vm_watch_note_stop(struct vm_watch *vm);
void vm_watch_free(struct vm_watch *vm);
