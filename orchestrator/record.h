/* A job's whole record, as the daemon holds it and the store keeps it, and its forms at the edges:
 * control.v1.JobInfo for the command line, JSON for result.json. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "control.pb-c.h"
#include "orchestrator/input_list.h"
#include "orchestrator/job.h"

#define JOB_ID_SIZE 16 /* 13 characters and a NUL, with room */
#define VM_ID_SIZE  32

struct job_record {
	char id[JOB_ID_SIZE];
	uint64_t seq; /* the store's order of submission; 0: not from the store */
	char *key;    /* owned; the submitter's idempotency key, or NULL */
	char *share;  /* owned; whose turn it counts as: "queue:NAME" or "uid:N"; NULL: of a store
		       * of version 1 */
	/* Counts the claims of this job: whoever starts it makes it one more. A change that names
	 * another epoch than the store's comes from someone who no longer holds the job. */
	uint64_t epoch;
	enum job_state state;
	unsigned attempt;		/* the last one begun; 0: none was */
	unsigned restarts;		/* of these, how many do not count for retry.max_attempts */
	uint64_t not_before;		/* while queued: no start before it; 0: at once */
	char retried_from[JOB_ID_SIZE]; /* the job that this one repeats; "": none */
	uint8_t request_sha256[32];	/* of the spec as it came with the key; zeros: not known */
	struct input_list *inputs;	/* shared; the files of its inputs; NULL: none, not read */
	char vm[VM_ID_SIZE];		/* "": none */
	Job__V1__Spec *spec;		/* owned; verified, defaults filled in */
	struct job_result result; /* its times are filled as they come; the rest when finished */
};

struct job_record *job_record_new(void);
void job_record_free(struct job_record *record); /* NULL is allowed */
struct job_record *job_record_copy(const struct job_record *record);

/* The record of a job whose attempt ended, as it goes back to the queue for another one: the next
 * epoch, nothing of the attempt but its number. */
struct job_record *record_back_in_queue(const struct job_record *record, uint64_t not_before);

static inline void job_record_freep(struct job_record **record)
{
	job_record_free(*record);
}
#define _cleanup_job_record_ __attribute__((cleanup(job_record_freep)))

/* A new id: 13 characters of base32hex in lower case (0-9a-v). The first nine are the time in units
 * of 256 us, so that ids sort by age until the year 2255; the last four tell apart what is made in
 * one such unit: a million ids of one process never meet. */
void job_id_make(uint64_t now_usec, char ret[JOB_ID_SIZE]);
/* Could s be an id or the beginning of one? Anything else is refused before it gets near a path. */
bool job_id_prefix_valid(const char *s);

/* What a request left out. */
struct job_defaults {
	uint64_t timeout_ms;
	uint64_t memory_bytes;
	uint32_t cpus;
};
void record_fill_defaults(Job__V1__Spec *spec, const struct job_defaults *defaults);

/* Is the job that has the key the one that is asked for with it, by the digest of the spec as it
 * came? ERR_EXISTS, naming the job, if not. */
int record_check_same(const struct job_record *other, const char *key, const uint8_t sha256[32],
	struct error **err);

/* "queue:NAME" by the spec's label `queue`, else "uid:N"; owned by the caller. */
char *record_share_of(const Job__V1__Spec *spec, uid_t submitter);

enum record_detail {
	RECORD_BRIEF, /* no artifacts, no devices: one line of a list */
	RECORD_FULL,  /* artifacts as long as the message stays within the control socket's limit */
	RECORD_EARLIER, /* an attempt that another followed: as brief, without the spec */
	RECORD_STORE,	/* everything but the spec and the inputs' files, which the store keeps
			 * beside it */
};

/* result_dir may be NULL. Free with control__v1__job_info__free_unpacked(info, NULL). */
Control__V1__JobInfo *record_to_info(
	const struct job_record *record, const char *result_dir, enum record_detail detail);
/* The way back for what RECORD_STORE wrote. *ret is overwritten; unknown numbers become 0. */
void record_result_from_info(const Control__V1__JobInfo *info, struct job_result *ret);
/* The same for what else of a record is in there. */
void record_rest_from_info(const Control__V1__JobInfo *info, struct job_record *record);

/* The inputs' files as the store keeps them; NULL: none. Free as a message. */
Control__V1__InputList *record_inputs_to_list(const struct input_list *inputs);
struct input_list *record_inputs_from_list(const Control__V1__InputList *list);

/* The text of result.json, with a final newline. Owned by the caller. */
char *record_result_json(const struct job_record *record);
