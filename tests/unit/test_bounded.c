/* Calls that do not return in time, and what becomes of what they worked with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "common/util.h"
#include "orchestrator/bounded.h"

struct work {
	int go_fd;   /* the call returns once this is readable */
	int fate_fd; /* readable when late() was called */
	atomic_bool ran;
	atomic_int lates;
};

static void wait_readable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&pfd, 1, 30000), 1);
}

static void run(void *arg)
{
	struct work *work = arg;

	wait_readable(work->go_fd);
	work->ran = true;
}

static void late(void *arg)
{
	struct work *work = arg;

	work->lates++;
	eventfd_write(work->fate_fd, 1);
}

static struct work work_new(void)
{
	return (struct work){.go_fd = eventfd(0, EFD_CLOEXEC), .fate_fd = eventfd(0, EFD_CLOEXEC)};
}

static void work_clear(struct work *work)
{
	close_fd(&work->go_fd);
	close_fd(&work->fate_fd);
}

static uint64_t in_ms(unsigned ms)
{
	return now_mono_usec() + UINT64_C(1000) * ms;
}

static void one_that_returns_is_the_callers_again(void **state)
{
	struct work work = work_new();
	struct bounded *bounded = bounded_start(run, late, &work, NULL);

	(void)state;
	assert_non_null(bounded);
	assert_int_equal(bounded_wait(bounded, in_ms(20), -1, -1), BOUNDED_TIMEOUT);
	eventfd_write(work.go_fd, 1);
	assert_int_equal(bounded_wait(bounded, in_ms(30000), -1, -1), BOUNDED_RETURNED);
	assert_true(work.ran);
	assert_int_equal(work.lates, 0);
	work_clear(&work);
}

static void one_that_is_left_is_cleaned_up_after_once(void **state)
{
	struct work work = work_new();
	struct bounded *bounded = bounded_start(run, late, &work, NULL);

	(void)state;
	assert_int_equal(bounded_wait(bounded, in_ms(20), -1, -1), BOUNDED_TIMEOUT);
	assert_true(bounded_leave(bounded));
	assert_int_equal(bounded_left(), 1);
	assert_int_equal(work.lates, 0);
	eventfd_write(work.go_fd, 1);
	wait_readable(work.fate_fd);
	while (bounded_left() > 0)
		sleep_ms(1);
	assert_true(work.ran);
	assert_int_equal(work.lates, 1);
	work_clear(&work);
}

static void leaving_one_that_has_returned_gives_it_back(void **state)
{
	struct work work = work_new();
	struct bounded *bounded = bounded_start(run, late, &work, NULL);

	(void)state;
	eventfd_write(work.go_fd, 1);
	sleep_ms(100);
	bool left = bounded_leave(bounded);
	if (left) /* a very slow machine */
		wait_readable(work.fate_fd);
	while (bounded_left() > 0)
		sleep_ms(1);
	assert_true(work.ran);
	assert_int_equal(work.lates, left);
	work_clear(&work);
}

static void whoever_waits_is_woken(void **state)
{
	struct work work = work_new();
	int cancel_fd = eventfd(1, EFD_CLOEXEC), progress_fd = eventfd(1, EFD_CLOEXEC);
	struct bounded *bounded = bounded_start(run, late, &work, NULL);

	(void)state;
	assert_int_equal(
		bounded_wait(bounded, in_ms(30000), cancel_fd, progress_fd), BOUNDED_CANCELLED);
	assert_int_equal(bounded_wait(bounded, in_ms(30000), -1, progress_fd), BOUNDED_PROGRESS);
	eventfd_write(work.go_fd, 1);
	assert_int_equal(bounded_wait(bounded, in_ms(30000), -1, -1), BOUNDED_RETURNED);
	close_fd(&cancel_fd);
	close_fd(&progress_fd);
	work_clear(&work);
}

static void only_so_many_may_be_left(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	struct work work = work_new();

	(void)state;
	for (unsigned i = 0; i < BOUNDED_LEFT_MAX; i++) {
		struct bounded *bounded = bounded_start(run, late, &work, NULL);
		assert_non_null(bounded);
		assert_true(bounded_leave(bounded));
	}
	assert_null(bounded_start(run, late, &work, &err));
	assert_int_equal(err->code, ERR_UNAVAILABLE);
	eventfd_write(work.go_fd, 1);
	while (bounded_left() > 0)
		sleep_ms(1);
	assert_int_equal(work.lates, BOUNDED_LEFT_MAX);
	work_clear(&work);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_that_returns_is_the_callers_again),
		cmocka_unit_test(one_that_is_left_is_cleaned_up_after_once),
		cmocka_unit_test(leaving_one_that_has_returned_gives_it_back),
		cmocka_unit_test(whoever_waits_is_woken),
		cmocka_unit_test(only_so_many_may_be_left),
	};

	return cmocka_run_group_tests_name("bounded", tests, NULL, NULL);
}
