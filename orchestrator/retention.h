/* Finished jobs are kept for retain_ms, then their directories and records go. */
#pragma once

#include "orchestrator/config.h"
#include "orchestrator/store_queue.h"

struct retention;

/* A thread that sweeps now and then every hour; NULL without error when jobs are kept for ever. */
struct retention *retention_start(const struct config *config, struct store_queue *queue);
void retention_stop(struct retention *retention); /* NULL is allowed */

/* One sweep, as of now_usec. The directory goes first: a record without one can be swept again, a
 * directory without a record is found at the next start only. */
int retention_sweep(const struct config *config, struct store_queue *queue, uint64_t now_usec,
	struct error **err);
