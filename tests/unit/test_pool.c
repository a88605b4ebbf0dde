/* What a pool does next, table by table. Times are in seconds here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "common/util.h"
#include "orchestrator/pool.h"

#define S(seconds) ((uint64_t)((seconds)*1e6))

/* VMs that boot, are idle, leave since then; and one of another image. */
#define BOOTS(t)                                                                                   \
	{                                                                                          \
		.state = POOL_VM_BOOTING, .since = (t)                                             \
	}
#define IDLE(t)                                                                                    \
	{                                                                                          \
		.state = POOL_VM_IDLE, .since = (t)                                                \
	}
#define LEAVES(t)                                                                                  \
	{                                                                                          \
		.state = POOL_VM_LEAVING, .since = (t)                                             \
	}
#define STALE(what, t)                                                                             \
	{                                                                                          \
		.state = (what), .since = (t), .stale = true                                       \
	}

struct given {
	enum pool_vm_state state;
	double since;
	bool stale;
};

/* The pool of the tables: min_idle 2, max 3, max_age 100 s. It is second 1000. */
static void one_step(void **state)
{
	static const struct {
		const char *what;
		struct given vms[4];
		size_t n;
		unsigned failures;
		double failed_at, not_before;
		bool no_image, no_room, waiting;
		enum pool_action action;
		uint64_t id;  /* of the retired: its place from 1 */
		double again; /* of POOL_WAIT */
	} table[] = {
		{.what = "empty", .action = POOL_BOOT},
		{.what = "the second at once", .vms = {BOOTS(1000)}, .n = 1, .action = POOL_BOOT},
		{.what = "two are enough", .vms = {BOOTS(999), BOOTS(1000)}, .n = 2},
		{.what = "full, until one is old",
			.vms = {IDLE(950), IDLE(960)},
			.n = 2,
			.again = 1050},
		{.what = "no image", .no_image = true},
		{.what = "no room", .no_room = true},
		{.what = "jobs wait", .waiting = true},
		{.what = "those that leave have no successor before they are gone",
			.vms = {LEAVES(999), LEAVES(999), LEAVES(999)},
			.n = 3},
		{.what = "but one that fits beside them has",
			.vms = {LEAVES(999), LEAVES(999)},
			.n = 2,
			.action = POOL_BOOT},

		{.what = "of another image: away",
			.vms = {IDLE(999), STALE(POOL_VM_IDLE, 999)},
			.n = 2,
			.action = POOL_RETIRE,
			.id = 2},
		{.what = "while it boots",
			.vms = {STALE(POOL_VM_BOOTING, 999), IDLE(999)},
			.n = 2,
			.action = POOL_RETIRE,
			.id = 1},
		{.what = "though jobs wait",
			.vms = {STALE(POOL_VM_IDLE, 999)},
			.n = 1,
			.waiting = true,
			.action = POOL_RETIRE,
			.id = 1},

		{.what = "one old, its successor first",
			.vms = {IDLE(900), IDLE(960)},
			.n = 2,
			.action = POOL_BOOT},
		{.what = "the successor boots",
			.vms = {IDLE(900), IDLE(960), BOOTS(999)},
			.n = 3,
			.again = 1060},
		{.what = "it is there: the old one goes",
			.vms = {IDLE(900), IDLE(960), IDLE(999)},
			.n = 3,
			.action = POOL_RETIRE,
			.id = 1},
		{.what = "both old", .vms = {IDLE(899), IDLE(890)}, .n = 2, .action = POOL_BOOT},
		{.what = "three old, max reached: one goes, the oldest",
			.vms = {IDLE(899), IDLE(880), IDLE(890)},
			.n = 3,
			.action = POOL_RETIRE,
			.id = 2},
		{.what = "and just one", .vms = {IDLE(899), LEAVES(999), IDLE(890)}, .n = 3},
		{.what = "old, and no room for a successor",
			.vms = {IDLE(890), IDLE(960)},
			.n = 2,
			.no_room = true,
			.action = POOL_RETIRE,
			.id = 1},
		{.what = "old, and jobs wait",
			.vms = {IDLE(890), IDLE(960)},
			.n = 2,
			.waiting = true,
			.again = 1060},
		{.what = "old, and the image fails: better than none",
			.vms = {IDLE(890), IDLE(891), IDLE(892)},
			.n = 3,
			.failures = 1,
			.failed_at = 990,
			.not_before = 991},

		{.what = "after a failure",
			.failures = 1,
			.failed_at = 999.5,
			.not_before = 1000.5,
			.again = 1000.5},
		{.what = "again",
			.failures = 1,
			.failed_at = 999,
			.not_before = 1000,
			.action = POOL_BOOT},
		{.what = "one at a time",
			.vms = {BOOTS(1000)},
			.n = 1,
			.failures = 1,
			.failed_at = 998,
			.not_before = 999},
		{.what = "it came up, but is not proven",
			.vms = {IDLE(995)},
			.n = 1,
			.failures = 1,
			.failed_at = 990,
			.not_before = 991,
			.again = 1025},
		{.what = "proven: the second",
			.vms = {IDLE(970)},
			.n = 1,
			.failures = 9,
			.failed_at = 960,
			.not_before = 961,
			.action = POOL_BOOT},
		{.what = "one from before the failure proves nothing",
			.vms = {IDLE(950)},
			.n = 1,
			.failures = 3,
			.failed_at = 999,
			.not_before = 1003,
			.again = 1003},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct pool pool = {.min_idle = 2,
			.max = 3,
			.max_age_usec = S(100),
			.failures = table[i].failures,
			.failed_at = S(table[i].failed_at),
			.not_before = S(table[i].not_before)};
		struct pool_vm vms[4] = {0};
		struct pool_view view = {.vms = vms,
			.n_vms = table[i].n,
			.image = !table[i].no_image,
			.room = !table[i].no_room,
			.waiting = table[i].waiting,
			.now = S(1000)};

		for (size_t k = 0; k < table[i].n; k++)
			vms[k] = (struct pool_vm){.id = k + 1,
				.state = table[i].vms[k].state,
				.since = S(table[i].vms[k].since),
				.stale = table[i].vms[k].stale};
		struct pool_step step = pool_next(&pool, &view);
		if (step.action != table[i].action || step.id != table[i].id ||
			step.again != S(table[i].again))
			fail_msg("%s: action %d, id %d, again %f", table[i].what, step.action,
				(int)step.id, (double)step.again / 1e6);
		pool_clear(&pool);
	}
}

/* An image that never boots, for an hour: how often it is tried. */
static void a_broken_image_is_no_boot_storm(void **state)
{
	struct pool pool = {.min_idle = 4, .max = 8, .max_age_usec = S(1800)};
	struct pool_vm vm = {.id = 1};
	struct pool_view view = {.vms = &vm, .image = true, .room = true};
	unsigned boots = 0, in_ten_seconds = 0;

	(void)state;
	for (uint64_t now = 0; now < S(3600); now += S(0.25)) {
		view.now = now;
		if (view.n_vms) { /* its boot takes a quarter of a second */
			view.n_vms = 0;
			pool_failed(&pool, "no init", now);
		}
		if (pool_next(&pool, &view).action == POOL_BOOT) {
			vm.since = now;
			view.n_vms = 1;
			boots++;
			in_ten_seconds += now < S(10);
		}
	}
	assert_in_range(in_ten_seconds, 2, 4);
	assert_in_range(boots, 10, 20);
	assert_int_equal(pool_health(&pool, &view), POOL_OPEN);
	assert_string_equal(pool.reason, "no init");

	/* Another image: at once. */
	pool_image_changed(&pool);
	assert_int_equal(pool_health(&pool, &view), POOL_WELL);
	assert_int_equal(pool_next(&pool, &view).action, POOL_BOOT);
	pool_clear(&pool);
}

/* Dead after a second, or silent, which is noticed after 25. */
static void one_that_dies_young_is_none_either(void **state)
{
	static const unsigned lives[] = {1, 25};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lives); i++) {
		struct pool pool = {.min_idle = 1, .max = 2, .max_age_usec = S(1800)};
		struct pool_vm vm = {.id = 1, .state = POOL_VM_IDLE};
		struct pool_view view = {.vms = &vm, .image = true, .room = true};
		unsigned boots = 0;

		for (uint64_t now = S(1); now < S(600); now += S(0.25)) {
			view.now = now;
			if (view.n_vms && now - vm.since > S(lives[i])) {
				view.n_vms = 0;
				pool_failed(&pool, "died", now);
			}
			if (pool_next(&pool, &view).action == POOL_BOOT) {
				vm.since = now;
				view.n_vms = 1;
				boots++;
			}
		}
		assert_in_range(boots, 5, 8);
		pool_clear(&pool);
	}
}

static void the_circuit_closes_when_one_is_proven(void **state)
{
	struct pool pool = {.min_idle = 2, .max = 3, .max_age_usec = S(1800)};
	struct pool_vm vms[2] = {{.id = 1, .state = POOL_VM_IDLE}, {.id = 2}};
	struct pool_view view = {.vms = vms, .image = true, .room = true};

	(void)state;
	for (unsigned i = 0; i < POOL_FAILURES; i++)
		pool_failed(&pool, "no", S(10));
	view.now = S(300);
	assert_int_equal(pool_health(&pool, &view), POOL_OPEN);
	assert_int_equal(pool_next(&pool, &view).again, S(310));
	view.now = S(310);
	assert_int_equal(pool_next(&pool, &view).action, POOL_BOOT);
	view.n_vms = 1;
	vms[0].since = S(311);
	assert_int_equal(pool_health(&pool, &view), POOL_TRIAL);
	assert_int_equal(pool_next(&pool, &view).again, S(341));
	view.now = S(341);
	assert_int_equal(pool_next(&pool, &view).action, POOL_BOOT);
	assert_int_equal(pool_health(&pool, &view), POOL_WELL);
	assert_null(pool.reason);

	/* Or when one that came after the failure answered the job that took it. */
	pool_failed(&pool, "no", S(400));
	pool_proven(&pool, S(399));
	assert_int_equal(pool.failures, 1);
	/* That one was taken says nothing yet. */
	pool_taken(&pool, S(402));
	assert_int_equal(pool.failures, 1);
	pool_proven(&pool, S(401));
	assert_int_equal(pool.failures, 0);
	pool_clear(&pool);
}

static void jobs_come_first(void **state)
{
	struct pool pool = {.min_idle = 1, .max = 2, .max_age_usec = S(1800)};
	struct pool_view view = {.image = true, .room = true, .now = S(100)};

	(void)state;
	pool_taken(&pool, S(100));
	assert_int_equal(pool_next(&pool, &view).again, S(100) + POOL_SETTLE_USEC);
	/* A stream of jobs does not put it off for ever. */
	pool_taken(&pool, S(100.1));
	assert_int_equal(pool_next(&pool, &view).again, S(100) + POOL_SETTLE_USEC);
	view.now = S(101);
	assert_int_equal(pool_next(&pool, &view).action, POOL_BOOT);
	pool_gave_room(&pool, S(101));
	assert_int_equal(pool_next(&pool, &view).again, S(101) + POOL_QUIET_USEC);
}

static void room(void **state)
{
	/* Four VMs of 1 GiB and one processor: idle since 1 and 2, booting since 3 and 4. */
	static const struct {
		struct scheduler_lack lack;
		bool leaving; /* the last one leaves already */
		bool helps;
		bool leave[4];
	} table[] = {
		{{0, 0, 0}, false, true, {0}},
		{{1, 0, 0}, false, true, {[3] = true}},
		{{0, GIB / 2, 1}, false, true, {[3] = true}},
		{{0, GIB + 1, 0}, false, true, {[2] = true, [3] = true}},
		{{3, 0, 0}, false, true, {[0] = true, [2] = true, [3] = true}},
		{{0, 0, 4}, false, true, {true, true, true, true}},
		{{0, 0, 5}, false, false, {0}}, /* jobs have the rest: for nothing */
		{{1, 0, 0}, true, true, {0}},
		{{2, 0, 0}, true, true, {[2] = true}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct pool_vm vms[] = {
			{.id = 1, .state = POOL_VM_IDLE, .since = 1, .demand = {GIB, 1}},
			{.id = 2, .state = POOL_VM_IDLE, .since = 2, .demand = {GIB, 1}},
			{.id = 3, .state = POOL_VM_BOOTING, .since = 3, .demand = {GIB, 1}},
			{.id = 4, .state = POOL_VM_BOOTING, .since = 4, .demand = {GIB, 1}},
		};
		bool leave[4] = {0};

		if (table[i].leaving)
			vms[3].state = POOL_VM_LEAVING;
		assert_int_equal(pool_make_room(vms, 4, &table[i].lack, leave), table[i].helps);
		if (memcmp(leave, table[i].leave, sizeof(leave)) != 0)
			fail_msg("row %zu: %d %d %d %d", i, leave[0], leave[1], leave[2], leave[3]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_step),
		cmocka_unit_test(a_broken_image_is_no_boot_storm),
		cmocka_unit_test(one_that_dies_young_is_none_either),
		cmocka_unit_test(the_circuit_closes_when_one_is_proven),
		cmocka_unit_test(jobs_come_first),
		cmocka_unit_test(room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
