/* The daemon, put together: its parts, and when it comes and goes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "orchestrator/config.h"
#include "orchestrator/jobs.h"
#include "orchestrator/store_queue.h"

struct control;
struct retention;

/* What the RPC handlers reach their daemon through. All pointers stay as they are from the first
 * call to the last; what they point at says itself from which threads it may be used. */
struct daemon {
	const struct config *config; /* borrowed; read only */
	struct loop *loop;
	struct store *store; /* the store's thread's */
	struct store_queue *queue;
	struct host *host;
	struct jobs *jobs;	 /* the loop's */
	struct control *control; /* the loop's */
	struct retention *retention;
	struct scheduler_capacity capacity; /* read only */
	uint64_t started_usec;

	/* The loop's. */
	bool idle_exit;
	struct loop_timer *idle;
	struct loop_timer *log_check;
	uv_signal_t signals[2];
	bool stopping;
	bool signalled; /* once: it is stopping, or will */
};

/* Opens everything, takes up what an earlier daemon left, and listens. Clients are served from
 * daemon_run() on. */
struct daemon *daemon_new(const struct config *config, bool idle_exit, struct error **err);
/* Until a signal, a Stop call, or, with idle_exit, idle_timeout_ms without jobs and clients. */
void daemon_run(struct daemon *daemon);
void daemon_free(struct daemon *daemon);

/* On the loop: end what runs, then return from daemon_run(). */
void daemon_stop(struct daemon *daemon, const char *why);
/* On the loop: something that idleness depends on has changed. */
void daemon_check_idle(void *daemon);
