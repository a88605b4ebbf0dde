#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/accel.h"

static char dir[] = "/tmp/test_accel.XXXXXX";
static char file[64];

static enum accel_use begin(struct accel *accel, const char *emulator)
{
	enum accel_use use;

	/* remote: what this machine's /dev/kvm is like does not matter. */
	assert_int_equal(accel_begin(accel, emulator, true, -1, &use, NULL), 0);
	return use;
}

static int fresh(void **state)
{
	(void)state;
	unlink(file);
	return 0;
}

static void what_was_asked_for_is_not_tried(void **state)
{
	struct accel *tcg = accel_new(ACCEL_TCG, file);
	struct accel *kvm = accel_new(ACCEL_KVM, file);

	(void)state;
	assert_int_equal(begin(tcg, "/bin/sh"), ACCEL_USE_TCG);
	assert_int_equal(begin(kvm, "/bin/sh"), ACCEL_USE_KVM);
	assert_string_equal(accel_name(tcg), "tcg");
	assert_string_equal(accel_name(kvm), "kvm");
	accel_free(tcg);
	accel_free(kvm);
}

static void a_kvm_that_works_is_tried_once_and_remembered(void **state)
{
	struct accel *accel = accel_new(ACCEL_AUTO, file);

	(void)state;
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	accel_report(accel, ACCEL_USE_TRIAL, true, NULL);
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_KVM);
	accel_free(accel);
	accel = accel_new(ACCEL_AUTO, file);
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_KVM);
	accel_free(accel);
	accel = accel_new(ACCEL_AUTO, file); /* another QEMU: ask again */
	assert_int_equal(begin(accel, "/bin/cat"), ACCEL_USE_TRIAL);
	accel_free(accel);
}

static void a_kvm_that_hangs_costs_one_trial(void **state)
{
	struct accel *accel = accel_new(ACCEL_AUTO, file);

	(void)state;
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	accel_report(accel, ACCEL_USE_TRIAL, false, "not ready after 10 s");
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TCG);
	accel_report(accel, ACCEL_USE_TCG, true, NULL);
	accel_free(accel);
	accel = accel_new(ACCEL_AUTO, file);
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TCG);
	accel_free(accel);
}

static void an_image_that_boots_nowhere_says_nothing_about_kvm(void **state)
{
	struct accel *accel = accel_new(ACCEL_AUTO, file);

	(void)state;
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	accel_report(accel, ACCEL_USE_TRIAL, false, "no worker");
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TCG);
	accel_report(accel, ACCEL_USE_TCG, false, "no worker");
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	accel_report(accel, ACCEL_USE_TRIAL, false, NULL); /* cancelled: no answer either */
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	accel_free(accel);
}

static void *begin_in_thread(void *arg)
{
	return (void *)(uintptr_t)begin(arg, "/bin/sh");
}

static void others_wait_while_one_is_on_trial(void **state)
{
	struct accel *accel = accel_new(ACCEL_AUTO, file);
	pthread_t threads[4];

	(void)state;
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, begin_in_thread, accel), 0);
	accel_report(accel, ACCEL_USE_TRIAL, true, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *use;
		assert_int_equal(pthread_join(threads[i], &use), 0);
		assert_int_equal((uintptr_t)use, ACCEL_USE_KVM);
	}
	accel_free(accel);
}

static void a_wait_for_the_trial_can_be_cancelled(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	struct accel *accel = accel_new(ACCEL_AUTO, file);
	_cleanup_close_ int cancel_fd = eventfd(1, EFD_CLOEXEC);
	enum accel_use use;

	(void)state;
	assert_int_equal(begin(accel, "/bin/sh"), ACCEL_USE_TRIAL);
	alarm(20); /* instead of waiting for ever */
	assert_int_equal(accel_begin(accel, "/bin/sh", true, cancel_fd, &use, &err), -1);
	alarm(0);
	assert_int_equal(err->code, ERR_CANCELLED);
	/* The trial goes on, and is answered once. */
	accel_report(accel, ACCEL_USE_TRIAL, true, NULL);
	assert_int_equal(accel_begin(accel, "/bin/sh", true, cancel_fd, &use, NULL), 0);
	assert_int_equal(use, ACCEL_USE_KVM);
	accel_free(accel);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(what_was_asked_for_is_not_tried, fresh),
		cmocka_unit_test_setup(a_kvm_that_works_is_tried_once_and_remembered, fresh),
		cmocka_unit_test_setup(a_kvm_that_hangs_costs_one_trial, fresh),
		cmocka_unit_test_setup(an_image_that_boots_nowhere_says_nothing_about_kvm, fresh),
		cmocka_unit_test_setup(others_wait_while_one_is_on_trial, fresh),
		cmocka_unit_test_setup(a_wait_for_the_trial_can_be_cancelled, fresh),
	};
	if (!mkdtemp(dir))
		return 1;
	snprintf(file, sizeof(file), "%s/accel.json", dir);
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	int r = cmocka_run_group_tests_name("accel", tests, NULL, NULL);
	remove_tree(dir, NULL);
	return r;
}
