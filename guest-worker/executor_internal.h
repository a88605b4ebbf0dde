/* What executor.c (the table) and execution*.c (one job's life) share. Nobody else includes this.
 */
#pragma once

#include <pthread.h>

#include "guest-worker/cgroup.h"
#include "guest-worker/executor.h"
#include "guest-worker/launch.h"
#include "guest-worker/output.h"
#include "guest-worker/sandbox.h"
#include "guest-worker/spare.h"

struct executor {
	const struct job_root *root; /* borrowed */
	struct sandbox sandbox;
	struct cgroup_tree *cgroups; /* owned; or NULL */
	struct spares *spares;	     /* owned; or NULL */
	pthread_mutex_t lock;
	struct execution *executions; /* list */
	unsigned count;
	unsigned serial;
	bool stopping;
};

enum why_stopped { NOT_STOPPED, STOPPED_TIMEOUT, STOPPED_ORDER };

struct execution {
	struct executor *executor;
	struct execution *next; /* under executor->lock */
	char *id;
	pthread_t thread; /* if it has one of its own */
	bool has_thread;
	int wake; /* owned */
	uint64_t timeout_usec, grace_usec, output_bytes, memory_bytes;
	uint64_t detached_usec; /* how long it outlives a lost stream; 0: not at all */

	/* Of the execution's thread alone, once it lives. */
	struct launch launch;
	bool spare; /* process was made ahead, and has the plan */
	struct launched process;
	struct cgroup *cgroup;
	uint64_t started_usec; /* clock of all deadlines: now_mono_usec() */
	uint64_t timeout_at;   /* UINT64_MAX: none */
	uint64_t kill_at;
	uint64_t kill_init_at, give_up_at;
	uint64_t oom_kills_before;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	void (*listener)(void *arg); /* or NULL */
	void *listener_arg;
	struct output out, err;
	uint64_t out_since, err_since; /* order in which the rings became non-empty */
	uint64_t sequence;
	bool lives;	     /* its thread is about it */
	uint64_t runs_since; /* 0: not yet; the reader is told by `started` */
	bool started, started_taken;
	uint32_t pid; /* 0: the job's process has not yet said that it is about to start */
	uint64_t uptime_usec;
	bool attached;	       /* a stream looks at it */
	bool evict;	       /* and shall end, for another one waits */
	unsigned waiting;      /* streams that want to attach */
	uint64_t abandoned_at; /* when nobody may take it up any more; UINT64_MAX: attached */
	uint64_t stop_at;      /* an order: when to kill; UINT64_MAX: none */
	bool released;	       /* it ends, and nobody wants to know how */
	enum why_stopped why;
	bool has_end; /* report of the job init */
	struct launch_report end;
	bool ended;
	struct execution_exit exit;
	char *error; /* owned: exit.error */
};

/* execution_exit.c: under the lock, or when nobody else knows the execution. */
void execution_set_exit(struct execution *execution, Worker__V1__RunExit__Reason reason,
	char *error); /* takes it */
void execution_exit_not_started(struct execution *execution, const struct launch_report *r);
void execution_exit_after_run(struct execution *execution);

/* execution.c */
struct execution *execution_new(
	struct executor *executor, const Worker__V1__RunStart *start, struct error **err);
void execution_free(struct execution *execution);
/* ERR_INVALID for a request that contradicts itself; what cannot be started here becomes the
 * execution's exit. */
int execution_begin(
	struct execution *execution, const Worker__V1__RunStart *start, struct error **err);

/* Have its thread look at everything again. */
void execution_wake(struct execution *execution);
/* execution_events.c */
/* There may be something for the stream. Under the lock. */
void execution_tell_reader(struct execution *execution);
/* On the clock of `changed`. */
void execution_deadline(int wait_ms, struct timespec *ret);

/* execution_attach.c */
/* One more (or, with -1, one less) waits to attach: until then it is not abandoned. */
void execution_wait_for(struct execution *execution, int change);
/* Waits for the stream before to end. */
int execution_attach(
	struct execution *execution, uint64_t out_offset, uint64_t err_offset, struct error **err);
/* Is it held for nobody? Then execution_release() may follow. */
bool execution_abandoned(struct execution *execution, uint64_t now);

/* executor.c */
void executor_forget(struct execution *execution);
