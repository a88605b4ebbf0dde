#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/capacity.h"
#include "orchestrator/scheduler.h"

static void the_first_starts_when_there_is_room(void **state)
{
	/* Two wait: the first wants 4 GiB and 2 processors, the other next to nothing. */
	static const struct {
		uint32_t max_vms, vms;
		uint64_t memory; /* of 8 GiB, in GiB */
		uint32_t cpus;	 /* of 4 */
		int queued;
		bool starts;
	} table[] = {
		{2, 0, 0, 0, 2, true},
		{2, 1, 4, 2, 2, true},	/* it fits to the byte */
		{2, 1, 5, 1, 2, false}, /* memory; and nobody passes it by */
		{2, 1, 1, 3, 2, false}, /* processors */
		{2, 2, 2, 2, 2, false},
		{2, 3, 2, 2, 2, false}, /* max_vms was lowered meanwhile */
		{9, 1, 9, 1, 2, false}, /* and so was the ratio */
		{9, 1, 1, 5, 2, false},
		{2, 0, 0, 0, 0, false},
		{0, 0, 0, 0, 2, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct scheduler_view view = {.max_vms = table[i].max_vms,
			.capacity = {.memory = 8 * GIB, .cpus = 4},
			.vms = table[i].vms,
			.memory = table[i].memory * GIB,
			.cpus = table[i].cpus};
		struct queue_item items[2] = {
			{.share = "a", .demand = {4 * GIB, 2}}, {.share = "a", .demand = {1, 1}}};
		struct queue queue;

		queue_init(&queue);
		for (int k = 0; k < table[i].queued; k++)
			queue_add(&queue, &items[k], 0);
		struct scheduler_lack lack;
		assert_ptr_equal(
			scheduler_next(&view, &queue, &lack), table[i].queued ? &items[0] : NULL);
		if (table[i].queued)
			assert_int_equal(!lack.vms && !lack.memory && !lack.cpus, table[i].starts);
		assert_int_equal(queue.length, table[i].queued);
		queue_clear(&queue);
	}
}

static void what_is_missing_is_said(void **state)
{
	static const struct {
		uint32_t vms;
		uint64_t memory;
		uint32_t cpus;
		struct queue_demand demand;
		struct scheduler_lack lack;
	} table[] = {
		{1, 3, 1, {5, 3}, {0, 0, 0}},
		{2, 3, 1, {5, 3}, {1, 0, 0}},
		{1, 4, 2, {5, 3}, {0, 1, 1}},
		{3, 9, 5, {5, 3}, {2, 6, 4}}, /* more is used than there is */
		{0, 9, 0, {UINT64_MAX, 1}, {0, UINT64_MAX, 0}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct scheduler_view view = {.max_vms = 2,
			.capacity = {.memory = 8, .cpus = 4},
			.vms = table[i].vms,
			.memory = table[i].memory,
			.cpus = table[i].cpus};
		const struct scheduler_lack *lack = &table[i].lack;
		struct scheduler_lack got;
		bool fits = scheduler_fits(&view, &table[i].demand, &got);

		assert_int_equal(fits, !lack->vms && !lack->memory && !lack->cpus);
		assert_int_equal(got.vms, lack->vms);
		assert_int_equal(got.memory, lack->memory);
		assert_int_equal(got.cpus, lack->cpus);
	}
}

static void what_can_never_fit_is_said(void **state)
{
	struct scheduler_capacity capacity = {.memory = GIB, .cpus = 2};
	static const struct {
		struct queue_demand demand;
		const char *says;
	} table[] = {
		{{GIB, 2}, NULL},
		{{GIB + 1, 1}, "memory_overcommit"},
		{{1, 3}, "wants 3 processors, and this host gives its VMs 2"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_error_ struct error *err = NULL;

		assert_int_equal(
			scheduler_check(&capacity, &table[i].demand, &err), table[i].says ? -1 : 0);
		if (!table[i].says)
			continue;
		assert_int_equal(err->code, ERR_LIMIT);
		assert_non_null(strstr(err->text, table[i].says));
	}
}

static void ratios(void **state)
{
	(void)state;
	struct scheduler_capacity c = scheduler_capacity_of(1000, 2, 80, 400);
	assert_int_equal(c.memory, 800);
	assert_int_equal(c.cpus, 8);
	assert_int_equal(scheduler_capacity_of(1000, 2, 80, 1).cpus, 1);
	assert_int_equal(scheduler_capacity_of(UINT64_C(1) << 50, 2, 10000, 1).memory,
		((UINT64_C(1) << 50) / 100) * 10000);
}

static void a_container_has_less(void **state)
{
	char dir[] = "/tmp/capacity-test-XXXXXX";
	static const char *const texts[] = {"max\n", "4096\n", "9223372036854771712\n", "x"};
	char *files[ARRAY_SIZE(texts) + 1];

	(void)state;
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		files[i] = str_printf("%s/%zu", dir, i);
		FILE *f = fopen(files[i], "w");
		fputs(texts[i], f);
		fclose(f);
	}
	files[ARRAY_SIZE(texts)] = str_printf("%s/none", dir);
	assert_int_equal(
		capacity_memory(8192, (const char *const *)files, ARRAY_SIZE(files)), 4096);
	assert_int_equal(capacity_memory(8192, (const char *const *)files, 1), 8192);
	assert_int_equal(
		capacity_memory(2048, (const char *const *)files, ARRAY_SIZE(files)), 2048);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		free(files[i]);
	remove_tree(dir, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_starts_when_there_is_room),
		cmocka_unit_test(what_is_missing_is_said),
		cmocka_unit_test(what_can_never_fit_is_said),
		cmocka_unit_test(ratios),
		cmocka_unit_test(a_container_has_less),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
