/* One client's eye on one job: the loop says what is new, a thread that serves the client waits
 * for it. News are a state, not a list: a client that is slow misses steps in between, and costs
 * nothing more than a fast one. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "orchestrator/job.h"

struct watch_news {
	uint64_t version; /* grows with each piece of news */
	enum job_state state;
	unsigned attempt; /* the last one begun; with JOB_QUEUED and not 0: it ended, another
			     follows */
	bool finished;	  /* the outcome is committed: the store has the record */
	bool stopping;	  /* the daemon goes; no more news will come */
};

struct watch {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct watch_news news; /* under lock */
	struct watch *next;	/* the job's list; the loop's */
	char job_id[16];	/* the loop's */
};

void watch_init(struct watch *watch);
/* Only when no job has it any more. */
void watch_clear(struct watch *watch);

/* On the loop: the job did something. */
void watch_tell(
	struct watch *watch, enum job_state state, unsigned attempt, bool finished, bool stopping);
/* What was told last. */
void watch_look(struct watch *watch, struct watch_news *ret);
/* Wait until there is news of another version than *news, and take it over. False: timeout_ms
 * passed without any. */
bool watch_wait(struct watch *watch, int timeout_ms, struct watch_news *news);
