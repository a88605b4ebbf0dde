#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/util.h"
#include "orchestrator/scheduler.h"

static void the_first_starts_when_a_slot_is_free(void **state)
{
	static const struct {
		uint32_t max_vms, vms;
		int queued;
		bool starts;
	} table[] = {
		{2, 0, 3, true},
		{2, 1, 3, true},
		{2, 2, 3, false},
		{2, 3, 3, false}, /* max_vms was lowered meanwhile */
		{2, 0, 0, false},
		{0, 0, 3, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct scheduler_view view = {.max_vms = table[i].max_vms, .vms = table[i].vms};
		struct queue_item items[3] = {0};
		struct queue queue;

		queue_init(&queue);
		for (int k = 0; k < table[i].queued; k++)
			queue_add(&queue, &items[k]);
		assert_ptr_equal(scheduler_next(&view, &queue), table[i].starts ? &items[0] : NULL);
		assert_int_equal(queue.length, table[i].queued);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_starts_when_a_slot_is_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
