/* What the handlers of the control socket's calls share. All but the quick ones run on threads of
 * the RPC server, and reach the daemon's state through the loop and the store's queue. */
#pragma once

#include "common/rpc.h"
#include "orchestrator/daemon.h"

int control_handle_submit(struct rpc_call *call, void *daemon, struct error **err);
/* Quick: see control_submit_plain.c. */
int control_submit_plain(struct rpc_call *call, void *daemon, struct error **err);
/* Quick: what the loop's state tells at once. */
int control_get_job_quick(struct rpc_call *call, void *daemon, struct error **err);
int control_info_quick(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_submit_many(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_logs(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_result(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_get_job(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_list_jobs(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_wait(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_retry(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_cancel(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_list_vms(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_list_pools(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_info(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_gc(struct rpc_call *call, void *daemon, struct error **err);
int control_handle_stop(struct rpc_call *call, void *daemon, struct error **err);

static inline void job_info_freep(Control__V1__JobInfo **info)
{
	control__v1__job_info__free_unpacked(*info, NULL);
}
#define _cleanup_job_info_ __attribute__((cleanup(job_info_freep)))

/* A handler's thread is held as long as its call lasts, and how long some last is up to the caller.
 * These have a number of seats less than there are threads, so that list and cancel are served
 * whoever else sits there. ERR_LIMIT when all are taken. */
enum control_seats {
	SEATS_WATCHING, /* following and waiting */
	SEATS_MOVING,	/* files and jobs on their way, in or out */
};
int control_sit(enum control_seats which, struct error **err);
void control_rise(enum control_seats which);

/* Who is at the other end of the call's connection, as the kernel says. */
uid_t control_caller(struct rpc_call *call);

/* The next request; ERR_INVALID when there is none. *ret is of the method's request type. */
int control_recv(struct rpc_call *call, void *ret, struct error **err);

/* The id that a user's id or prefix means. */
int control_find(
	struct daemon *daemon, const char *prefix, char ret_id[JOB_ID_SIZE], struct error **err);
/* The record as of now, from the loop if the job is live, else from the store. */
int control_get(struct daemon *daemon, const char *id, struct job_record **ret,
	uint32_t *ret_position, struct error **err);
/* Attempt n of the job, with what the job has in common; 0: as control_get(). */
int control_get_attempt(struct daemon *daemon, const char *id, unsigned n, struct job_record **ret,
	struct error **err);
/* False: no attempt of the job's was followed by another. */
bool control_may_have_earlier(const struct job_record *record);
/* The attempts that another followed, into the message of the job. */
void control_add_earlier(
	struct daemon *daemon, const struct job_record *record, Control__V1__JobInfo *info);
/* The record as a message, with those. position: in the queue, 0: it does not wait. Owned by the
 * caller. */
Control__V1__JobInfo *control_info_of(
	struct daemon *daemon, const struct job_record *record, uint32_t position);

/* The directory of a job, its inputs/ being on the disk, and its entry in that of all jobs. */
int control_sync_job_dir(const struct config *config, const char *dir, struct error **err);
/* Commit the job, whose directory is ready; takes the record over. 0: ret_id is its id; 1: its key
 * is that job's, and nothing was changed. */
int control_promise(struct daemon *daemon, struct job_record *record, char ret_id[JOB_ID_SIZE],
	struct error **err);

/* Let the watch see the job. False: it is not live, the store has all there is to know. */
bool control_watch(struct daemon *daemon, const char *id, struct watch *watch);
void control_unwatch(struct daemon *daemon, struct watch *watch);

/* What the ways to submit share (control_submit.c). */
/* Is there room for jobs at all? */
int submit_check_disk(const struct config *config, struct error **err);
/* What can be refused of one job by its description alone. key may be NULL. */
int submit_check_spec(const Job__V1__Spec *spec, const char *key, struct error **err);
/* The same, and whether there is such an image. */
int submit_check_job(
	struct daemon *daemon, const Job__V1__Spec *spec, const char *key, struct error **err);
/* The record of a new job that was found well; owned by the caller. */
struct job_record *submit_make_record(
	const struct config *config, uid_t caller, const Job__V1__Spec *spec, const char *key);
