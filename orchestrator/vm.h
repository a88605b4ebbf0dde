/* One VM from its directory to its end: device, console, domain, readiness, connection,
 * destruction. Used by one thread (the attempt's); everything here blocks, and ends early when
 * cancel_fd becomes readable. */
#pragma once

#include "common/worker_proof.h"
#include "orchestrator/image.h"
#include "orchestrator/vm_facts.h"
#include "orchestrator/vm_note.h"

struct domain_bench; /* domain_xml.h */
struct host;

/* Borrowed, with all it points to, until vm_destroy(). */
struct vm_order {
	const struct image *image;
	const char *job_id;
	unsigned attempt;
	uint32_t cpus;
	uint64_t memory_bytes;
	uint64_t disk_bytes;		  /* 0: what is written goes to the guest's memory */
	const char *console_file;	  /* NULL: it stays in memory until vm_take_over() */
	bool pooled;			  /* said in its facts */
	const struct domain_bench *bench; /* NULL but for `orchestrator bench` */
	int cancel_fd;
	/* Called on progress: the facts changed, or a stage was reached (then stage is not STAGES).
	 */
	void (*on_progress)(
		void *arg, const struct vm_facts *facts, enum job_stage stage, uint64_t usec);
	void *arg;
};

struct vm;

/* Make it and wait until its worker listens. On failure nothing is left of it, and *ret_outcome
 * says what kind of failure it was. */
struct vm *vm_boot(struct host *host, const struct vm_order *order, enum job_outcome *ret_outcome,
	struct error **err);

/* Take up one that an earlier daemon made; nothing is waited for. order needs no image. NULL: it is
 * gone, or cannot be followed; then nothing of it is left. */
struct vm *vm_adopt(struct host *host, const struct vm_order *order, const struct vm_note *note,
	struct error **err);
/* All that vm_adopt() has to know; attempt and times are the caller's to fill in. */
void vm_fill_note(struct vm *vm, struct vm_note *ret);

/* One that was booted for nobody in particular is somebody's now: order takes the place of the one
 * it was booted with, and its console file gets what was printed so far. */
int vm_take_over(struct vm *vm, const struct vm_order *order, struct error **err);
/* Neither QEMU nor the device's process have ended, and no panic was seen. */
bool vm_is_alive(struct vm *vm);
/* Readable when vm_is_alive() may have changed; the first is an eventfd to be read, either may be
 * -1. */
void vm_poll_fds(struct vm *vm, int *ret_watch, int *ret_device);
/* Its domain; virt_domain_unref(). */
struct virt_domain *vm_domain_ref(struct vm *vm);

const struct vm_facts *vm_facts(const struct vm *vm);
void vm_set_state(struct vm *vm, const char *state); /* a static string */
const uint8_t *vm_secret(const struct vm *vm);	     /* PROOF_SECRET_BYTES */
/* The process of the userspace vsock device; 0: the kernel has it. */
int vm_device_pid(const struct vm *vm);
/* A connected fd to a port of the guest, or -1; ERR_CANCELLED when cancelled. */
int vm_connect(const struct vm *vm, uint32_t port, int timeout_ms, struct error **err);
/* What is known when the worker is lost: the outcome's kind, and err gets the words (replacing what
 * was there): the kernel's panic, QEMU's end, or that the guest is up and silent. Waits up to
 * settle_ms for the console's and QEMU's last words. */
enum job_outcome vm_why_lost(struct vm *vm, int settle_ms, struct error **err);
/* The devices of the live domain. */
int vm_fill_wall(struct vm *vm, struct job_wall *wall, struct error **err);
/* Once more, if libvirt did not answer then, and seems to now. */
void vm_fill_wall_again(struct vm *vm, struct job_wall *wall);
/* End QEMU, whatever state the VM is in. on_end (may be NULL) is called before this returns, on any
 * thread, as soon as the process is gone: libvirt is slower to notice. It is not called where the
 * end is not seen. */
void vm_end(struct vm *vm, void (*on_end)(void *arg), void *arg);
/* End it, if that was not done, and remove what it had. */
void vm_destroy(struct vm *vm);
