/* Executions: jobs that run, each owned by the executor's table and watched by its own thread.
 *
 * A stream of the host's only looks at an execution: it takes events out and may order a stop. So a
 * lost stream and a lost job are two things: an execution that was begun with detached_ms lives on
 * without a stream for so long, holds what the host has not acknowledged, and lets the job wait
 * when it can hold no more; a later stream takes it up (executor_attach). When nobody came it is
 * killed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "guest-worker/job_root.h"
#include "worker.pb-c.h"

struct executor;
struct execution;

/* root is borrowed. init: we are PID 1, so namespaces and cgroups are there for us. */
struct executor *executor_new(const struct job_root *root, bool init, struct error **err);
/* Have a job init ready (spare.h) whenever there has been no execution for idle_usec. Only as root;
 * else, and when it cannot be had, jobs start without. */
void executor_keep_spare(struct executor *executor, uint64_t idle_usec);
/* Is there one now? And how many were taken so far? */
bool executor_has_spare(struct executor *executor, unsigned *ret_taken);
/* No new executions from here on; kills those that run. Any thread. */
void executor_stop(struct executor *executor);
/* After executor_stop(); no stream may look at an execution any more. */
void executor_free(struct executor *executor);
/* How many have not been released. */
unsigned executor_count(struct executor *executor);

/* Begin. The request is not kept. A command that cannot be started gives an execution too, whose
 * only event is its exit; NULL is for requests that contradict themselves (ERR_INVALID), an id that
 * is taken (ERR_EXISTS), too many executions (ERR_LIMIT) and a worker that stops (ERR_STATE). */
struct execution *executor_start(
	struct executor *executor, const Worker__V1__RunStart *start, struct error **err);

/* Take up the execution of that id: the next bytes are those at these offsets, what is before them
 * is forgotten, and STARTED comes again. A stream that still looks at it is told TAKEN_OVER and
 * waited for. ERR_NOT_FOUND: none, or given up; ERR_RANGE: the bytes are not held; ERR_STATE: begun
 * without detached_ms. */
struct execution *executor_attach(struct executor *executor, const char *id, uint64_t out_offset,
	uint64_t err_offset, struct error **err);

enum execution_event_type {
	EXECUTION_NOTHING, /* within the time that the caller gave */
	EXECUTION_STARTED,
	EXECUTION_OUT, /* data, size */
	EXECUTION_ERR,
	EXECUTION_EXIT,	      /* last */
	EXECUTION_TAKEN_OVER, /* last: another stream wants it */
};

struct execution_exit {
	Worker__V1__RunExit__Reason reason;
	int code;
	bool has_code;
	const char *error; /* or NULL; lives as long as the execution */
	uint64_t stdout_bytes, stderr_bytes;
	bool stdout_truncated, stderr_truncated;
	uint64_t user_usec, system_usec, max_rss_bytes, wall_usec;
};

struct execution_event {
	enum execution_event_type type;
	size_t size;
	uint32_t pid;	      /* STARTED */
	uint64_t uptime_usec; /* STARTED */
	struct execution_exit exit;
};

/* The next event, waiting at most wait_ms. Output goes into buf, which should hold OUTPUT_CHUNK
 * bytes. One caller at a time. */
void execution_next(struct execution *execution, int wait_ms, void *buf, size_t size,
	struct execution_event *ret);
/* Have fn(arg) called whenever there may be an event, on the execution's thread with its lock held:
 * it must only wake somebody. NULL: nobody any more; fn does not run after this returns. */
void execution_listen(struct execution *execution, void (*fn)(void *arg), void *arg);
/* SIGTERM, grace_ms, SIGKILL; with 0 SIGKILL at once. A second order may only shorten the first. */
void execution_stop(struct execution *execution, uint64_t grace_ms);
/* The host has these bytes. */
void execution_ack(struct execution *execution, uint64_t out_offset, uint64_t err_offset);
/* The stream has ended: the execution waits for another, or, begun without detached_ms, is
 * released. */
void execution_detach(struct execution *execution);
/* Kill it if it still runs, and forget it. */
void execution_release(struct execution *execution);
