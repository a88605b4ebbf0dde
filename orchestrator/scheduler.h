/* Who starts next, and whether there is room for it. Pure: it is told what there is, and decides.
 *
 * At most max_vms at once, within the host's memory and processors, in the queue's order. The first
 * of the queue is not passed by for a smaller one behind it: it would wait for ever under a stream
 * of small ones. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "orchestrator/queue.h"

/* What may be given to VMs in all: the host's, times the configured ratios. */
struct scheduler_capacity {
	uint64_t memory; /* bytes */
	uint32_t cpus;
};

struct scheduler_view {
	uint32_t max_vms;
	struct scheduler_capacity capacity;
	/* VMs there are, and what they take, from the decision to make one until nothing is left of
	 * it. */
	uint32_t vms;
	uint64_t memory;
	uint32_t cpus;
	uint64_t now_usec;
};

/* What is missing for a VM to fit beside those there are. */
struct scheduler_lack {
	uint32_t vms;
	uint64_t memory;
	uint32_t cpus;
};
/* True: it fits; then *ret (may be NULL) is all 0. */
bool scheduler_fits(const struct scheduler_view *view, const struct queue_demand *demand,
	struct scheduler_lack *ret);

/* The item that is next, which stays in the queue; NULL: none waits. *ret: what it lacks; all 0: it
 * can start now. */
struct queue_item *scheduler_next(
	const struct scheduler_view *view, struct queue *queue, struct scheduler_lack *ret);

/* Could it start on an idle host? Else ERR_LIMIT that says what is too much. */
int scheduler_check(const struct scheduler_capacity *capacity, const struct queue_demand *demand,
	struct error **err);

/* A host's capacity by its ratios, in percent; at least one processor. */
struct scheduler_capacity scheduler_capacity_of(
	uint64_t memory, uint32_t cpus, uint32_t memory_percent, uint32_t cpu_percent);
