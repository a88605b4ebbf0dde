/* Who starts next. Pure: it is told what there is, and decides.
 *
 * One rule for now: at most max_vms at once, in the queue's order. What a host's memory and cores
 * admit, and when a job may be tried again, are further rules of scheduler_next(). */
#pragma once

#include <stdint.h>

#include "orchestrator/queue.h"

struct scheduler_view {
	uint32_t max_vms;
	uint32_t vms; /* VMs there are, from the decision to make one until nothing is left of it */
};

/* The item to start now, which stays in the queue; NULL: none can be. */
struct queue_item *scheduler_next(const struct scheduler_view *view, const struct queue *queue);
