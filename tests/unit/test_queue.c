#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/queue.h"

#define MINUTE QUEUE_AGING_USEC

/* Take all, in order, as the first letters of the shares' names and a number each. */
static void served(struct queue *queue, uint64_t now, char *ret, size_t size)
{
	struct queue_item *item;
	size_t used = 0;

	ret[0] = '\0';
	while ((item = queue_first(queue, now))) {
		assert_int_equal(queue_position(queue, item), 1);
		queue_take(queue, item);
		used += (size_t)snprintf(ret + used, size - used, "%s%llu ", item->share,
			(unsigned long long)item->order);
		assert_true(used < size);
	}
}

struct row {
	const char *share;
	int priority;
	uint64_t since, not_before;
	uint32_t cpus;
};

static void order_of_service(void **state)
{
	static const struct {
		struct row rows[8];
		uint64_t now;
		const char *order;
	} table[] = {
		/* First come, first served; equal times by order. */
		{{{.share = "a"}, {.share = "a"}, {.share = "a"}}, 0, "a1 a2 a3 "},
		/* A heavy one does not starve another who comes later. */
		{{{.share = "a"}, {.share = "a"}, {.share = "a"}, {.share = "a"}, {.share = "b"},
			 {.share = "b"}},
			0, "a1 b5 a2 b6 a3 a4 "},
		{{{.share = "a"}, {.share = "a"}, {.share = "b"}, {.share = "c"}}, 0,
			"a1 b3 c4 a2 "},
		/* A job of two processors is worth two turns. */
		{{{.share = "a", .cpus = 2}, {.share = "a", .cpus = 2}, {.share = "b"},
			 {.share = "b"}, {.share = "b"}},
			0, "a1 b3 b4 a2 b5 "},
		/* Priority before shares. */
		{{{.share = "a", .priority = 0}, {.share = "a", .priority = 5},
			 {.share = "b", .priority = -5}, {.share = "b", .priority = 5}},
			0, "a2 b4 a1 b3 "},
		/* One of priority is a minute's waiting: earlier by less, the same, more. */
		{{{.share = "a", .priority = 0, .since = 5 * MINUTE},
			 {.share = "b", .priority = 5, .since = 10 * MINUTE - 1}},
			60 * MINUTE, "b2 a1 "},
		{{{.share = "a", .priority = 0, .since = 5 * MINUTE},
			 {.share = "b", .priority = 5, .since = 10 * MINUTE}},
			60 * MINUTE, "b2 a1 "},
		{{{.share = "a", .priority = 0, .since = 5 * MINUTE},
			 {.share = "b", .priority = 5, .since = 10 * MINUTE + 1}},
			60 * MINUTE, "a1 b2 "},
		{{{.share = "a", .priority = -100, .since = 0},
			 {.share = "b", .priority = 100, .since = 200 * MINUTE + 1}},
			300 * MINUTE, "a1 b2 "},
		{{{.share = "a", .priority = -100, .since = 0},
			 {.share = "b", .priority = 100, .since = 200 * MINUTE - 1}},
			300 * MINUTE, "b2 a1 "},
		/* Not before its time. */
		{{{.share = "a", .not_before = 10}, {.share = "a", .since = 5}}, 9, "a2 "},
		{{{.share = "a", .not_before = 10}, {.share = "a", .since = 5}}, 10, "a2 a1 "},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct queue_item items[8] = {0};
		struct queue queue;
		char order[128];

		queue_init(&queue);
		for (size_t k = 0; k < 8 && table[i].rows[k].share; k++) {
			const struct row *row = &table[i].rows[k];

			items[k] = (struct queue_item){.share = row->share,
				.priority = row->priority,
				.since = row->since,
				.not_before = row->not_before,
				.demand = {.cpus = row->cpus}};
			queue_add(&queue, &items[k], 0);
		}
		served(&queue, table[i].now, order, sizeof(order));
		assert_string_equal(order, table[i].order);
		queue_clear(&queue);
	}
}

static void what_could_not_start_returns_to_its_place(void **state)
{
	struct queue_item items[4] = {
		{.share = "a"}, {.share = "a"}, {.share = "b"}, {.share = "a"}};
	struct queue queue;
	char order[64];

	(void)state;
	queue_init(&queue);
	for (int i = 0; i < 4; i++)
		queue_add(&queue, &items[i], 0);
	queue_take(&queue, &items[0]);
	queue_take(&queue, &items[2]);
	assert_false(queue_holds(&items[0]));
	assert_ptr_equal(queue_first(&queue, 0), &items[1]);
	queue_return(&queue, &items[2]);
	queue_return(&queue, &items[0]);
	served(&queue, 0, order, sizeof(order));
	assert_string_equal(order, "a1 b3 a2 a4 ");

	/* Also when it was the last of its level, and others come before it is back. */
	queue_add(&queue, &items[0], 0);
	queue_add(&queue, &items[1], 0);
	queue_take(&queue, &items[0]);
	queue_take(&queue, &items[1]);
	queue_return(&queue, &items[1]);
	queue_add(&queue, &items[2], 0);
	assert_ptr_equal(queue_first(&queue, 0), &items[1]);
	assert_int_equal(queue.length, 2);
	queue_clear(&queue);
}

static void the_cancelled_do_not_count(void **state)
{
	struct queue_item items[8] = {0};
	struct queue queue;
	char order[64];

	(void)state;
	queue_init(&queue);
	for (int i = 0; i < 8; i++)
		items[i].share = i < 6 ? "a" : "b";
	for (int i = 0; i < 5; i++)
		queue_add(&queue, &items[i], 0);
	for (int i = 4; i > 0; i--)
		queue_remove(&queue, &items[i]);
	queue_add(&queue, &items[6], 0);
	queue_add(&queue, &items[5], 0);
	queue_add(&queue, &items[7], 0);
	served(&queue, 0, order, sizeof(order));
	assert_string_equal(order, "a1 b6 a7 b8 ");
	assert_int_equal(queue.length, 0);
	queue_clear(&queue);
}

/* Who sends the next job when the last one has started is not always first. */
static void one_at_a_time_is_no_advantage(void **state)
{
	struct queue_item b[4] = {0}, a = {.share = "a"};
	struct queue queue;
	int turns_of_b = 0;

	(void)state;
	queue_init(&queue);
	for (int i = 0; i < 4; i++) {
		b[i].share = "b";
		queue_add(&queue, &b[i], 0);
	}
	queue_add(&queue, &a, 0);
	for (int i = 0; i < 6; i++) {
		struct queue_item *first = queue_first(&queue, 0);

		queue_take(&queue, first);
		if (first == &a)
			queue_add(&queue, &a, 0);
		else
			turns_of_b++;
	}
	assert_int_equal(turns_of_b, 3);
	queue_clear(&queue);
}

static void positions_are_the_order_of_service(void **state)
{
	enum { N = 600 };
	struct queue_item *items = xcalloc(N, sizeof(*items));
	static const char *const shares[] = {"a", "b", "c", "d", "e", "f", "g"};
	struct queue queue;
	uint32_t random = 1;

	(void)state;
	queue_init(&queue);
	for (size_t i = 0; i < N; i++) {
		random = random * 1664525u + 1013904223u;
		items[i].share = shares[(random >> 8) % 3 ? 0 : (random >> 16) % 7];
		items[i].since = i;
		items[i].demand.cpus = 1 + (random >> 20) % 3;
		items[i].not_before = i % 50 == 49 ? 1000000 + i : 0;
		queue_add(&queue, &items[i], i);
	}
	for (size_t i = 0; i < N; i += 7)
		queue_remove(&queue, &items[i]);
	size_t length = queue.length, seen = 0;
	struct queue_item *item;
	size_t *positions = xcalloc(N, sizeof(*positions));
	for (size_t i = 0; i < N; i++)
		positions[i] = queue_position(&queue, &items[i]);
	assert_int_equal(positions[0], 0);
	assert_int_equal(queue_next_time(&queue), 1000099);
	while ((item = queue_first(&queue, 1000))) {
		assert_int_equal(positions[item - items], ++seen);
		queue_take(&queue, item);
	}
	assert_true(seen > 500);
	while ((item = queue_first(&queue, 2000000))) {
		assert_true(positions[item - items] > seen);
		queue_take(&queue, item);
		length--;
	}
	assert_int_equal(length, seen);
	assert_int_equal(queue.length, 0);
	assert_int_equal(queue.n_levels, 0);
	queue_clear(&queue);
	free(items);
	free(positions);
}

static void shares_are_forgotten(void **state)
{
	enum { N = 5000 };
	struct queue_item *items = xcalloc(N, sizeof(*items));
	struct queue_item stays = {.share = "stays", .since = 0, .demand = {.cpus = 1}};
	struct queue queue;
	char name[16];

	(void)state;
	queue_init(&queue);
	queue_add(&queue, &stays, 0);
	/* One after the other, each of another share: the walk over all must not grow. */
	for (size_t i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "s%zu", i);
		items[i].share = name;
		queue_add(&queue, &items[i], 0);
		queue_remove(&queue, &items[i]);
	}
	assert_true(queue_shares(&queue) < 200);
	queue_clear(&queue);
	free(items);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_of_service),
		cmocka_unit_test(what_could_not_start_returns_to_its_place),
		cmocka_unit_test(the_cancelled_do_not_count),
		cmocka_unit_test(one_at_a_time_is_no_advantage),
		cmocka_unit_test(positions_are_the_order_of_service),
		cmocka_unit_test(shares_are_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
