/* The jobs that wait for a VM, in the order in which they shall have one. Pure: no clock, no I/O;
 * time is passed in, in microseconds.
 *
 * Theory of operation. Three rules, from the outside in:
 *
 * - Priority, with age. Jobs of one priority are a level, and a level is as urgent as its oldest
 *   job: served first is the level with the smallest (since - priority * QUEUE_AGING_USEC). So a
 *   job of priority P stands where one of priority 0 would that had come P minutes earlier, and
 *   none is passed by for ever.
 * - Fair shares within a level, by start-time fair queueing. Each share has its own clock, which
 *   each of its jobs advances by what the job takes of the machine. A job's tag is its share's
 *   clock when it came, but not less than the level's own, which is the tag last served; the
 *   smallest tag is next. So who sends ten thousand jobs waits behind himself: another's first job
 *   gets the level's present time for its tag, and is served next.
 * - First come, first served within a share.
 *
 * Tags never change, so a level is one ordered tree, and a job's position is its rank in it.
 * What is served counts when it is started, not by how long it runs.
 *
 * Each operation costs O(log n) and at most QUEUE_LEVELS steps; memory is the items', which are the
 * caller's, and some bytes for each level and share that is in use.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"
#include "orchestrator/rank_tree.h"

#define QUEUE_PRIORITY_MAX LIMIT_PRIORITY /* and its negative is the least */
#define QUEUE_LEVELS	   (2 * QUEUE_PRIORITY_MAX + 1)
#define QUEUE_AGING_USEC   UINT64_C(60000000) /* one of priority is worth so much waiting */

/* What a job takes of the host while it has a VM. */
struct queue_demand {
	uint64_t memory; /* bytes */
	uint32_t cpus;
};

/* Embedded in what waits; zeroed before its first use. */
struct queue_item {
	/* The caller's, unchanged while the item is in the queue. */
	const char *share;   /* borrowed: whose turn it counts as */
	int priority;	     /* -QUEUE_PRIORITY_MAX to QUEUE_PRIORITY_MAX */
	uint64_t since;	     /* it waits from then on */
	uint64_t not_before; /* it may not be started earlier; 0: at once */
	struct queue_demand demand;

	/* The queue's. */
	struct rank_node node;	   /* in its level's tree, or in the one of those that are early */
	struct queue_level *level; /* NULL: early, or not in the queue */
	struct queue_share *of;	   /* its share in the level */
	struct queue_item *older, *newer; /* in the level, by since */
	struct queue_item *prev, *next;	  /* in the share, by tag */
	uint64_t order;			  /* counts the items added */
	uint64_t tag;
};

struct queue {
	struct queue_level *levels[QUEUE_LEVELS]; /* those with jobs, in no order */
	size_t n_levels;
	struct rank_tree early; /* not_before is to come: by that time */
	size_t length;		/* all, the early ones too */
	uint64_t added;
};

void queue_init(struct queue *queue);
/* Frees what the queue has; the items are let go. */
void queue_clear(struct queue *queue);

void queue_add(struct queue *queue, struct queue_item *item, uint64_t now);
/* Take it out to be started: its share pays for it. */
void queue_take(struct queue *queue, struct queue_item *item);
/* Back to the place it had, for one that was taken and could not be started. */
void queue_return(struct queue *queue, struct queue_item *item);
/* Take it out for good, unserved. */
void queue_remove(struct queue *queue, struct queue_item *item);
bool queue_holds(const struct queue_item *item);

/* Who is next; NULL: nobody whose time has come. Lets those in whose time came since. */
struct queue_item *queue_first(struct queue *queue, uint64_t now);
/* When the next of the early ones may start; 0: there are none. */
uint64_t queue_next_time(const struct queue *queue);
/* Its place from 1, as if nobody came any more and all levels aged alike; 0: not in the queue. The
 * early ones stand behind all others. */
size_t queue_position(const struct queue *queue, const struct queue_item *item);
/* How many shares are remembered, for tests. */
size_t queue_shares(const struct queue *queue);
