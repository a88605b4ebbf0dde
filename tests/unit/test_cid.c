#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/util.h"
#include "orchestrator/cid.h"

#define MINUTE UINT64_C(60000000)

static void cids_are_distinct_and_outside_the_reserved_ones(void **state)
{
	struct cid_pool *pool = cid_pool_new();
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
	struct cid_pool *pool = cid_pool_new();
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cids_are_distinct_and_outside_the_reserved_ones),
		cmocka_unit_test(a_released_cid_rests_ten_minutes),
	};
	return cmocka_run_group_tests_name("cid", tests, NULL, NULL);
}
