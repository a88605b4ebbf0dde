/* Finished jobs are kept for their ttl_after_finished, or else for retain_ms; then their
 * directories and records go. */
#pragma once

#include "orchestrator/config.h"
#include "orchestrator/store_queue.h"

struct retention;

/* A thread that sweeps now and then every minute; NULL when there can be none, which is logged. */
struct retention *retention_start(const struct config *config, struct store_queue *queue);
void retention_stop(struct retention *retention); /* NULL is allowed */

/* Told of each job that goes. -1 with *err ends the sweep. */
typedef int (*retention_visit)(void *arg, const char *id, uint64_t finished_usec,
	uint64_t expired_usec, struct error **err);

/* One sweep, as of now_usec; visit may be NULL. With dry_run nothing is removed. From any thread
 * but the loop's and the store's, one at a time. The directory goes first: a record without one can
 * be swept again, a directory without a record is found at the next start only. */
int retention_sweep(const struct config *config, struct store_queue *queue, uint64_t now_usec,
	bool dry_run, retention_visit visit, void *arg, struct error **err);
