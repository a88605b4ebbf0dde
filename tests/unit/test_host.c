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

#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/host_private.h"

static char dir[] = "/tmp/test_host.XXXXXX";

static void *cancel_soon(void *arg)
{
	sleep_ms(300);
	eventfd_write(*(const int *)arg, 1);
	return NULL;
}

static void a_silent_libvirt_holds_up_nobody(void **state)
{
	_cleanup_error_ struct error *err = NULL;
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

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_silent_libvirt_holds_up_nobody)};

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (!mkdtemp(dir))
		return 1;
	int failed = cmocka_run_group_tests_name("host", tests, NULL, NULL);
	remove_tree(dir, NULL);
	return failed;
}
