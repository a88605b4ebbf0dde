/* The warm VMs of all pools: pool.c decides, this does it. On the loop's thread, but for the events
 * of VMs and of the watch over images, which are posted.
 *
 * Theory of operation. Each VM is an entry with a number; its events come with the number, because
 * an entry may be gone when an event of its VM is heard: taken by a job, which then has the VM's
 * thread to itself. What a VM takes of the host counts here from the decision to boot it until QEMU
 * has ended, or until a job reserves it; then the job's own count has it.
 */
#pragma once

#include "orchestrator/attempt.h"
#include "orchestrator/config.h"
#include "orchestrator/loop.h"
#include "orchestrator/pool.h"
#include "orchestrator/scheduler.h"
#include "orchestrator/warm.h"

struct pools;
struct pools_vm; /* an entry */

struct pools_env {
	/* Borrowed. */
	struct loop *loop;
	struct host *host;
	const struct config *config;
	/* Is there room on the host for one more of this demand; do jobs wait for room? */
	bool (*has_room)(void *arg, const struct queue_demand *demand);
	bool (*is_waiting)(void *arg);
	/* A VM came, is ready or has gone: jobs may be started now, or the stop may go on. */
	void (*on_change)(void *arg);
	void *arg;
};

/* NULL if the configuration has no pools; then nothing here need be called, but may. */
struct pools *pools_new(const struct pools_env *env);
/* After the last VM is gone, or before pools_start(). */
void pools_free(struct pools *pools);
void pools_start(struct pools *pools);
/* Retire all, and boot no more. on_change tells of the last one's end. */
void pools_stop(struct pools *pools);

/* Do what is to be done now, and come back by a timer when it is time. After every change of what
 * has_room() and is_waiting() say. */
void pools_look(struct pools *pools);

/* VMs of which something is left, and what those that hold room take of the host. */
struct pools_counts {
	uint32_t vms;
	uint32_t slots;
	struct queue_demand used;
};
struct pools_counts pools_counts(const struct pools *pools);

/* For a job of this spec, whose defaults are filled in: an idle VM, or else one that boots; NULL:
 * none fits. It is kept for the job, and does not count here any more, until it is handed over or
 * given back. */
struct pools_vm *pools_reserve(struct pools *pools, const Job__V1__Spec *spec);
void pools_give_back(struct pools *pools, struct pools_vm *vm);
struct warm *pools_hand_over(struct pools *pools, struct pools_vm *vm);
/* A job that is next lacks this: VMs that would make enough room leave. */
void pools_make_room(struct pools *pools, const struct scheduler_lack *lack);

void pools_each_vm(struct pools *pools,
	void (*visit)(void *arg, const struct vm_facts *vm, const char *job_id), void *arg);

/* For people. Strings live during the call. */
struct pools_info {
	const struct config_pool *config;
	uint32_t idle, booting;
	uint32_t failures;    /* in a row */
	const char *state;    /* as pool_health_name() */
	const char *reason;   /* of the last failure, or why the image cannot be used; NULL: none */
	uint64_t retry_in_ms; /* 0: not put off */
};
void pools_each(
	struct pools *pools, void (*visit)(void *arg, const struct pools_info *info), void *arg);
