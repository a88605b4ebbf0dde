/* A libvirtd that takes connections and never says a word. */
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
#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/host_private.h"
#include "orchestrator/process.h"

static char dir[] = "/tmp/test_host.XXXXXX";

static void *cancel_soon(void *arg)
{
	sleep_ms(300);
	eventfd_write(*(const int *)arg, 1);
	return NULL;
}

static void a_silent_libvirt_holds_up_nobody(void **state)
{
	_cleanup_error_ struct error *err = NULL, *err_within = NULL;
	_cleanup_free_ char *uri =
		str_printf("qemu+unix:///system?socket=%s/sock&mode=direct", dir);
	char cids[] = "65536-65600";
	struct config config = {
		.state_dir = dir, .runtime_dir = dir, .libvirt_uri = uri, .cids = cids};
	struct endpoint ep = {.kind = ENDPOINT_UNIX};
	int cancel_fd = eventfd(0, EFD_CLOEXEC);
	pthread_t thread;

	(void)state;
	snprintf(ep.path, sizeof(ep.path), "%s/sock", dir);
	_cleanup_close_ int listen_fd = sock_listen(&ep, 4, 0600, NULL);
	struct host *host = host_new(&config, NULL);
	assert_non_null(host);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel_fd), 0);
	alarm(50); /* instead of waiting for ever */
	assert_null(host_virt(host, cancel_fd, &err));
	assert_int_equal(err->code, ERR_CANCELLED);
	pthread_join(thread, NULL);
	/* What does not answer is named. */
	assert_null(host_virt_within(host, 300, &err_within));
	assert_int_equal(err_within->code, ERR_TIMEOUT);
	assert_non_null(strstr(err_within->text, "virConnectOpen"));
	/* It still tries, which those who only ask about the host do not notice. */
	assert_null(host_vsock_device(host));
	assert_true(host->connecting);
	/* It goes away: now there is an error, and its words. */
	close_fd(&listen_fd);
	assert_null(host_virt(host, -1, &err));
	alarm(0);
	assert_int_equal(err->code, ERR_UNAVAILABLE);
	assert_non_null(strstr(err->text, "libvirt"));
	host_free(host);
	close_fd(&cancel_fd);
}

static bool is_there(const char *vm_id)
{
	_cleanup_free_ char *path = str_printf("%s/vm/%s", dir, vm_id);

	return access(path, F_OK) == 0;
}

static void without_libvirt_vms_are_known_by_their_qemu(void **state)
{
	static const char *const ids[] = {"vm-11111111", "vm-22222222", "vm-33333333"};
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *uri =
		str_printf("qemu+unix:///system?socket=%s/none&mode=direct", dir);
	char cids[] = "65536-65600";
	struct config config = {
		.state_dir = dir, .runtime_dir = dir, .libvirt_uri = uri, .cids = cids};
	struct host_left keep[] = {
		{.id = ids[0], .qemu = getpid(), .qemu_start = process_start_time(getpid())},
		{.id = ids[1], .qemu = getpid(), .qemu_start = 1},
	};
	struct host *host = host_new(&config, NULL);

	(void)state;
	assert_non_null(host);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		_cleanup_free_ char *path = str_printf("%s/vm/%s", dir, ids[i]);
		assert_int_equal(make_dirs(path, 0700, NULL), 0);
	}
	assert_int_equal(host_sweep(host, keep, ARRAY_SIZE(keep), &err), -1);
	assert_int_equal(err->code, ERR_UNAVAILABLE);
	assert_true(keep[0].there);
	assert_false(keep[1].there);
	/* They say that there may be a domain, until libvirt can be asked. */
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		assert_true(is_there(ids[i]));
	/* Which is being tried: the host stays as it is. */
	assert_true(host->tidying);
	host_free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_silent_libvirt_holds_up_nobody),
		cmocka_unit_test(without_libvirt_vms_are_known_by_their_qemu),
	};

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (!mkdtemp(dir))
		return 1;
	int failed = cmocka_run_group_tests_name("host", tests, NULL, NULL);
	remove_tree(dir, NULL);
	return failed;
}
