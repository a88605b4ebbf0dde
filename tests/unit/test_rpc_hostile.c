/* Peers that break the rules: too large, too many, compressed, malformed. Those that no gRPC
 * library would play write HTTP/2 frames by hand. */
#include "tests/unit/rpc_fixture.h"

#include <errno.h>
#include <poll.h>

/* HTTP/2 by hand. --------------------------------------------------------------------------------
 */

enum { FRAME_DATA = 0, FRAME_HEADERS = 1, FRAME_SETTINGS = 4 };
enum { FLAG_END_STREAM = 1, FLAG_END_HEADERS = 4 };
static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct bytes {
	uint8_t data[8192];
	size_t n;
};

static void put(struct bytes *b, const void *p, size_t n)
{
	assert_true(b->n + n <= sizeof(b->data));
	memcpy(b->data + b->n, p, n);
	b->n += n;
}

static void put_frame(struct bytes *b, int type, int flags, int stream, const struct bytes *payload)
{
	size_t n = payload ? payload->n : 0;
	uint8_t head[9] = {(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, (uint8_t)type,
		(uint8_t)flags, 0, 0, 0, (uint8_t)stream};

	put(b, head, sizeof(head));
	if (n)
		put(b, payload->data, n);
}

/* A header that enters no table. */
static void put_header(struct bytes *b, const char *name, const char *value)
{
	uint8_t len;

	put(b, "\0", 1);
	len = (uint8_t)strlen(name);
	put(b, &len, 1);
	put(b, name, len);
	len = (uint8_t)strlen(value);
	put(b, &len, 1);
	put(b, value, len);
}

static void put_message(struct bytes *b, bool compressed, const void *p, size_t n)
{
	uint8_t head[5] = {compressed, 0, 0, (uint8_t)(n >> 8), (uint8_t)n};

	put(b, head, sizeof(head));
	put(b, p, n);
}

static void put_request_headers(struct bytes *out, const char *path, const char *encoding)
{
	struct bytes h = {0};

	put(out, preface, sizeof(preface) - 1);
	put_frame(out, FRAME_SETTINGS, 0, 0, NULL);
	put_header(&h, ":method", "POST");
	put_header(&h, ":scheme", "http");
	put_header(&h, ":path", path);
	put_header(&h, ":authority", "x");
	put_header(&h, "te", "trailers");
	put_header(&h, "content-type", "application/grpc");
	if (encoding)
		put_header(&h, "grpc-encoding", encoding);
	put_frame(out, FRAME_HEADERS, FLAG_END_HEADERS, 1, &h);
}

static bool read_exactly(int fd, void *buf, size_t n)
{
	for (uint8_t *p = buf; n;) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		if (poll(&pfd, 1, PATIENCE_MS) <= 0)
			return false;
		ssize_t r = read(fd, p, n);
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

/* Read frames until one of this type came, or the connection ended. */
static bool await_frame(int fd, int type)
{
	uint8_t head[9], skip[65536];

	while (read_exactly(fd, head, sizeof(head))) {
		size_t n = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
		if (n > sizeof(skip) || !read_exactly(fd, skip, n))
			return false;
		if (head[3] == type)
			return true;
	}
	return false;
}

/* gzip of nothing in particular; whoever inflates it has lost already. */
static const uint8_t gzipped[] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0xff, 0xff};

/* A server that answers the first call with these frames. */
struct raw_server {
	int fd;
	struct bytes answer;
};

static void *raw_serve(void *arg)
{
	struct raw_server *s = arg;
	uint8_t skip[sizeof(preface) - 1];
	struct bytes settings = {0};

	put_frame(&settings, FRAME_SETTINGS, 0, 0, NULL);
	if (write_all(s->fd, settings.data, settings.n) < 0 ||
		!read_exactly(s->fd, skip, sizeof(skip)) || !await_frame(s->fd, FRAME_HEADERS))
		return NULL;
	if (write_all(s->fd, s->answer.data, s->answer.n) == 0)
		while (await_frame(s->fd, -1))
			;
	return NULL;
}

static void put_answer(struct bytes *out, const char *encoding, bool compressed, const void *p,
	size_t n, const char *status, const char *text)
{
	struct bytes head = {0}, data = {0}, trailer = {0};

	put_header(&head, ":status", "200");
	put_header(&head, "content-type", "application/grpc");
	if (encoding)
		put_header(&head, "grpc-encoding", encoding);
	put_frame(out, FRAME_HEADERS, FLAG_END_HEADERS, 1, &head);
	put_message(&data, compressed, p, n);
	put_frame(out, FRAME_DATA, 0, 1, &data);
	put_header(&trailer, "grpc-status", status);
	if (text)
		put_header(&trailer, "grpc-message", text);
	put_frame(out, FRAME_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, 1, &trailer);
}

/* Ping a server that answers so; the error it gives. */
static void expect_ping_fails(struct raw_server *s, enum err_code code, const char *part)
{
	struct error *err = NULL;
	ProtobufCMessage *reply;
	pthread_t thread;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	s->fd = pair[0];
	assert_int_equal(pthread_create(&thread, NULL, raw_serve, s), 0);
	struct rpc_peer *peer = rpc_peer_new(pair[1], "worker", &rpc_limits_guest, NULL);
	assert_int_equal(ping(peer, "x", 1, PATIENCE_MS, &reply, &err), -1);
	rpc_peer_free(peer);
	pthread_join(thread, NULL);
	close(pair[0]);
	expect_error(&err, code, part);
}

/* ------------------------------------------------------------------------------------------------
 */

static void a_compressed_reply_is_refused(void **state)
{
	struct raw_server s = {0};

	(void)state;
	put_answer(&s.answer, "gzip", true, gzipped, sizeof(gzipped), "0", NULL);
	expect_ping_fails(&s, ERR_UNSUPPORTED, "compressed");
}

static void a_reply_that_is_no_message_is_refused(void **state)
{
	struct raw_server s = {0};

	(void)state;
	put_answer(&s.answer, NULL, false, "\x0a\xff\xff\xff\xff\x0f", 6, "0", NULL);
	expect_ping_fails(&s, ERR_INVALID, "no worker.v1.PingReply");
}

static void a_status_text_cannot_drive_the_terminal(void **state)
{
	struct raw_server s = {0};

	(void)state;
	put_answer(&s.answer, NULL, false, "", 0, "7", "%1B]0;owned%07%FF%0Anext");
	expect_ping_fails(&s, ERR_DENIED, "worker: \\x1b]0;owned\\x07\\xff\nnext");
}

static void an_unknown_status_number_is_an_error(void **state)
{
	static const char *const numbers[] = {"17", "-1", "99999999999", "x"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct raw_server s = {0};
		put_answer(&s.answer, NULL, false, "", 0, numbers[i], "odd");
		expect_ping_fails(&s, ERR_UNKNOWN, "worker: ");
	}
}

static void success_without_a_reply_is_an_error(void **state)
{
	struct raw_server s = {0};
	struct bytes h = {0};

	(void)state;
	put_header(&h, ":status", "200");
	put_header(&h, "content-type", "application/grpc");
	put_header(&h, "grpc-status", "0");
	put_frame(&s.answer, FRAME_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, 1, &h);
	expect_ping_fails(&s, ERR_INTERNAL, "without a reply");
}

/* "Stored 1 file", and then "or rather not". */
static void a_single_reply_counts_only_with_its_status(void **state)
{
	struct raw_server s = {0};
	struct error *err = NULL;
	ProtobufCMessage *reply;
	pthread_t thread;
	int pair[2];

	(void)state;
	put_answer(&s.answer, NULL, false, "\x08\x01\x10\x01", 4, "13", "or rather not");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	s.fd = pair[0];
	assert_int_equal(pthread_create(&thread, NULL, raw_serve, &s), 0);
	struct rpc_peer *peer = rpc_peer_new(pair[1], "worker", &rpc_limits_guest, NULL);
	struct rpc_call *call = rpc_open(peer, &worker_put, PATIENCE_MS, NULL);
	assert_int_equal(rpc_recv(call, -1, &reply, &err), -1);
	expect_error(&err, ERR_INTERNAL, "worker: or rather not");
	rpc_close(call);
	rpc_peer_free(peer);
	pthread_join(thread, NULL);
	close(pair[0]);
}

static void a_compressed_request_is_refused(void **state)
{
	struct fixture f;
	struct bytes out = {0}, data = {0};

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	int fd = fixture_dial(&f);
	put_request_headers(&out, worker_ping.path, "gzip");
	put_message(&data, true, gzipped, sizeof(gzipped));
	put_frame(&out, FRAME_DATA, FLAG_END_STREAM, 1, &data);
	assert_int_equal(write_all(fd, out.data, out.n), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.left, 1), 1);
	assert_int_equal(f.ev.last_code, ERR_UNSUPPORTED);
	assert_non_null(strstr(f.ev.last_text, "compressed"));
	close(fd);
	fixture_stop(&f);
}

/* A peer that says END_STREAM within a message is taken at its word by gRPC: it could as well have
 * sent fewer. A connection that ends there is a loss. */
static void half_a_message_is_no_proper_end(void **state)
{
	struct fixture f;
	struct bytes out = {0}, data = {0};

	(void)state;
	fixture_start(&f, rpc_limits_control);
	int fd = fixture_dial(&f);
	put_request_headers(&out, worker_put.path, NULL);
	put_message(&data, false, "", 0);
	put(&data, "\0\0\0\0\x09half", 9);
	put_frame(&out, FRAME_DATA, 0, 1, &data);
	assert_int_equal(write_all(fd, out.data, out.n), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 1), 1);
	shutdown(fd, SHUT_WR);
	assert_int_equal(events_wait(&f.ev, &f.ev.left, 1), 1);
	close(fd);
	assert_int_equal(f.ev.broken, 1);
	assert_int_equal(f.ev.complete, 0);
	fixture_stop(&f);
}

static void noise_ends_the_connection(void **state)
{
	struct fixture f;
	uint8_t noise[4096];

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	for (int i = 0; i < 50; i++) {
		struct bytes out = {0};
		int fd = fixture_dial(&f);
		random_bytes(noise, sizeof(noise));
		/* Half of it behind a proper beginning. */
		if (i % 2)
			put_request_headers(&out, worker_ping.path, NULL);
		put(&out, noise, sizeof(noise));
		/* The other side may hang up while we write. */
		if (send(fd, out.data, out.n, MSG_NOSIGNAL) < 0)
			assert_int_equal(errno, EPIPE);
		shutdown(fd, SHUT_WR);
		while (read_exactly(fd, noise, 1))
			;
		close(fd);
	}
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 50), 50);
	fixture_stop(&f);
}

static void noise_from_a_server_fails_the_call(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct error *err = NULL;
		ProtobufCMessage *reply;
		uint8_t noise[4096];
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		random_bytes(noise, sizeof(noise));
		assert_int_equal(write_all(pair[0], noise, sizeof(noise)), 0);
		shutdown(pair[0], SHUT_WR);
		struct rpc_peer *peer = rpc_peer_new(pair[1], "worker", &rpc_limits_guest, NULL);
		assert_int_equal(ping(peer, "x", 1, PATIENCE_MS, &reply, &err), -1);
		expect_error(&err, ERR_UNAVAILABLE, "worker: lost the connection");
		rpc_peer_free(peer);
		close(pair[0]);
	}
}

/* Methods whose messages are lists of strings, both ways. */
static const struct rpc_method strings = {
	.path = "/test/Strings",
	.request = &worker__v1__get_request__descriptor,
	.reply = &worker__v1__get_request__descriptor,
};

/* A message of n empty strings: two bytes each on the wire. */
static int send_bomb(struct rpc_call *call, size_t n, struct error **err)
{
	Worker__V1__GetRequest q = WORKER__V1__GET_REQUEST__INIT;
	_cleanup_free_ char **paths = xcalloc(n, sizeof(*paths));
	static char empty[1];

	for (size_t i = 0; i < n; i++)
		paths[i] = empty;
	q.paths = paths;
	q.n_paths = n;
	return rpc_send(call, &q.base, err);
}

static int handle_strings(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	ProtobufCMessage *message;
	int r = rpc_recv(call, PATIENCE_MS, &message, err);

	if (r < 0)
		note_failure(&f->ev, *err);
	if (r == 1) {
		Worker__V1__GetRequest *q = (Worker__V1__GetRequest *)(void *)message;
		r = send_bomb(call, q->max_files, err);
		rpc_message_free(message);
	}
	return r < 0 ? -1 : 0;
}

static void what_unpacks_to_too_much_is_refused_by_both_ends(void **state)
{
	static const struct rpc_service services[] = {{&strings, handle_strings}};
	Worker__V1__GetRequest q = WORKER__V1__GET_REQUEST__INIT;
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *reply;

	(void)state;
	fixture_start_with(&f, services, ARRAY_SIZE(services), rpc_limits_guest);
	struct rpc_peer *peer = fixture_connect(&f);

	struct rpc_call *call = rpc_open(peer, &strings, PATIENCE_MS, NULL);
	assert_int_equal(send_bomb(call, 500000, NULL), 0);
	assert_int_equal(rpc_recv(call, -1, &reply, &err), -1);
	expect_error(&err, ERR_LIMIT, "unpacks to more than");
	rpc_close(call);
	assert_int_equal(f.ev.last_code, ERR_LIMIT);

	q.has_max_files = 1;
	q.max_files = 500000;
	assert_int_equal(rpc_unary(peer, &strings, &q.base, PATIENCE_MS, &reply, &err), -1);
	expect_error(&err, ERR_LIMIT, "worker: sent: a worker.v1.GetRequest that unpacks");
	/* An honest list passes. */
	q.max_files = 10000;
	assert_int_equal(rpc_unary(peer, &strings, &q.base, PATIENCE_MS, &reply, &err), 0);
	assert_int_equal(((Worker__V1__GetRequest *)(void *)reply)->n_paths, 10000);
	rpc_message_free(reply);
	fixture_stop(&f);
}

static void too_large_messages_are_refused_at_every_end(void **state)
{
	struct rpc_limits small = rpc_limits_guest, large = rpc_limits_guest;
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *message;
	_cleanup_free_ char *payload = xcalloc(1, 200000);

	(void)state;
	small.message = 100000;
	fixture_start(&f, small);
	struct rpc_peer *wide = rpc_peer_new(fixture_dial(&f), "worker", &large, NULL);
	struct rpc_peer *narrow = fixture_connect(&f);

	/* Our own is not even sent, */
	assert_int_equal(ping(narrow, payload, 200000, PATIENCE_MS, &message, &err), -1);
	expect_error(&err, ERR_LIMIT, "worker: a message of 2000");
	/* another's is not taken by the server, unary or in a stream, */
	assert_int_equal(ping(wide, payload, 200000, PATIENCE_MS, &message, &err), -1);
	expect_error(&err, ERR_LIMIT, "larger than max");
	struct rpc_call *call = rpc_open(wide, &worker_put, PATIENCE_MS, NULL);
	assert_int_equal(send_chunk(call, NULL, 1000, NULL), 0);
	assert_int_equal(send_chunk(call, NULL, 200000, NULL), 0);
	assert_int_equal(rpc_close_send(call, NULL), 0);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	expect_error(&err, ERR_LIMIT, "larger than max");
	rpc_close(call);
	assert_int_equal(events_wait(&f.ev, &f.ev.broken, 1), 1);
	/* the connection lives on. */
	int64_t sum;
	assert_int_equal(add(wide, 1, 2, &sum, NULL), 0);
	rpc_peer_free(wide);
	fixture_stop(&f);
	assert_int_equal(f.ev.complete, 0);

	/* And the client does not take the server's. */
	fixture_start(&f, large);
	narrow = rpc_peer_new(fixture_dial(&f), "worker", &small, NULL);
	call = open_get(narrow, 2, 200000);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	expect_error(&err, ERR_LIMIT, "worker: ");
	rpc_close(call);
	/* The server cannot send more than it may either. */
	call = open_get(narrow, 2, 2000000);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	expect_error(&err, ERR_LIMIT, "at most 1048576 may be sent");
	rpc_close(call);
	rpc_peer_free(narrow);
	fixture_stop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_compressed_reply_is_refused),
		cmocka_unit_test(a_reply_that_is_no_message_is_refused),
		cmocka_unit_test(a_status_text_cannot_drive_the_terminal),
		cmocka_unit_test(an_unknown_status_number_is_an_error),
		cmocka_unit_test(success_without_a_reply_is_an_error),
		cmocka_unit_test(a_single_reply_counts_only_with_its_status),
		cmocka_unit_test(a_compressed_request_is_refused),
		cmocka_unit_test(half_a_message_is_no_proper_end),
		cmocka_unit_test(noise_ends_the_connection),
		cmocka_unit_test(noise_from_a_server_fails_the_call),
		cmocka_unit_test(what_unpacks_to_too_much_is_refused_by_both_ends),
		cmocka_unit_test(too_large_messages_are_refused_at_every_end),
	};

	return cmocka_run_group_tests(tests, fixture_init, fixture_quit);
}
