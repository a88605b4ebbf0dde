#include "orchestrator/queue.h"

void queue_init(struct queue *queue)
{
	queue->ring = (struct queue_item){.prev = &queue->ring, .next = &queue->ring};
	queue->length = 0;
	queue->added = 0;
}

static void insert(struct queue *queue, struct queue_item *item, struct queue_item *before)
{
	item->next = before;
	item->prev = before->prev;
	before->prev->next = item;
	before->prev = item;
	queue->length++;
}

void queue_add(struct queue *queue, struct queue_item *item)
{
	item->order = ++queue->added;
	insert(queue, item, &queue->ring);
}

void queue_return(struct queue *queue, struct queue_item *item)
{
	struct queue_item *before = queue->ring.next;

	while (before != &queue->ring && before->order < item->order)
		before = before->next;
	insert(queue, item, before);
}

void queue_remove(struct queue *queue, struct queue_item *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	item->prev = item->next = NULL;
	item->position = 0;
	queue->length--;
}

bool queue_holds(const struct queue_item *item)
{
	return item->next;
}

struct queue_item *queue_first(const struct queue *queue)
{
	return queue->length ? queue->ring.next : NULL;
}

void queue_number(struct queue *queue)
{
	size_t position = 0;

	for (struct queue_item *item = queue->ring.next; item != &queue->ring; item = item->next)
		item->position = ++position;
}
