/* The jobs that wait for a VM, in the order in which they shall have one. Pure: no clock, no I/O,
 * no memory of its own.
 *
 * First come, first served for now; priorities and fair shares are a matter of queue_add(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded in what waits; zeroed before its first use. */
struct queue_item {
	struct queue_item *prev, *next; /* of the queue's ring; NULL: not in a queue */
	uint64_t order;			/* given when it was added; the lower is served first */
	size_t position;		/* 1 is next; as of the last queue_number() */
};

struct queue {
	struct queue_item ring; /* the ring's head: next is the first */
	size_t length;
	uint64_t added; /* so many items were, ever */
};

void queue_init(struct queue *queue);
void queue_add(struct queue *queue, struct queue_item *item);
/* Back to the place it had, for one that was removed and could not be started. */
void queue_return(struct queue *queue, struct queue_item *item);
void queue_remove(struct queue *queue, struct queue_item *item);
bool queue_holds(const struct queue_item *item);
struct queue_item *queue_first(const struct queue *queue); /* NULL: empty */
/* Write each item's position, in one walk. */
void queue_number(struct queue *queue);
