/* Many file records in a message: what the other side gets is what was gathered, in order and
 * whole, in messages that are neither many nor too large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_batch.h"
#include "common/files.h"
#include "common/limits.h"
#include "tests/unit/rpc_fixture.h"

/* What the handler of Put was sent; read when its reply is here. */
static struct {
	unsigned messages, records, heads, tails, missing;
	size_t most; /* records in a message */
	char user[16];
	uint8_t *content; /* owned: of all chunks */
	size_t size;
} got;

static void note(const Job__V1__FileRecord *record)
{
	got.records++;
	switch (record->part_case) {
	case JOB__V1__FILE_RECORD__PART_HEAD:
		got.heads++;
		break;
	case JOB__V1__FILE_RECORD__PART_CHUNK:
		got.content = xreallocarray(got.content, got.size + record->chunk.len, 1);
		memcpy(got.content + got.size, record->chunk.data, record->chunk.len);
		got.size += record->chunk.len;
		break;
	case JOB__V1__FILE_RECORD__PART_TAIL:
		got.tails++;
		break;
	default:
		got.missing++;
	}
}

static int note_put(struct rpc_call *call, void *arg, struct error **err)
{
	Worker__V1__PutReply reply = WORKER__V1__PUT_REPLY__INIT;
	ProtobufCMessage *message;
	int r;

	(void)arg;
	while ((r = rpc_recv(call, PATIENCE_MS, &message, err)) == 1) {
		const Worker__V1__PutRequest *q = (const Worker__V1__PutRequest *)message;
		if (q->user)
			snprintf(got.user, sizeof(got.user), "%u %s", got.messages, q->user);
		got.messages++;
		got.most = MAX(got.most, q->n_records);
		for (size_t i = 0; i < q->n_records; i++)
			note(q->records[i]);
		rpc_message_free(message);
	}
	return r < 0 ? -1 : rpc_send(call, &reply.base, err);
}

struct stream {
	struct fixture f;
	struct rpc_call *call;
	struct file_batch *batch;
	struct error *err;
};

static int setup(void **state)
{
	static const struct rpc_service services[] = {{&worker_put, note_put}};
	static char user[] = "job";
	Worker__V1__PutRequest first = WORKER__V1__PUT_REQUEST__INIT;
	struct stream *s = xcalloc(1, sizeof(*s));

	memset(&got, 0, sizeof(got));
	fixture_start_with(&s->f, services, 1, rpc_limits_guest);
	s->call = rpc_open(fixture_connect(&s->f), &worker_put, PATIENCE_MS, NULL);
	first.user = user;
	s->batch = file_batch_new(s->call, PATIENCE_MS, &first.base, &s->err);
	assert_non_null(s->batch);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct stream *s = *state;

	file_batch_free(s->batch);
	rpc_close(s->call);
	fixture_stop(&s->f);
	error_free(s->err);
	free(got.content);
	free(s);
	return 0;
}

/* All that was gathered is here. */
static void finish(struct stream *s)
{
	ProtobufCMessage *reply = NULL;

	assert_int_equal(file_batch_flush(s->batch, &s->err), 0);
	assert_int_equal(rpc_close_send(s->call, &s->err), 0);
	if (rpc_recv(s->call, PATIENCE_MS, &reply, &s->err) != 1)
		fail_msg("%s", s->err ? s->err->text : "no reply");
	rpc_message_free(reply);
}

static void emit_missing(struct stream *s, size_t reason_size)
{
	Job__V1__FileMissing missing = JOB__V1__FILE_MISSING__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	_cleanup_free_ char *reason = xcalloc(1, reason_size + 1);
	char path[] = "p";

	memset(reason, 'x', reason_size);
	missing.path = path;
	missing.reason = reason;
	record.part_case = JOB__V1__FILE_RECORD__PART_MISSING;
	record.missing = &missing;
	if (file_batch_emit(s->batch, &record, &s->err) < 0)
		fail_msg("%s", s->err->text);
}

/* The sizes are those where the length of a length changes, and where a message is full. */
static void content_comes_whole_whatever_its_size(void **state)
{
	static const size_t sizes[] = {0, 1, 2, 121, 122, 123, 124, 125, 126, 127, 128, 129, 1000,
		16376, 16377, 16378, 16379, 16380, 16381, 16382, 16383, 16384, 16385, 100000,
		LIMIT_CHUNK - 1, LIMIT_CHUNK, LIMIT_CHUNK + 1, 3 * LIMIT_CHUNK + 5};
	char dir[] = "/tmp/test_file_batch.XXXXXX";
	struct stream *s = *state;
	const struct tree_sink sink = {.emit = file_batch_emit,
		.room = file_batch_room,
		.chunk = file_batch_chunk,
		.arg = s->batch};
	struct tree_totals totals = {0};
	size_t total = 0, at = 0;

	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		total += sizes[i];
	_cleanup_free_ uint8_t *data = xmalloc(total);
	random_bytes(data, total);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); at += sizes[i++]) {
		_cleanup_free_ char *path = str_printf("%s/%02zu", dir, i);
		assert_int_equal(
			write_file(path, (const char *)data + at, sizes[i], 0644, false, NULL), 0);
	}
	int r = tree_send_to(AT_FDCWD, dir, "t", &tree_limits_default, &sink, &totals, &s->err);
	remove_tree(dir, NULL);
	if (r < 0)
		fail_msg("%s", s->err->text);
	finish(s);
	assert_int_equal(got.heads, ARRAY_SIZE(sizes) + 1);
	assert_int_equal(got.tails, ARRAY_SIZE(sizes));
	assert_int_equal(got.size, total);
	assert_memory_equal(got.content, data, total);
	assert_string_equal(got.user, "0 job"); /* in the first message alone */
}

static void many_small_records_are_few_messages(void **state)
{
	struct stream *s = *state;

	for (int i = 0; i < 3000; i++)
		emit_missing(s, 10);
	finish(s);
	assert_int_equal(got.missing, 3000);
	assert_int_equal(got.messages, 3);
	assert_true(got.most <= 1024);
}

static void full_messages_leave_at_once(void **state)
{
	struct stream *s = *state;

	for (int i = 0; i < 10; i++)
		emit_missing(s, 200000);
	finish(s);
	assert_int_equal(got.missing, 10);
	assert_int_equal(got.messages, 10);
}

static void a_record_that_fits_no_message_is_refused(void **state)
{
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	_cleanup_free_ uint8_t *data = xcalloc(1, MIB);
	struct stream *s = *state;

	record.part_case = JOB__V1__FILE_RECORD__PART_CHUNK;
	record.chunk = (ProtobufCBinaryData){MIB, data};
	assert_int_equal(file_batch_emit(s->batch, &record, &s->err), -1);
	assert_int_equal(s->err->code, ERR_LIMIT);
	error_free(steal_ptr(s->err));
	assert_null(file_batch_room(s->batch, MIB, &s->err));
	assert_int_equal(s->err->code, ERR_LIMIT);
	error_free(steal_ptr(s->err));
	finish(s);
	assert_int_equal(got.records, 0);
}

/* The file became shorter: another record comes in the place of the one that was asked room for. */
static void room_that_was_not_used_leaves_nothing(void **state)
{
	struct stream *s = *state;
	uint8_t *room = file_batch_room(s->batch, 5000, &s->err);

	assert_non_null(room);
	memset(room, 0xff, 5000);
	emit_missing(s, 3);
	finish(s);
	assert_int_equal(got.records, 1);
	assert_int_equal(got.missing, 1);
}

static void nothing_gathered_is_nothing_sent(void **state)
{
	struct stream *s = *state;

	finish(s);
	assert_int_equal(file_batch_flush(s->batch, &s->err), 0);
	assert_int_equal(got.messages, 1); /* with the user */
	assert_int_equal(got.records, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		TEST(content_comes_whole_whatever_its_size),
		TEST(many_small_records_are_few_messages),
		TEST(full_messages_leave_at_once),
		TEST(a_record_that_fits_no_message_is_refused),
		TEST(room_that_was_not_used_leaves_nothing),
		TEST(nothing_gathered_is_nothing_sent),
	};

	rpc_init();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	rpc_quit();
	return failed;
}
