/* One VM of a pool, on a thread of its own: it boots, its worker proves itself, and then it waits
 * for a job to take it, for the order to leave, or for its own end.
 *
 *   boot -> (READY) -> idle -> taken: the VM is the attempt's, which says what it is worth (PROVEN,
 *                              LOST); no more events
 *                           -> retired, or lost (LOST): (FREED) -> tidied up -> (GONE)
 *        -> failed (FAILED), or retired: (FREED) -> (GONE)
 *
 * One that is idle is asked now and then whether it still answers: nothing else tells a worker that
 * hangs or a QEMU that stands still from one that waits.
 *
 * Who takes one that still boots waits for it. Whatever happens to it before a job has it is no
 * job's failure: warm_take() fails, and the attempt boots a VM of its own.
 */
#pragma once

#include "common/error.h"
#include "orchestrator/guest.h"
#include "orchestrator/job.h"
#include "orchestrator/vm_facts.h"

struct host;
struct vm;
struct warm;

struct warm_order {
	uint64_t id;	   /* comes back with its events */
	const char *image; /* borrowed until warm_free() */
	uint32_t cpus;
	uint64_t memory_bytes, disk_bytes;
};

enum warm_event_type {
	WARM_VM,     /* facts are set; may come again */
	WARM_READY,  /* it is idle */
	WARM_FAILED, /* it did not come up: why is set */
	WARM_LOST,   /* it was idle, and ended by itself, or answers nobody: why is set */
	WARM_PROVEN, /* it answered the job that took it; since is set */
	WARM_FREED,  /* QEMU has ended, what it took of the host is back. May be left out */
	WARM_GONE,   /* nothing of it is left; last */
};

struct warm_event {
	enum warm_event_type type;
	const struct vm_facts *facts;
	const char *why;
	uint64_t since; /* when it had booted, on the monotonic clock */
};

/* Called on its thread (WARM_FREED: on any), one at a time; must not block for long. */
typedef void (*warm_listener)(void *arg, uint64_t id, const struct warm_event *event);

struct warm *warm_start(struct host *host, const struct warm_order *order, warm_listener listener,
	void *arg, struct error **err);
/* From any thread, any number of times: leave, unless it was taken. */
void warm_retire(struct warm *warm);
/* Waits for its thread: after WARM_GONE, or by who took it or tried to. */
void warm_free(struct warm *warm);

/* Who takes it, for what. */
struct warm_use {
	const char *job_id;
	unsigned attempt;
	const char *image_digest; /* of the image as it is now; a VM of another is not given */
};

struct warm_taken {
	struct vm *vm;	     /* owned by the caller from here on; its order is still warm's */
	struct guest *guest; /* the same; it has proved itself */
	struct job_wall wall;
};

/* Once, by one. Waits while it boots, until cancel_fd is readable (ERR_CANCELLED). On failure it
 * leaves by itself; *err says what it was. In either case the caller calls warm_free(), after
 * vm_destroy(). */
int warm_take(struct warm *warm, const struct warm_use *use, int cancel_fd, struct warm_taken *ret,
	struct error **err);
/* By who took it, at most once: it answered (why: NULL), or why it is of no use. Its pool learns of
 * it. */
void warm_judge(struct warm *warm, const char *why);
