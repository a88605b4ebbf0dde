/* The live jobs: those that wait, run, or whose VM is not gone yet. All others are in the store
 * alone.
 *
 * Theory of operation. Everything here happens on the loop's thread, except that jobs_submit() may
 * be called on any, and an attempt's events come on its own thread and are posted. The store is
 * told first: a job is in the table once its submission is committed, an attempt begins once its
 * claim is committed, and watchers hear of the end once the outcome is. A job leaves the table when
 * its outcome is committed and its VM is gone, whichever comes last. Its slot is free as soon as
 * QEMU has ended; what libvirt and the disk still have to be rid of then is tidied up on the
 * attempt's thread while the next one runs.
 *
 *   jobs_submit -> [store: submit] -> queue -> scheduler -> [store: claim] -> attempt_start
 *   ATTEMPT_DONE -> [store: finish] -> watchers        ATTEMPT_FREED -> slot -> scheduler
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "orchestrator/attempt.h"
#include "orchestrator/config.h"
#include "orchestrator/record.h"
#include "orchestrator/scheduler.h"
#include "orchestrator/store_queue.h"
#include "orchestrator/watch.h"

struct jobs;

struct jobs_env {
	/* All borrowed. */
	struct loop *loop;
	struct store_queue *store;
	struct host *host;
	const struct config *config;
	struct scheduler_capacity capacity;
	/* After every change of what jobs_counts() says; may be NULL. */
	void (*on_change)(void *arg);
	void *arg;
};

struct jobs *jobs_new(const struct jobs_env *env);
/* After jobs_stop()'s callback, or before anything was started. */
void jobs_free(struct jobs *jobs);

/* What was asked for is committed (error is NULL), or failed; error is the callee's. */
typedef void (*jobs_done)(void *arg, struct error *error);

/* A new job, and what became of it. */
struct jobs_newcomer {
	struct job_record *record; /* verified, its directory ready; taken over */
	char other[JOB_ID_SIZE];   /* on ERR_EXISTS (its key is another job's): that job's id */
	struct error *error;	   /* owned by the list; NULL: committed */
};

/* Makes queued jobs of these, committed together, one by one refused. done's error says that none
 * is in; then the newcomers' own say nothing. From any thread; done comes on the store's, or from
 * within, and does not wait: what is asked of the loop afterwards finds the jobs there. */
void jobs_submit(
	struct jobs *jobs, struct jobs_newcomer *list, size_t n, jobs_done done, void *arg);
/* At start: a job that is queued in the store. Takes the record over. One that no longer fits on
 * this host is ended: it would hold up all behind it for ever. */
void jobs_load(struct jobs *jobs, struct job_record *record);

/* At start: a job of the store's that an earlier daemon brought to the state it has; its VM runs,
 * and is taken up. Takes the record over. */
void jobs_adopt(struct jobs *jobs, struct job_record *record);

/* End a job, wherever it is. One that waits is finished when done is called; one that runs has
 * been told to end. ERR_NOT_FOUND: it is not among the live ones. ERR_STATE: it has ended, or is
 * being cancelled already. */
void jobs_cancel(struct jobs *jobs, const char *id, const char *why, jobs_done done, void *arg);

/* A copy of the job's record as of now, owned by the caller; NULL: not among the live ones.
 * *ret_position: its place in the queue from 1, or 0. */
struct job_record *jobs_snapshot(struct jobs *jobs, const char *id, uint32_t *ret_position);

/* The watch hears at once how things stand, then of each change, until jobs_unwatch(). False: the
 * job is not among the live ones. */
bool jobs_watch(struct jobs *jobs, const char *id, struct watch *watch);
void jobs_unwatch(struct jobs *jobs, struct watch *watch);

/* What the job will take of the host; its defaults are filled in. */
struct queue_demand jobs_demand(const Job__V1__Spec *spec);

struct jobs_counts {
	uint32_t live, queued, vms; /* of vms, those of pools too */
};
struct jobs_counts jobs_counts(const struct jobs *jobs);

/* Keep VMs ready as the configuration's pools say. Once; the jobs of an earlier daemon come first.
 */
void jobs_start_pools(struct jobs *jobs);
struct pools_info; /* pools.h */
void jobs_each_pool(
	struct jobs *jobs, void (*visit)(void *arg, const struct pools_info *info), void *arg);

/* Each VM there is, by its attempt's own account; job_id is "" for one that no job has. */
void jobs_each_vm(struct jobs *jobs,
	void (*visit)(void *arg, const struct vm_facts *vm, const char *job_id), void *arg);

/* Start nothing more, end what runs, and say when nothing is left to wait for. What is queued
 * stays queued. */
void jobs_stop(struct jobs *jobs, const char *why, void (*done)(void *arg), void *arg);
