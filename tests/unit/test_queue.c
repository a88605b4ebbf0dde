#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "orchestrator/queue.h"

static void first_come_first_served(void **state)
{
	struct queue_item items[4] = {0};
	struct queue queue;

	(void)state;
	queue_init(&queue);
	assert_null(queue_first(&queue));
	for (int i = 0; i < 4; i++)
		queue_add(&queue, &items[i]);
	queue_remove(&queue, &items[1]);
	assert_false(queue_holds(&items[1]));
	queue_number(&queue);
	assert_int_equal(items[0].position, 1);
	assert_int_equal(items[1].position, 0);
	assert_int_equal(items[3].position, 3);
	assert_int_equal(queue.length, 3);
	assert_ptr_equal(queue_first(&queue), &items[0]);

	/* Those that could not be started have their places again, in whatever order they come
	 * back; one that is added again is the last. */
	queue_remove(&queue, &items[0]);
	queue_remove(&queue, &items[2]);
	assert_ptr_equal(queue_first(&queue), &items[3]);
	queue_return(&queue, &items[0]);
	queue_return(&queue, &items[2]);
	queue_add(&queue, &items[1]);
	static const int order[] = {0, 2, 3, 1};
	for (int i = 0; i < 4; i++) {
		assert_ptr_equal(queue_first(&queue), &items[order[i]]);
		queue_remove(&queue, &items[order[i]]);
	}
	assert_null(queue_first(&queue));
	assert_int_equal(queue.length, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_come_first_served),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
