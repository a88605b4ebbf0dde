#include "tests/unit/file_tree_fixture.h"

static void send_src(struct fixture *f, const char *path, struct tree_totals *totals)
{
	assert_int_equal(
		tree_send(f->src, path, "t", &tree_limits_default, take, f, totals, &f->err), 0);
}

/* --- there and back ----------------------------------------------------------------------------*/

static void a_tree_goes_there_and_back(void **state)
{
	struct fixture *f = *state;
	struct tree_totals sent = {0}, got;
	size_t big_size = LIMIT_CHUNK * 2 + 4567;
	_cleanup_free_ uint8_t *big = xmalloc(big_size);

	randombytes_buf(big, big_size);
	assert_int_equal(mkdirat(f->src, "d", 0750), 0);
	assert_int_equal(mkdirat(f->src, "d/empty", 0700), 0);
	make_file(f->src, "d/none", "", 0, 0644);
	make_file(f->src, "d/exact", big, LIMIT_CHUNK, 0644);
	make_file(f->src, "d/tool", "#!/bin/sh\n", 10, 0755);
	make_file(f->src, "d/secret", "s", 1, 0400);
	make_file(f->src, "d/gr\xc3\xbc\xc3\x9f e", "x", 1, 0666);
	make_file(f->src, "d/big", big, big_size, 0640);
	f->options.durable = true;
	writer_start(f);
	send_src(f, "d", &sent);
	assert_int_equal(tree_writer_finish(f->writer, &got, &f->err), 0);

	assert_int_equal(sent.files, 6);
	assert_int_equal(got.files, 6);
	assert_int_equal(got.bytes, big_size + LIMIT_CHUNK + 12);
	assert_int_equal(sent.bytes, got.bytes);
	assert_int_equal(got.missing, 0);
	/* Sorted by name, and each entry told once. */
	_cleanup_free_ char *expected =
		str_printf("t/\nt/big %zu\nt/empty/\nt/exact %zu\nt/gr\xc3\xbc\xc3\x9f e 1\n"
			   "t/none 0\nt/secret 1\nt/tool 10\n",
			big_size, (size_t)LIMIT_CHUNK);
	assert_string_equal(f->entries, expected);

	assert_file(f->dst, "t/none", "", 0644);
	assert_file(f->dst, "t/tool", "#!/bin/sh\n", 0755);
	assert_file(f->dst, "t/secret", "s", 0600);		  /* owner's rw is added */
	assert_file(f->dst, "t/gr\xc3\xbc\xc3\x9f e", "x", 0644); /* 0666 through the mask */
	struct stat st;
	assert_int_equal(fstatat(f->dst, "t", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	assert_true(exists(f->dst, "t/empty"));
	_cleanup_free_ char *path = str_printf("%s/dst/t/big", f->dir);
	size_t size;
	_cleanup_free_ char *back = read_file(path, MIB, &size, NULL);
	assert_int_equal(size, big_size);
	assert_memory_equal(back, big, big_size);
}

static void a_single_file_may_be_reached_by_a_link(void **state)
{
	struct fixture *f = *state;
	struct tree_totals sent = {0};

	make_file(f->src, "real", "text", 4, 0644);
	assert_int_equal(symlinkat("real", f->src, "link"), 0);
	send_src(f, "link", &sent);
	assert_file(f->dst, "t", "text", 0644);
	assert_int_equal(sent.files, 1);
}

static void what_cannot_be_sent_is_missing_with_its_reason(void **state)
{
	struct fixture *f = *state;
	struct tree_totals sent = {0}, got;

	assert_int_equal(mkdirat(f->src, "d", 0755), 0);
	make_file(f->src, "d/closed", "s", 1, 0000);
	make_file(f->src, "d/good", "g", 1, 0644);
	make_file(f->src, "d/new\nline", "n", 1, 0644);
	assert_int_equal(mkdirat(f->src, "d/shut", 0000), 0);
	assert_int_equal(symlinkat("/etc/passwd", f->src, "d/link"), 0);
	assert_int_equal(mkfifoat(f->src, "d/fifo", 0644), 0);
	if (geteuid() == 0) {
		assert_int_equal(mknodat(f->src, "d/dev", S_IFCHR | 0644, 0x103), 0);
		assert_int_equal(fchown(f->dst, 65534, 65534), 0);
		assert_int_equal(seteuid(65534), 0);
	}
	send_src(f, "d", &sent);
	assert_int_equal(
		tree_send(f->src, "gone", "g", &tree_limits_default, take, f, &sent, &f->err), 0);
	assert_int_equal(tree_writer_finish(f->writer, &got, &f->err), 0);
	bool root = getuid() == 0;
	if (root)
		assert_int_equal(seteuid(0), 0);
	_cleanup_free_ char *expected = str_printf(
		"t/closed: Permission denied\n%st/fifo: is a FIFO\nt/link: is a symbolic link\n"
		"t/new\\x0aline: its name has control characters or is not UTF-8\n"
		"t/shut: Permission denied\ng: No such file or directory\n",
		root ? "t/dev: is a device\n" : "");
	assert_string_equal(f->missing, expected);
	assert_string_equal(f->entries, "t/\nt/good 1\n");
	assert_int_equal(sent.missing, root ? 7 : 6);
	assert_int_equal(got.missing, sent.missing);
	assert_int_equal(got.files, 1);
}

static void shorten_after_first_chunk(struct fixture *f, const Job__V1__FileRecord *record)
{
	_cleanup_close_ int fd = openat(f->src, "d/a", O_WRONLY | O_CLOEXEC);

	if (record->part_case == JOB__V1__FILE_RECORD__PART_CHUNK)
		assert_int_equal(ftruncate(fd, 10), 0);
}

static void grow_after_head(struct fixture *f, const Job__V1__FileRecord *record)
{
	_cleanup_close_ int fd = openat(f->src, "d/a", O_WRONLY | O_APPEND | O_CLOEXEC);

	(void)record;
	assert_int_equal(write_all(fd, "more", 4), 0);
}

static void files_that_change_while_read(void **state)
{
	struct fixture *f = *state;
	size_t size = LIMIT_CHUNK * 2;
	_cleanup_free_ uint8_t *data = xcalloc(1, size);
	struct tree_totals sent = {0}, got;

	assert_int_equal(mkdirat(f->src, "d", 0755), 0);
	make_file(f->src, "d/a", data, size, 0644);
	make_file(f->src, "d/b", "b", 1, 0644);
	/* Shorter: the file is taken back, the rest goes on. */
	f->on_emit = shorten_after_first_chunk;
	send_src(f, "d", &sent);
	assert_int_equal(tree_writer_finish(f->writer, &got, &f->err), 0);
	assert_string_equal(f->missing, "t/a: became shorter while it was read\n");
	assert_false(exists(f->dst, "t/a"));
	assert_file(f->dst, "t/b", "b", 0644);
	assert_int_equal(got.files, 1);
	assert_int_equal(sent.files, 1);

	/* Longer: what was there when it was opened. */
	f->on_emit = grow_after_head;
	memset(&sent, 0, sizeof(sent));
	assert_int_equal(
		tree_send(f->src, "d/a", "u", &tree_limits_default, take, f, &sent, &f->err), 0);
	struct stat st;
	assert_int_equal(fstatat(f->dst, "u", &st, 0), 0);
	assert_int_equal(st.st_size, 10);
	assert_int_equal(sent.bytes, 10);
}

static void the_sender_keeps_limits(void **state)
{
	struct fixture *f = *state;
	struct tree_limits limits = {.files = 4, .depth = 3, .bytes = 10};
	struct tree_totals totals = {0};

	assert_int_equal(mkdirat(f->src, "d", 0755), 0);
	assert_int_equal(mkdirat(f->src, "d/e", 0755), 0);
	make_file(f->src, "d/e/f", "12345", 5, 0644);
	make_file(f->src, "d/g", "12345", 5, 0644);
	assert_int_equal(tree_send(f->src, "d", "t", &limits, take, f, &totals, &f->err), 0);
	assert_int_equal(totals.bytes, 10);

	/* The bytes are over all trees of these totals. */
	make_file(f->src, "x", "1", 1, 0644);
	assert_int_equal(tree_send(f->src, "x", "x", &limits, take, f, &totals, &f->err), -1);
	assert_int_equal(f->err->code, ERR_LIMIT);
	assert_string_equal(f->err->text, "x: more than 10 bytes in all");

	memset(&totals, 0, sizeof(totals));
	make_file(f->src, "d/h", "", 0, 0644);
	writer_start(f);
	assert_int_equal(tree_send(f->src, "d", "a", &limits, take, f, &totals, &f->err), -1);
	assert_string_equal(f->err->text, "more than 4 files");

	limits = (struct tree_limits){.files = 100, .depth = 2, .bytes = 100};
	memset(&totals, 0, sizeof(totals));
	writer_start(f);
	assert_int_equal(tree_send(f->src, "d", "b", &limits, take, f, &totals, &f->err), -1);
	assert_string_equal(f->err->text, "b/e/f: deeper than 2 directories");
}

static void no_digest(struct fixture *f, const Job__V1__FileRecord *record)
{
	(void)f;
	if (record->part_case == JOB__V1__FILE_RECORD__PART_TAIL)
		assert_false(record->tail->has_sha256);
}

static void keep_digest(void *arg, const struct tree_entry *entry)
{
	memcpy(arg, entry->sha256, sizeof(entry->sha256));
}

static void a_sender_without_digests_is_given_ours(void **state)
{
	struct fixture *f = *state;
	struct tree_limits limits = tree_limits_default;
	struct tree_totals sent = {0};
	uint8_t digest[crypto_hash_sha256_BYTES], expected[crypto_hash_sha256_BYTES];

	make_file(f->src, "a", "text", 4, 0644);
	crypto_hash_sha256(expected, (const uint8_t *)"text", 4);
	limits.no_digests = true;
	f->on_emit = no_digest;
	struct tree_writer_options options = f->options;
	options.on_entry = keep_digest;
	options.arg = digest;
	tree_writer_free(f->writer);
	f->writer = tree_writer_new(f->dst, &options);
	assert_int_equal(tree_send(f->src, "a", "t", &limits, take, f, &sent, &f->err), 0);
	assert_file(f->dst, "t", "text", 0644);
	assert_memory_equal(digest, expected, sizeof(digest));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_tree_goes_there_and_back),
		TEST(a_single_file_may_be_reached_by_a_link),
		TEST(what_cannot_be_sent_is_missing_with_its_reason),
		TEST(files_that_change_while_read),
		TEST(the_sender_keeps_limits),
		TEST(a_sender_without_digests_is_given_ours),
	};
	return cmocka_run_group_tests_name("file_tree_send", tests, NULL, NULL);
}
