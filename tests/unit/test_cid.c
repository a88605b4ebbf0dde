#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/util.h"
#include "orchestrator/cid.h"

#define MINUTE UINT64_C(60000000)

static const struct cid_range wide = {0x10000, 0x7ffffffe};

static void cids_are_distinct_and_in_their_range(void **state)
{
	struct cid_pool *pool = cid_pool_new(wide);
	uint32_t taken[500];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++) {
		taken[i] = cid_take(pool, 1);
		assert_true(taken[i] > 0xffff);
		assert_true(taken[i] < 0x7fffffff);
		for (size_t j = 0; j < i; j++)
			assert_int_not_equal(taken[i], taken[j]);
	}
	cid_pool_free(pool);
}

static void a_released_cid_rests_ten_minutes(void **state)
{
	struct cid_pool *pool = cid_pool_new(wide);
	uint32_t cid = cid_take(pool, 0);

	(void)state;
	assert_true(cid_is_known(pool, cid));
	cid_release(pool, cid, 0);
	assert_true(cid_is_known(pool, cid));
	cid_take(pool, 9 * MINUTE);
	assert_true(cid_is_known(pool, cid));
	cid_take(pool, 11 * MINUTE);
	assert_false(cid_is_known(pool, cid));
	cid_release(pool, cid, 0); /* of one that is not ours: nothing happens */
	cid_pool_free(pool);
}

static void a_narrow_range_is_gone_through_in_order(void **state)
{
	struct cid_pool *pool = cid_pool_new((struct cid_range){70001, 70003});

	(void)state;
	assert_int_equal(cid_take(pool, 1), 70001);
	cid_release(pool, 70001, 1);
	assert_int_equal(cid_take(pool, 2), 70002);
	assert_int_equal(cid_take(pool, 3), 70003);
	/* All used or resting: the one that rests longest. */
	cid_release(pool, 70003, 4);
	assert_int_equal(cid_take(pool, 5), 70001);
	assert_int_equal(cid_take(pool, 6), 70003);
	assert_int_equal(cid_take(pool, 7), 0);
	cid_release(pool, 70002, 8);
	assert_int_equal(cid_take(pool, 30 * MINUTE), 70002);
	cid_pool_free(pool);
}

static void the_whole_range_of_cids_is_possible(void **state)
{
	struct cid_pool *pool = cid_pool_new((struct cid_range){3, 0xfffffffe});

	(void)state;
	for (int i = 0; i < 100; i++)
		assert_true(cid_take(pool, 1) >= 3);
	cid_pool_free(pool);
	pool = cid_pool_new((struct cid_range){0xfffffffe, 0xfffffffe});
	assert_int_equal(cid_take(pool, 1), 0xfffffffe);
	assert_int_equal(cid_take(pool, 1), 0);
	cid_pool_free(pool);
}

static void ranges_are_read_and_refused(void **state)
{
	static const char *const bad[] = {"", "-", "5", "5-", "-5", "2-9", "5-4294967295",
		"5-99999999999999999999999", "5 - 9", "5-9 ", "5-9-11", "0x5-9", "9-5"};
	struct cid_range range = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_free_ char *problem = cid_range_parse(bad[i], &range);
		assert_non_null(problem);
		assert_int_equal(range.first, 0);
	}
	assert_null(cid_range_parse("3-4294967294", &range));
	assert_int_equal(range.first, 3);
	assert_int_equal(range.last, 4294967294);
	assert_null(cid_range_parse("9-9", &range));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cids_are_distinct_and_in_their_range),
		cmocka_unit_test(a_narrow_range_is_gone_through_in_order),
		cmocka_unit_test(the_whole_range_of_cids_is_possible),
		cmocka_unit_test(ranges_are_read_and_refused),
		cmocka_unit_test(a_released_cid_rests_ten_minutes),
	};
	return cmocka_run_group_tests_name("cid", tests, NULL, NULL);
}
