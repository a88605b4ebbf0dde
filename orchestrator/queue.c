#include "orchestrator/queue.h"

#include <search.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"

/* One that has no jobs is kept as long as its clock is ahead of the level's: else who sends his
 * next job when the last one has started would always be first. */
struct queue_share {
	char *name; /* owned */
	struct queue_item *first, *last;
	uint64_t served; /* the clock, as far as jobs were taken */
	struct queue_share *next_share;
};

struct queue_level {
	int priority;
	struct rank_tree tree; /* by tag */
	struct queue_item *oldest, *newest;
	uint64_t clock;		    /* the tag last served */
	void *by_name;		    /* tsearch tree of struct queue_share */
	struct queue_share *shares; /* the same as a list */
	size_t n_shares, sweep_at;
};

#define ITEM_OF(member) ((struct queue_item *)((char *)(member)-offsetof(struct queue_item, node)))
#define SWEEP_LEAST	64

/* --- shares ---------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct queue_share *)a)->name, ((const struct queue_share *)b)->name);
}

static void share_free(void *arg)
{
	struct queue_share *share = arg;

	free(share->name);
	free(share);
}

/* Forget those whose clock is not ahead. */
static void sweep_shares(struct queue_level *level)
{
	struct queue_share **at = &level->shares, *share;

	while ((share = *at)) {
		if (share->first || share->served > level->clock) {
			at = &share->next_share;
			continue;
		}
		*at = share->next_share;
		tdelete(share, &level->by_name, by_name);
		share_free(share);
		level->n_shares--;
	}
	level->sweep_at = MAX(2 * level->n_shares, (size_t)SWEEP_LEAST);
}

static struct queue_share *share_of(struct queue_level *level, const char *name)
{
	struct queue_share key = {.name = (char *)(uintptr_t)name};
	struct queue_share **found = tfind(&key, &level->by_name, by_name);

	if (found)
		return *found;
	if (level->n_shares >= level->sweep_at)
		sweep_shares(level);
	struct queue_share *share = xcalloc(1, sizeof(*share));
	share->name = xstrdup(name);
	if (!tsearch(share, &level->by_name, by_name))
		abort(); /* out of memory */
	share->next_share = level->shares;
	level->shares = share;
	level->n_shares++;
	return share;
}

/* How far a job moves its share's clock: what it takes, in units of a default job. */
static uint64_t cost(const struct queue_item *item)
{
	uint64_t memory = (item->demand.memory + DEFAULT_MEMORY - 1) / DEFAULT_MEMORY;

	return MAX(MAX(memory, (uint64_t)item->demand.cpus), UINT64_C(1));
}

/* --- levels ---------------------------------------------------------------------------------- */

static struct queue_level *level_of(struct queue *queue, int priority)
{
	for (size_t i = 0; i < queue->n_levels; i++) {
		if (queue->levels[i]->priority == priority)
			return queue->levels[i];
	}
	struct queue_level *level = xcalloc(1, sizeof(*level));
	level->priority = priority;
	level->sweep_at = SWEEP_LEAST;
	queue->levels[queue->n_levels++] = level;
	return level;
}

static void level_free(struct queue_level *level)
{
	tdestroy(level->by_name, share_free);
	free(level);
}

/* Without jobs nobody waits behind anybody: the shares' clocks may begin anew. */
static void drop_if_empty(struct queue *queue, struct queue_level *level)
{
	if (level->oldest)
		return;
	for (size_t i = 0; i < queue->n_levels; i++) {
		if (queue->levels[i] == level)
			queue->levels[i] = queue->levels[--queue->n_levels];
	}
	level_free(level);
}

static bool is_older(const struct queue_item *a, const struct queue_item *b)
{
	return a->since != b->since ? a->since < b->since : a->order < b->order;
}

/* Into the level's list by age: from the end where items come, from the front where one returns. */
static void insert_by_age(struct queue_level *level, struct queue_item *item, bool returns)
{
	struct queue_item *newer;

	if (returns) {
		for (newer = level->oldest; newer && is_older(newer, item);)
			newer = newer->newer;
	} else {
		struct queue_item *older = level->newest;

		while (older && is_older(item, older))
			older = older->older;
		newer = older ? older->newer : level->oldest;
	}
	item->newer = newer;
	item->older = newer ? newer->older : level->newest;
	*(item->older ? &item->older->newer : &level->oldest) = item;
	*(newer ? &newer->older : &level->newest) = item;
}

static void insert_by_tag(struct queue_share *share, struct queue_item *item, bool returns)
{
	struct queue_item *next = returns ? share->first : NULL;

	while (next && next->tag < item->tag)
		next = next->next;
	item->next = next;
	item->prev = next ? next->prev : share->last;
	*(item->prev ? &item->prev->next : &share->first) = item;
	*(next ? &next->prev : &share->last) = item;
}

static void enter(struct queue *queue, struct queue_item *item, bool returns)
{
	struct queue_level *level = level_of(queue, item->priority);
	struct queue_share *share = share_of(level, item->share);

	if (!returns) {
		uint64_t clock = share->last ? share->last->tag + cost(share->last) : share->served;
		item->tag = MAX(clock, level->clock);
	} else if (!level->oldest) {
		level->clock = item->tag; /* the level was forgotten meanwhile */
	}
	item->level = level;
	item->of = share;
	rank_tree_insert(&level->tree, &item->node, item->tag, item->order);
	insert_by_age(level, item, returns);
	insert_by_tag(share, item, returns);
}

static void leave(struct queue *queue, struct queue_item *item)
{
	struct queue_level *level = item->level;
	struct queue_share *share = item->of;

	*(item->older ? &item->older->newer : &level->oldest) = item->newer;
	*(item->newer ? &item->newer->older : &level->newest) = item->older;
	*(item->prev ? &item->prev->next : &share->first) = item->next;
	*(item->next ? &item->next->prev : &share->last) = item->prev;
	rank_tree_remove(&level->tree, &item->node);
	item->level = NULL;
	item->of = NULL;
	drop_if_empty(queue, level);
}

/* --- the queue ------------------------------------------------------------------------------- */

void queue_init(struct queue *queue)
{
	memset(queue, 0, sizeof(*queue));
}

void queue_clear(struct queue *queue)
{
	for (size_t i = 0; i < queue->n_levels; i++)
		level_free(queue->levels[i]);
	queue_init(queue);
}

void queue_add(struct queue *queue, struct queue_item *item, uint64_t now)
{
	item->order = ++queue->added;
	queue->length++;
	if (item->not_before > now)
		rank_tree_insert(&queue->early, &item->node, item->not_before, item->order);
	else
		enter(queue, item, false);
}

void queue_take(struct queue *queue, struct queue_item *item)
{
	struct queue_level *level = item->level;

	level->clock = MAX(level->clock, item->tag);
	item->of->served = MAX(item->of->served, item->tag + cost(item));
	queue->length--;
	leave(queue, item);
}

void queue_return(struct queue *queue, struct queue_item *item)
{
	queue->length++;
	enter(queue, item, true);
}

void queue_remove(struct queue *queue, struct queue_item *item)
{
	queue->length--;
	if (item->level)
		leave(queue, item);
	else
		rank_tree_remove(&queue->early, &item->node);
}

bool queue_holds(const struct queue_item *item)
{
	return rank_node_held(&item->node);
}

/* Is a to be served before b? In signed numbers: a priority may be worth more than the clock. */
static bool more_urgent(const struct queue_level *a, const struct queue_level *b)
{
	int64_t key_a = (int64_t)a->oldest->since - a->priority * (int64_t)QUEUE_AGING_USEC;
	int64_t key_b = (int64_t)b->oldest->since - b->priority * (int64_t)QUEUE_AGING_USEC;

	return key_a != key_b ? key_a < key_b : a->priority > b->priority;
}

struct queue_item *queue_first(struct queue *queue, uint64_t now)
{
	const struct queue_level *best = NULL;
	struct rank_node *due;

	while ((due = rank_tree_first(&queue->early)) && due->key <= now) {
		struct queue_item *item = ITEM_OF(due);

		rank_tree_remove(&queue->early, due);
		item->since = MAX(item->since, item->not_before);
		enter(queue, item, false);
	}
	for (size_t i = 0; i < queue->n_levels; i++) {
		if (!best || more_urgent(queue->levels[i], best))
			best = queue->levels[i];
	}
	return best ? ITEM_OF(rank_tree_first(&best->tree)) : NULL;
}

uint64_t queue_next_time(const struct queue *queue)
{
	struct rank_node *first = rank_tree_first(&queue->early);

	return first ? first->key : 0;
}

size_t queue_position(const struct queue *queue, const struct queue_item *item)
{
	if (!queue_holds(item))
		return 0;
	size_t position = 1 + rank_tree_rank(&item->node);
	if (!item->level)
		return position + queue->length - rank_tree_size(&queue->early);
	for (size_t i = 0; i < queue->n_levels; i++) {
		if (queue->levels[i] != item->level && more_urgent(queue->levels[i], item->level))
			position += rank_tree_size(&queue->levels[i]->tree);
	}
	return position;
}

size_t queue_shares(const struct queue *queue)
{
	size_t n = 0;

	for (size_t i = 0; i < queue->n_levels; i++)
		n += queue->levels[i]->n_shares;
	return n;
}
