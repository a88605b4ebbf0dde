/* What jobs.c (the table), jobs_run.c (the way of one job through an attempt) and jobs_retry.c
 * (from one attempt to the next) share. */
#pragma once

#include <stdatomic.h>

#include "orchestrator/jobs.h"
#include "orchestrator/pools.h"
#include "orchestrator/queue.h"

struct job {
	struct jobs *jobs;
	struct job_record *record; /* owned */
	struct queue_item item;
	struct job *next_vm, **prev_vm; /* in jobs->vms from the claim to ATTEMPT_GONE */
	bool has_slot;			/* counted in jobs->slots and used, to ATTEMPT_FREED */
	struct watch *watches;

	/* The attempt, from the claim's commit to ATTEMPT_GONE. */
	struct attempt *attempt;    /* owned */
	struct attempt_order order; /* borrows from record and dir */
	char *dir;		    /* owned */
	struct vm_facts vm;	    /* vm.id[0]: it has one */
	struct pools_vm *warm;	    /* kept for it from the claim to the start; NULL: none */
	struct {
		pthread_mutex_t lock;
		bool posted; /* the loop has been told, and will look */
		uint64_t stdout_size, stderr_size;
	} output; /* shared with the attempt's thread, so that fast output is one post */

	bool claiming;		  /* the claim is on its way to the disk */
	bool cancelling;	  /* somebody asked for its end */
	bool ended;		  /* the outcome is known; final has it */
	bool committed;		  /* and it is in the store, or never will be */
	struct job_record *final; /* owned: the record to commit */
	struct job_record
		*next;	    /* owned: with final, as the job goes back to the queue; else NULL */
	bool ended_waiting; /* it had no attempt just then, but there were some before */
	bool between;	    /* that is committed; the attempt's VM is not gone yet */
	struct loop_timer *retry; /* of that commit */
	char *cancel_why;	  /* owned */
	jobs_done cancel_done;
	void *cancel_arg;
};

struct jobs {
	struct jobs_env env;
	void *by_id; /* tsearch tree of struct job */
	struct queue queue;
	struct job *vms; /* those that have a VM, or will have, or whose VM is being tidied up */
	struct jobs_counts counts;
	uint32_t slots;		  /* how many have one */
	struct queue_demand used; /* by those that have one, in all */
	struct pools *pools;	  /* owned; NULL: none are configured */
	uint32_t pending;	  /* operations of the store's under way that count for the stop */
	struct loop_timer *pause; /* nothing is started before it runs: the store is in trouble */
	struct loop_timer *due;	  /* for the first of the queue whose time is to come, */
	uint64_t due_at;	  /* then */
	atomic_bool stopping;
	char *stop_why;
	void (*stop_done)(void *arg);
	void *stop_arg;
};

/* jobs.c */
void jobs_changed(struct jobs *jobs);
void job_tell_watches(struct job *job, bool finished);
void job_tell_lost(struct job *job); /* no more news, and the end is not in the store */
void job_release(struct job *job);   /* if nothing holds it any more, take it out and free it */

void job_enqueue(struct job *job);

/* jobs_retry.c */
/* The attempt ended as job->final says, and job->next is not set: set it, if another shall follow.
 */
void job_plan_retry(struct job *job);
/* The files of attempt n go to their own place. Fails only where it may succeed later; else what
 * cannot be kept is not worth the job. On the store's thread. */
int job_keep_files(const struct job *job, unsigned n, struct error **err);
int job_store_requeue(struct store *store, void *job, struct error **err);
/* final and next are committed. */
void job_requeued(struct job *job);
/* Into the queue, when nothing is left of the attempt before. */
void job_go_back(struct job *job);
/* End one that goes back to the queue and is not there yet. */
void job_cancel_between(struct job *job, const char *why, jobs_done done, void *arg);
/* See to it that jobs_schedule() is called when the next of the queue may start. */
void jobs_arm_due(struct jobs *jobs);

/* jobs_pool.c */
void jobs_pool_new(struct jobs *jobs);
/* What there is, and how much of it jobs and warm VMs take. */
struct scheduler_view jobs_view(struct jobs *jobs);

/* jobs_run.c */
void jobs_schedule(struct jobs *jobs);
/* Its VM, made by an earlier daemon, takes a slot, whether there is one or not. */
void job_take_up(struct job *job);
/* final, as a file for people. On the store's thread. */
void job_write_result(const struct job *job);
/* The end without an attempt's word. */
void job_end(struct job *job, enum job_outcome outcome, int exit_code, const char *why);
