/* How many VMs of one image stand ready, and what to do about it next. Pure: no clock, no I/O, no
 * VMs; it is told what there is and what time it is, in microseconds, and decides.
 *
 * Theory of operation. A VM of a pool boots, is idle, and leaves: taken by a job (then it is the
 * job's, and no longer of the pool), or retired. The pool keeps min_idle VMs idle or booting that
 * are neither old nor of an image that has changed since; the old ones stay until others are there
 * for them, if max allows it.
 *
 * What fails is tried again later: after 1 s, 2 s, 4 s, 8 s, one VM at a time; the POOL_FAILURES-th
 * failure in a row opens the circuit: then one VM is tried every five minutes, until the image
 * changes. A boot that went well proves little: a VM counts as proven when it answered the job that
 * took it or when it has been idle for half a minute. Only then are the failures forgotten, so that
 * VMs that die young are no boot storm either.
 *
 * A pool boots nothing while jobs wait for room, nor just after it gave room to one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "orchestrator/scheduler.h"

#define POOL_FAILURES	  5u
#define POOL_BOOTS	  2u		      /* at once */
#define POOL_BACKOFF_USEC UINT64_C(1000000)   /* after the first failure; doubles */
#define POOL_OPEN_USEC	  UINT64_C(300000000) /* from one trial to the next */
#define POOL_PROVEN_USEC  UINT64_C(30000000)  /* idle so long: a silent one is known */
#define POOL_SETTLE_USEC  UINT64_C(250000)    /* a job that took a VM begins undisturbed */
#define POOL_QUIET_USEC	  UINT64_C(2000000)   /* after room was given: the next may want it too */

enum pool_vm_state { POOL_VM_BOOTING, POOL_VM_IDLE, POOL_VM_LEAVING };

struct pool_vm {
	uint64_t id;
	enum pool_vm_state state;
	uint64_t since; /* in that state */
	bool stale;	/* made from an image that is not the image any more */
	struct queue_demand demand;
};

struct pool {
	/* The configuration's. */
	uint32_t min_idle, max;
	uint64_t max_age_usec;
	/* The pool's; zeroed at first. */
	uint32_t failures;   /* in a row */
	uint64_t failed_at;  /* the last; only what came later proves anything */
	uint64_t not_before; /* nothing is booted earlier */
	char *reason;	     /* owned; of the last failure; NULL: none */
};

struct pool_view {
	const struct pool_vm *vms;
	size_t n_vms;
	bool image;   /* it is there */
	bool room;    /* on the host, for one more */
	bool waiting; /* jobs wait for room */
	uint64_t now;
};

enum pool_action { POOL_WAIT, POOL_BOOT, POOL_RETIRE };

struct pool_step {
	enum pool_action action;
	uint64_t id;	/* POOL_RETIRE: which */
	uint64_t again; /* POOL_WAIT: look again at that time; 0: when something has changed */
};

/* One step. To be asked again, with what it changed, until it says POOL_WAIT. */
struct pool_step pool_next(struct pool *pool, const struct pool_view *view);

/* A boot failed, or a VM that was idle died. */
void pool_failed(struct pool *pool, const char *why, uint64_t now);
/* A job takes a VM. */
void pool_taken(struct pool *pool, uint64_t now);
/* One that was idle since then answered the job that took it. */
void pool_proven(struct pool *pool, uint64_t since);
/* VMs were retired because a job wants their room. */
void pool_gave_room(struct pool *pool, uint64_t now);
/* The image is another one now: what failed may go well. */
void pool_image_changed(struct pool *pool);
void pool_clear(struct pool *pool); /* frees what it owns */

enum pool_health {
	POOL_WELL,
	POOL_BACKING_OFF, /* it failed, and is tried again soon */
	POOL_OPEN,	  /* it failed too often, and waits */
	POOL_TRIAL,	  /* it failed too often, and one more is tried */
};
enum pool_health pool_health(const struct pool *pool, const struct pool_view *view);
const char *pool_health_name(enum pool_health health); /* "well", "backing off", "open", "trial" */

/* Which of the VMs (of all pools) must leave so that the job that is next fits, the least useful
 * first: those that boot, newest first, then the idle ones, oldest first. Those that leave already
 * are counted. Marks them in leave (n_vms, false at first). False: it would not help; then nothing
 * is marked. */
bool pool_make_room(
	const struct pool_vm *vms, size_t n_vms, const struct scheduler_lack *lack, bool *leave);
