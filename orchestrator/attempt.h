/* One attempt at a job: a VM is made, the job runs in it, its results come home, the VM goes.
 *
 * An attempt has its own thread, on which everything that blocks happens (libvirt, gRPC, files). It
 * tells its owner what happened by events, on that thread: the daemon posts them to its loop.
 */
#pragma once

#include "common/error.h"
#include "orchestrator/config.h"
#include "orchestrator/job.h"
#include "orchestrator/vm_facts.h"

struct attempt;
struct warm; /* a VM that has booted already (warm.h) */
struct host; /* what all attempts share: libvirt connection, probe's answer, CIDs (host.h) */

/* What is to be done. Everything is borrowed until attempt_free(). */
struct attempt_order {
	const char *job_id;
	unsigned number;	   /* 1, 2, ... */
	const Job__V1__Spec *spec; /* verified; defaults filled in */
	const char *job_dir;	   /* STATE_DIR/jobs/ID: holds inputs/; results are written here */
	uint64_t submitted_usec, started_usec;
	/* Not 0: an earlier daemon made the VM and brought the job to that state; its program may
	 * have been started, and the VM is taken up. */
	enum job_state adopted;
	/* Not NULL: a VM of a pool that the attempt may take instead of booting one. It is the
	 * attempt's from attempt_start() on, unless that fails. */
	struct warm *warm;
};

enum attempt_event_type {
	ATTEMPT_VM,	/* the VM has its id: vm is set */
	ATTEMPT_STATE,	/* state changed to RUNNING or COLLECTING */
	ATTEMPT_STAGE,	/* stage reached at usec */
	ATTEMPT_OUTPUT, /* more of stdout/stderr is in the job's directory: sizes are set */
	ATTEMPT_DONE,	/* the outcome is known, files are home: result is set; once. The VM stays
			 * until attempt_recorded(), so that a daemon after us can find it out again
			 */
	ATTEMPT_FREED,	/* after DONE: QEMU has ended, what it took of the host is back. May be left
			 * out */
	ATTEMPT_GONE,	/* the VM is destroyed and nothing of it is left; last */
};

struct attempt_event {
	enum attempt_event_type type;
	const struct vm_facts *vm;	   /* ATTEMPT_VM; may come again with more facts */
	enum job_state state;		   /* ATTEMPT_STATE */
	enum job_stage stage;		   /* ATTEMPT_STAGE */
	uint64_t usec;			   /* ATTEMPT_STAGE */
	uint64_t stdout_size, stderr_size; /* ATTEMPT_OUTPUT: bytes in the files */
	const struct job_result *result;   /* ATTEMPT_DONE; borrowed during the call */
};

/* Called on the attempt's thread (ATTEMPT_FREED: on any), one at a time; must not block for long.
 */
typedef void (*attempt_listener)(void *arg, const struct attempt_event *event);

/* Starts the thread. NULL only if no thread can be had. */
struct attempt *attempt_start(struct host *host, const struct attempt_order *order,
	attempt_listener listener, void *arg, struct error **err);
/* From any thread, any time, any number of times: end it; the outcome is CANCELLED unless it
 * already had one. why: one line for the record. */
void attempt_cancel(struct attempt *attempt, const char *why);
/* The outcome is committed, or never will be. After ATTEMPT_DONE, before ATTEMPT_GONE was heard. */
void attempt_recorded(struct attempt *attempt);
/* Joins the thread: call after ATTEMPT_GONE. */
void attempt_free(struct attempt *attempt);
