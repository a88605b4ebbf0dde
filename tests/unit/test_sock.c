#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/sock.h"
#include "common/util.h"

#define PATIENCE_MS 10000

static char dir[] = "/tmp/test_sock.XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir, NULL);
}

static struct endpoint unix_endpoint(const char *name)
{
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	snprintf(ep.path, sizeof(ep.path), "%s/%s", dir, name);
	return ep;
}

static void expect_error(struct error **err, enum err_code code, const char *part)
{
	assert_non_null(*err);
	assert_int_equal((*err)->code, code);
	if (!strstr((*err)->text, part))
		fail_msg("\"%s\" does not say \"%s\"", (*err)->text, part);
	error_free(*err);
	*err = NULL;
}

static void endpoints_have_names(void **state)
{
	static const struct {
		struct endpoint ep;
		const char *name;
	} table[] = {
		{{.kind = ENDPOINT_UNIX, .path = "/with:colon"}, "unix:/with:colon"},
		{{.kind = ENDPOINT_VSOCK, .cid = 3, .port = 9999}, "vsock:3:9999"},
		{{.kind = ENDPOINT_VSOCK, .cid = UINT32_MAX, .port = 1}, "vsock:any:1"},
		{{.kind = ENDPOINT_HYBRID, .path = "/run/vm.sock", .port = 7},
			"hybrid:/run/vm.sock:7"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_free_ char *name = endpoint_format(&table[i].ep);

		assert_string_equal(name, table[i].name);
	}
}

static void unix_sockets_connect_with_mode_and_peer(void **state)
{
	struct endpoint ep = unix_endpoint("plain");
	struct stat st;
	uid_t uid;
	pid_t pid;

	(void)state;
	mode_t before = umask(0077);
	_cleanup_close_ int listener = sock_listen(&ep, 4, 0660, NULL);
	umask(before);
	assert_true(listener >= 0);
	assert_int_equal(stat(ep.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);

	_cleanup_close_ int client = sock_connect(&ep, PATIENCE_MS, NULL);
	assert_true(client >= 0);
	_cleanup_close_ int served = sock_accept(listener, PATIENCE_MS, NULL);
	assert_true(served >= 0);
	assert_int_equal(sock_peer_uid(served, &uid, &pid, NULL), 0);
	assert_int_equal(uid, getuid());
	assert_int_equal(pid, getpid());
	for (int i = 0; i < 3; i++) {
		int fd = i == 0 ? listener : i == 1 ? client : served;
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	}
	assert_false(fcntl(client, F_GETFL) & O_NONBLOCK);
	assert_false(fcntl(served, F_GETFL) & O_NONBLOCK);
}

static void a_stale_socket_is_replaced_a_live_one_and_a_file_are_not(void **state)
{
	struct endpoint ep = unix_endpoint("stale"), file = unix_endpoint("file");
	struct error *err = NULL;

	(void)state;
	int first = sock_listen(&ep, 1, 0600, NULL);
	assert_true(first >= 0);
	assert_int_equal(sock_listen(&ep, 1, 0600, &err), -1);
	expect_error(&err, ERR_EXISTS, "another process listens");
	/* Also when its backlog is full; the check above was one connection, this is another. */
	_cleanup_close_ int other = sock_connect(&ep, PATIENCE_MS, NULL);
	assert_true(other >= 0);
	assert_int_equal(sock_listen(&ep, 1, 0600, &err), -1);
	expect_error(&err, ERR_EXISTS, "another process listens");
	close(first);
	_cleanup_close_ int second = sock_listen(&ep, 1, 0600, &err);
	assert_true(second >= 0);

	assert_int_equal(write_file(file.path, "x", 1, 0600, false, NULL), 0);
	assert_int_equal(sock_listen(&file, 1, 0600, &err), -1);
	expect_error(&err, ERR_EXISTS, "is no socket");
	assert_int_equal(access(file.path, F_OK), 0);
}

static void *listen_once(void *arg)
{
	return (void *)(intptr_t)sock_listen(arg, 1, 0600, NULL);
}

static void of_two_that_replace_a_stale_socket_one_wins(void **state)
{
	struct endpoint ep = unix_endpoint("raced");

	(void)state;
	for (int round = 0; round < 50; round++) {
		pthread_t threads[4];
		int winners = 0;
		int stale = sock_listen(&ep, 1, 0600, NULL);
		assert_true(stale >= 0);
		close(stale);
		for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
			assert_int_equal(pthread_create(&threads[i], NULL, listen_once, &ep), 0);
		int fds[ARRAY_SIZE(threads)];
		for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
			void *r;
			pthread_join(threads[i], &r);
			fds[i] = (int)(intptr_t)r;
			winners += fds[i] >= 0;
		}
		for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
			close_fd(&fds[i]);
		assert_int_equal(winners, 1);
	}
}

static void dialling_nobody_fails_at_once_and_a_full_backlog_in_time(void **state)
{
	struct endpoint ep = unix_endpoint("full"), none = unix_endpoint("none");
	struct error *err = NULL;
	int held[8], n = 0;

	(void)state;
	assert_int_equal(sock_connect(&none, PATIENCE_MS, &err), -1);
	expect_error(&err, ERR_NOT_FOUND, "none");

	_cleanup_close_ int listener = sock_listen(&ep, 1, 0600, NULL);
	uint64_t begin = 0;
	for (; n < 8; n++) {
		begin = now_mono_usec();
		held[n] = sock_connect(&ep, 200, &err);
		if (held[n] < 0)
			break;
	}
	assert_true(n < 8);
	expect_error(&err, ERR_TIMEOUT, "no answer in time");
	assert_in_range(now_mono_usec() - begin, 190000, 5000000);
	assert_true(sock_accept(listener, 0, NULL) >= 0);
	while (n-- > 0)
		close(held[n]);
}

static void accepting_ends_at_its_deadline(void **state)
{
	struct endpoint ep = unix_endpoint("quiet");
	struct error *err = NULL;
	_cleanup_close_ int listener = sock_listen(&ep, 1, 0600, NULL);

	(void)state;
	assert_int_equal(sock_accept(listener, 50, &err), -1);
	expect_error(&err, ERR_TIMEOUT, "nobody connected");
}

/* Plays the userspace device: checks the request and answers with fixed bytes. */
struct device {
	int listener;
	const char *answer; /* NULL: hangs up */
	bool stays_silent;
	char request[64];
	int conn;
};

static void *play_device(void *arg)
{
	struct device *d = arg;
	size_t n = 0;

	d->conn = sock_accept(d->listener, PATIENCE_MS, NULL);
	while (n < sizeof(d->request) - 1 && read(d->conn, d->request + n, 1) == 1)
		if (d->request[n++] == '\n')
			break;
	if (d->answer && write_all(d->conn, d->answer, strlen(d->answer)) < 0)
		return NULL;
	if (!d->answer && !d->stays_silent)
		close_fd(&d->conn);
	return NULL;
}

static int dial_device(struct device *d, int deadline_ms, struct error **err)
{
	struct endpoint ep = unix_endpoint("device");
	pthread_t thread;

	d->conn = -1;
	d->listener = sock_listen(&ep, 1, 0600, NULL);
	assert_true(d->listener >= 0);
	assert_int_equal(pthread_create(&thread, NULL, play_device, d), 0);
	ep.kind = ENDPOINT_HYBRID;
	ep.port = 9999;
	int fd = sock_connect(&ep, deadline_ms, err);
	pthread_join(thread, NULL);
	close_fd(&d->listener);
	return fd;
}

static void hybrid_dialling_leaves_the_guests_bytes(void **state)
{
	struct device d = {.answer = "OK 1073741824\nhello"};
	struct error *err = NULL;
	char buf[16];

	(void)state;
	_cleanup_close_ int fd = dial_device(&d, PATIENCE_MS, &err);
	assert_true(fd >= 0);
	assert_string_equal(d.request, "CONNECT 9999\n");
	assert_int_equal(read(fd, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	close(d.conn);
}

static void hybrid_dialling_reports_what_the_device_did(void **state)
{
	static const struct {
		const char *answer;
		bool silent;
		int deadline_ms;
		enum err_code code;
		const char *text;
	} cases[] = {
		{NULL, false, PATIENCE_MS, ERR_UNAVAILABLE, "nobody listens"},
		{NULL, true, 100, ERR_TIMEOUT, "no answer in time"},
		{"OK", true, 100, ERR_TIMEOUT, "no answer in time"},
		{"OK x\n", false, PATIENCE_MS, ERR_INTERNAL, "said \"OK x\""},
		{"\x1b[31m\n", false, PATIENCE_MS, ERR_INTERNAL, "said \"\\x1b[31m\""},
		{"OK 111111111111111111111111111111111111111\n", false, PATIENCE_MS, ERR_INTERNAL,
			"too long"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct device d = {.answer = cases[i].answer, .stays_silent = cases[i].silent};
		struct error *err = NULL;
		assert_int_equal(dial_device(&d, cases[i].deadline_ms, &err), -1);
		expect_error(&err, cases[i].code, cases[i].text);
		close_fd(&d.conn);
	}
}

static void hybrid_listening_is_the_socket_the_guest_is_led_to(void **state)
{
	struct endpoint ep = unix_endpoint("vm"), dialled = unix_endpoint("vm_9998");

	(void)state;
	ep.kind = ENDPOINT_HYBRID;
	ep.port = 9998;
	_cleanup_close_ int listener = sock_listen(&ep, 1, 0600, NULL);
	assert_true(listener >= 0);
	_cleanup_close_ int fd = sock_connect(&dialled, PATIENCE_MS, NULL);
	assert_true(fd >= 0);
}

static void vsock_needs_a_cid_and_unix_sockets_have_none(void **state)
{
	struct endpoint ep = {.kind = ENDPOINT_VSOCK, .cid = UINT32_MAX, .port = 1};
	struct error *err = NULL;
	uint32_t cid;
	int pair[2];

	(void)state;
	assert_int_equal(sock_connect(&ep, 100, &err), -1);
	expect_error(&err, ERR_INVALID, "needs a CID");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(sock_peer_cid(pair[0], &cid, NULL, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "not a vsock");
	close(pair[0]);
	close(pair[1]);
}

static void dialling_can_be_cancelled(void **state)
{
	/* A device that says nothing: the backlog takes the connection. */
	struct endpoint ep = unix_endpoint("silent");
	_cleanup_close_ int listener = sock_listen(&ep, 1, 0600, NULL);
	_cleanup_close_ int cancel = eventfd(0, EFD_CLOEXEC);
	struct error *err = NULL;
	uint64_t began = now_mono_usec();

	(void)state;
	assert_true(listener >= 0);
	ep.kind = ENDPOINT_HYBRID;
	ep.port = 9999;
	assert_int_equal(sock_connect_until(&ep, 50, cancel, &err), -1);
	expect_error(&err, ERR_TIMEOUT, "no answer in time");
	eventfd_write(cancel, 1);
	assert_int_equal(sock_connect_until(&ep, PATIENCE_MS, cancel, &err), -1);
	expect_error(&err, ERR_CANCELLED, "");
	assert_true(now_mono_usec() - began < PATIENCE_MS * UINT64_C(1000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(endpoints_have_names),
		cmocka_unit_test(unix_sockets_connect_with_mode_and_peer),
		cmocka_unit_test(a_stale_socket_is_replaced_a_live_one_and_a_file_are_not),
		cmocka_unit_test(of_two_that_replace_a_stale_socket_one_wins),
		cmocka_unit_test(dialling_nobody_fails_at_once_and_a_full_backlog_in_time),
		cmocka_unit_test(accepting_ends_at_its_deadline),
		cmocka_unit_test(hybrid_dialling_leaves_the_guests_bytes),
		cmocka_unit_test(hybrid_dialling_reports_what_the_device_did),
		cmocka_unit_test(hybrid_listening_is_the_socket_the_guest_is_led_to),
		cmocka_unit_test(vsock_needs_a_cid_and_unix_sockets_have_none),
		cmocka_unit_test(dialling_can_be_cancelled),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
