/* A job's record: its states, how it ended, when each stage was reached, and the wall around it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "job.pb-c.h"

/* queued -> starting -> running -> collecting -> finished; any of them -> finished; those of an
 * attempt -> queued when another attempt follows. The table of moves stands in job.c; every change
 * of state goes through job_state_may_follow(). */
enum job_state {
	JOB_QUEUED = 1, /* committed; waits for its first attempt, or for another */
	JOB_STARTING,	/* a VM is being made for it */
	JOB_RUNNING,	/* its program runs in the guest */
	JOB_COLLECTING, /* the program ended; its files come home */
	JOB_FINISHED,	/* the outcome is recorded; nothing changes any more */
};

bool job_state_may_follow(enum job_state from, enum job_state to);
const char *job_state_name(enum job_state state); /* "queued" ... */

/* The stages of an attempt, in order. Times are microseconds since the epoch, 0: not reached. */
enum job_stage {
	STAGE_SUBMITTED,
	STAGE_STARTED,	      /* taken from the queue */
	STAGE_DOMAIN_CREATED, /* libvirt says it runs */
	STAGE_KERNEL_UP,      /* the guest's kernel started the worker */
	STAGE_WORKER_READY,   /* the worker has proved itself */
	STAGE_INPUTS_SENT,
	STAGE_PROGRAM_STARTED,
	STAGE_FIRST_BYTE,
	STAGE_PROGRAM_ENDED,
	STAGE_COLLECTED,
	STAGE_RECORDED,	 /* the outcome is committed */
	STAGE_DESTROYED, /* the VM is gone */
	STAGES
};
const char *job_stage_name(enum job_stage stage);

/* How an attempt ended. The values are those of job.v1.Outcome. */
enum job_outcome {
	OUTCOME_NONE = 0,
	OUTCOME_SUCCEEDED,
	OUTCOME_FAILED,
	OUTCOME_TIMEOUT,
	OUTCOME_CANCELLED,
	OUTCOME_OOM_GUEST,
	OUTCOME_OOM_HOST,
	OUTCOME_GUEST_PANIC,
	OUTCOME_AGENT_LOST,
	OUTCOME_BOOT_FAILED,
	OUTCOME_INFRA,
	OUTCOMES
};
const char *job_outcome_name(enum job_outcome outcome); /* "succeeded" ... */

/* What the command line exits with for an outcome that is not the program's own. */
#define EXIT_TIMEOUT	    124
#define EXIT_INFRA	    125
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND	    127
#define EXIT_CANCELLED	    130

struct job_artifact {
	char *path; /* owned; below artifacts/ */
	uint64_t size;
	uint8_t sha256[32];
};

/* The facts of the wall. Strings are owned; NULL: not known. */
struct job_wall {
	char *accelerator;
	char *vsock_device;
	uint32_t cid;
	char **devices;
	size_t n_devices;
	bool network_interface;
	char *kernel;
	char *image_digest;
	char *libvirt_uri;
	bool warm; /* the VM had booted before the job came */
};

/* One attempt's terminal record. */
struct job_result {
	enum job_outcome outcome;
	int exit_code; /* what the command line exits with */
	int signal;    /* 0: none */
	char *error;   /* owned; one line for a person; NULL if it succeeded */
	uint64_t times[STAGES];
	uint64_t stdout_bytes, stderr_bytes; /* written by the job, kept or not */
	bool stdout_truncated, stderr_truncated;
	uint64_t max_rss_bytes, cpu_usec;
	struct job_artifact *artifacts; /* owned */
	size_t n_artifacts;
	char *left_out; /* owned; what did not come of outputs that did, escaped; NULL: nothing */
	struct job_wall wall;
};

void job_wall_clear(struct job_wall *wall);	  /* frees what it owns */
void job_result_clear(struct job_result *result); /* frees what it owns, zeroes it */
/* Deep copy. */
void job_result_copy(struct job_result *to, const struct job_result *from);
