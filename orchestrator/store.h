/* The ledger of jobs: what is in it is what the daemon has promised.
 *
 * One interface, so that a fleet's ledger may stand behind it later. Calls block; all of one store
 * are made by one thread (store_queue.h). Changes happen between store_begin() and store_commit()
 * and count from the commit on; each is a compare-and-set on (id, epoch), and one that comes too
 * late fails with ERR_ABORTED and changes nothing, while the transaction goes on.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "orchestrator/record.h"

struct store_filter {
	unsigned states;	       /* bits 1 << enum job_state; 0: all */
	Job__V1__Label *const *labels; /* all must be there */
	size_t n_labels;
	uint64_t before_seq; /* only jobs older than the one of that seq; 0: from the newest on */
	uint32_t limit;	     /* 0: none */
};

struct store_expiry {
	uint64_t now_usec, before_usec;
	uint64_t settled_usec; /* none that finished after that */
	uint32_t skip, limit;
};

/* Called for each record found, which is borrowed. -1 with *err ends the walk. */
typedef int (*store_visit)(void *arg, const struct job_record *record, struct error **err);

struct store {
	const struct store_ops *ops;
};

struct store_ops {
	int (*begin)(struct store *store, struct error **err);
	int (*commit)(struct store *store, struct error **err);
	/* After a failed begin, change or commit; harmless when there is no transaction. */
	void (*rollback)(struct store *store);
	/* False once a failure (a full disk) has ended the transaction with all that was in it. */
	bool (*in_transaction)(struct store *store);

	/* A new job, queued. If its key is another job's, ERR_EXISTS, and that job's id if it is
	 * the same that is asked for (record_check_same()), else "". */
	int (*submit)(struct store *store, const struct job_record *record,
		char ret_other[JOB_ID_SIZE], struct error **err);
	/* queued -> starting: the caller holds the job from now on, as epoch + 1. record is as it
	 * shall be, with the new epoch. */
	int (*claim)(struct store *store, const struct job_record *record, struct error **err);
	/* A job that an earlier daemon held: the caller holds it from now on, as epoch + 1, in the
	 * state it has. */
	int (*take_over)(struct store *store, const struct job_record *record, struct error **err);
	/* State, VM and times of a job that is held. */
	int (*update)(struct store *store, const struct job_record *record, struct error **err);
	/* The terminal record; once. */
	int (*finish)(struct store *store, const struct job_record *record, struct error **err);
	/* An attempt ended, and another shall follow: its terminal record, once, and the job back
	 * in the queue, as epoch + 1; both or none. ended has the epoch in which the job is held,
	 * queued is as the job shall be. */
	int (*requeue)(struct store *store, const struct job_record *ended,
		const struct job_record *queued, struct error **err);
	/* The only thing that comes after an attempt's end: when its VM was gone. */
	int (*destroyed)(struct store *store, const char *id, unsigned attempt, uint64_t at_usec,
		struct error **err);
	int (*remove)(struct store *store, const char *id, struct error **err); /* finished ones */

	/* ERR_NOT_FOUND. */
	int (*get)(
		struct store *store, const char *id, struct job_record **ret, struct error **err);
	/* The id of the one job whose id begins so: ERR_NOT_FOUND; ERR_INVALID naming some when
	 * there are several. */
	int (*find)(struct store *store, const char *prefix, char ret_id[JOB_ID_SIZE],
		struct error **err);
	int (*by_key)(
		struct store *store, const char *key, char ret_id[JOB_ID_SIZE], struct error **err);
	/* The attempts of a job that another followed, oldest first: number, VM, epoch and result.
	 */
	int (*attempts)(struct store *store, const char *id, store_visit visit, void *arg,
		struct error **err);
	/* Newest first; without the inputs' files. */
	int (*list)(struct store *store, const struct store_filter *filter, store_visit visit,
		void *arg, struct error **err);
	/* Oldest first: what a daemon that starts has to take up. */
	int (*unfinished)(struct store *store, store_visit visit, void *arg, struct error **err);
	/* Finished jobs whose own time (ttl_after_finished) was over before now_usec, and those
	 * without one that finished before before_usec; of these, at most limit behind the first
	 * skip ones. */
	int (*expired)(struct store *store, const struct store_expiry *expiry, store_visit visit,
		void *arg, struct error **err);

	void (*close)(struct store *store);
};

/* Opens or makes the file. Refuses one of a newer version (ERR_UNSUPPORTED), a damaged one
 * (ERR_DATA_LOSS), and one that another process has open (ERR_EXISTS). */
struct store *store_sqlite_open(const char *path, struct error **err);
