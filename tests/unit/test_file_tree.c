#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/file_tree.h"
#include "common/limits.h"
#include "tests/unit/tree_records.h"

/* A directory of its own per test: src/ to send from, dst/ to write to, out/ that stays empty. */
struct fixture {
	char dir[64];
	int src, dst;
	struct tree_writer_options options;
	struct tree_writer *writer;
	struct error *err;
	struct record_to to; /* the writer */
	char *missing;	     /* "path: reason\n" of all missing records */
	char *entries;	     /* "path size\n" of all entries, "path/\n" for directories */
	void (*on_emit)(struct fixture *f, const Job__V1__FileRecord *record);
	unsigned emitted;
};

static void append(char **text, char *more)
{
	char *all = str_printf("%s%s", *text ? *text : "", more);

	free(*text);
	free(more);
	*text = all;
}

static void on_missing(void *arg, const char *path, const char *reason)
{
	append(&((struct fixture *)arg)->missing, str_printf("%s: %s\n", path, reason));
}

static void on_entry(void *arg, const struct tree_entry *entry)
{
	struct fixture *f = arg;

	append(&f->entries, entry->directory ? str_printf("%s/\n", entry->path)
					     : str_printf("%s %llu\n", entry->path,
						       (unsigned long long)entry->size));
}

static int take(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	struct fixture *f = arg;

	f->emitted++;
	if (f->on_emit)
		f->on_emit(f, record);
	return tree_writer_record(f->writer, record, err);
}

/* Begin (again) with f->options. */
static void writer_start(struct fixture *f)
{
	tree_writer_free(f->writer);
	error_free(steal_ptr(f->err));
	f->writer = tree_writer_new(f->dst, &f->options);
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	umask(022);
	strcpy(f->dir, "/tmp/test_file_tree.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(chmod(f->dir, 0755), 0);
	_cleanup_close_ int dir = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(dir, "src", 0755), 0);
	assert_int_equal(mkdirat(dir, "dst", 0755), 0);
	assert_int_equal(mkdirat(dir, "out", 0755), 0);
	f->src = openat(dir, "src", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->dst = openat(dir, "dst", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->options = (struct tree_writer_options){
		.limits = tree_limits_default,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0755,
		.on_entry = on_entry,
		.on_missing = on_missing,
		.arg = f,
	};
	f->to = (struct record_to){take, f, &f->err};
	writer_start(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	tree_writer_free(f->writer);
	error_free(f->err);
	close_fd(&f->src);
	close_fd(&f->dst);
	free(f->missing);
	free(f->entries);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static void make_file(int dir_fd, const char *path, const void *data, size_t n, mode_t mode)
{
	_cleanup_close_ int fd =
		openat(dir_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, data, n), 0);
	assert_int_equal(fchmod(fd, mode), 0);
}

static void assert_file(int dir_fd, const char *path, const char *text, mode_t mode)
{
	char buf[256] = {0};
	struct stat st;
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
	assert_string_equal(buf, text);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
}

static bool exists(int dir_fd, const char *path)
{
	struct stat st;

	return fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Entries of one of the fixture's directories. */
static unsigned count_entries(const char *dir, const char *sub)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, sub);
	DIR *d = opendir(path);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}

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

/* --- what a hostile peer may send --------------------------------------------------------------*/

static void hostile_paths_are_refused(void **state)
{
	struct fixture *f = *state;
	char long_name[300] = {0}, long_path[1200] = {0}, deep[200] = {0};
	static const char *const bad[] = {"", "..", ".", "/", "/etc/x", "../x", "a/..", "a/../x",
		"a//b", "a/", "./a", "a/.", "a\nb", "a\tb", "\x7f", "a\033[2J", "\xff\xfe",
		"\xc0\xae\xc0\xae",
		"\xe2\x80\xae"
		"txt",
		"\xc2\x9b"};
	static const char *const good[] = {"a", "...", "..a", "a b", "a/b/c", "-rf", "\xc3\xbc"};

	memset(long_name, 'n', sizeof(long_name) - 1);
	for (size_t i = 0; i < sizeof(long_path) - 1; i++)
		long_path[i] = i % 50 ? 'p' : i ? '/' : 'p';
	for (size_t i = 0; i < 65; i++)
		deep[i] = i % 2 ? '/' : 'd'; /* 33 components */
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(tree_path_valid(bad[i], 32));
		writer_start(f);
		assert_int_equal(put_head(&f->to, bad[i], 0644, 1), -1);
		assert_int_equal(f->err->code, ERR_INVALID);
		writer_start(f);
		assert_int_equal(put_dir(&f->to, bad[i], 0755), -1);
		writer_start(f);
		assert_int_equal(put_missing(&f->to, bad[i], "x"), -1);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(tree_path_valid(good[i], 32));
	assert_false(tree_path_valid(long_name, 32));
	long_name[255] = 0;
	assert_true(tree_path_valid(long_name, 32));
	assert_false(tree_path_valid(long_path, 32));
	long_path[LIMIT_PATH] = 0;
	assert_true(tree_path_valid(long_path, 32));
	assert_false(tree_path_valid(deep, 32));
	deep[63] = 0;
	assert_true(tree_path_valid(deep, 32));
	/* The error text cannot drive a terminal. */
	writer_start(f);
	assert_int_equal(put_head(&f->to, "a\033[2J", 0644, 1), -1);
	assert_string_equal(f->err->text, "path \"a\\x1b[2J\" is not acceptable");
	assert_int_equal(count_entries(f->dir, "dst"), 0);
}

static void links_planted_between_records_are_not_followed(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *out = str_printf("%s/out", f->dir);

	assert_int_equal(put_dir(&f->to, "a", 0755), 0);
	/* Two hops: a/l -> ../m, m -> outside. */
	assert_int_equal(symlinkat("../m", f->dst, "a/l"), 0);
	assert_int_equal(symlinkat(out, f->dst, "m"), 0);
	assert_int_equal(put_head(&f->to, "a/l/x", 0644, 1), -1);
	writer_start(f);
	assert_int_equal(put_head(&f->to, "m/x", 0644, 1), -1);
	writer_start(f);
	assert_int_equal(put_dir(&f->to, "a/l/d", 0755), -1);
	/* One that stays inside. */
	assert_int_equal(symlinkat("a", f->dst, "in"), 0);
	writer_start(f);
	assert_int_equal(put_head(&f->to, "in/x", 0644, 1), -1);
	/* The leaf itself. */
	assert_int_equal(symlinkat("../out/x", f->dst, "leaf"), 0);
	writer_start(f);
	assert_int_equal(put_head(&f->to, "leaf", 0644, 1), -1);
	assert_int_equal(f->err->code, ERR_EXISTS);
	/* A directory made by a record and then swapped for a link. */
	writer_start(f);
	assert_int_equal(put_dir(&f->to, "swap", 0755), 0);
	assert_int_equal(unlinkat(f->dst, "swap", AT_REMOVEDIR), 0);
	assert_int_equal(symlinkat("../out", f->dst, "swap"), 0);
	assert_int_equal(put_head(&f->to, "swap/x", 0644, 1), -1);
	/* With replace, the link goes and what it points to stays. */
	make_file(f->src, "victim", "precious", 8, 0644);
	assert_int_equal(symlinkat("../src/victim", f->dst, "v"), 0);
	f->options.replace = true;
	writer_start(f);
	assert_int_equal(put_file(&f->to, "v", 0644, "new"), 0);
	assert_file(f->dst, "v", "new", 0644);
	assert_file(f->src, "victim", "precious", 0644);
	writer_start(f);
	assert_int_equal(put_dir(&f->to, "swap", 0755), -1);
	assert_int_equal(count_entries(f->dir, "out"), 0);
}

static void what_is_in_the_way_is_not_opened(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkfifoat(f->dst, "fifo", 0644), 0);
	make_file(f->dst, "old", "old", 3, 0644);
	assert_int_equal(mkdirat(f->dst, "dir", 0755), 0);
	static const char *const names[] = {"fifo", "old", "dir"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		writer_start(f);
		alarm(30); /* a FIFO that is opened blocks */
		assert_int_equal(put_file(&f->to, names[i], 0644, "new"), -1);
		assert_int_equal(f->err->code, ERR_EXISTS);
		writer_start(f);
		assert_int_equal(put_dir(&f->to, names[i], 0755), -1);
		alarm(0);
	}
	assert_file(f->dst, "old", "old", 0644);

	f->options.replace = true;
	writer_start(f);
	assert_int_equal(put_file(&f->to, "old", 0600, "new"), 0);
	assert_file(f->dst, "old", "new", 0600);
	assert_int_equal(put_file(&f->to, "fifo", 0644, "new"), 0);
	assert_int_equal(put_dir(&f->to, "dir", 0700), 0); /* is there: taken as it is */
	/* What was there stays until the new one is whole. */
	assert_int_equal(put_head(&f->to, "old", 0644, 5), 0);
	assert_int_equal(put_chunk(&f->to, "torn", 4), 0);
	assert_int_equal(put_tail(&f->to, "torn", 4), -1);
	assert_file(f->dst, "old", "new", 0600);
	writer_start(f);
	assert_int_equal(put_file(&f->to, "dir", 0644, "new"), -1);
	/* No temporary name is left. */
	assert_int_equal(unlinkat(f->dst, "old", 0), 0);
	assert_int_equal(unlinkat(f->dst, "fifo", 0), 0);
	assert_int_equal(unlinkat(f->dst, "dir", AT_REMOVEDIR), 0);
	assert_int_equal(count_entries(f->dir, "dst"), 0);
}

static void records_out_of_order_are_refused(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;
	struct tree_totals got;

	assert_int_equal(put_chunk(to, "x", 1), -1); /* chunk without head */
	assert_int_equal(f->err->code, ERR_INVALID);
	assert_int_equal(put_dir(to, "d", 0755), -1); /* an error is final */
	assert_int_equal(f->err->code, ERR_STATE);
	assert_int_equal(tree_writer_finish(f->writer, &got, &f->err), -1);

	writer_start(f);
	assert_int_equal(put_tail(to, "", 0), -1); /* tail without head */

	writer_start(f);
	assert_int_equal(put_head(to, "f", 0644, 3), 0); /* head twice */
	assert_int_equal(put_head(to, "g", 0644, 3), -1);
	assert_int_equal(f->err->code, ERR_DATA_LOSS);
	assert_false(exists(f->dst, "f"));

	writer_start(f);
	assert_int_equal(put_head(to, "f", 0644, 3), 0); /* missing for another */
	assert_int_equal(put_missing(to, "g", "gone"), -1);
	assert_false(exists(f->dst, "f"));

	writer_start(f);
	assert_int_equal(put_head(to, "f", 0644, 3), 0); /* tail missing */
	assert_int_equal(put_chunk(to, "abc", 3), 0);
	assert_int_equal(tree_writer_finish(f->writer, &got, &f->err), -1);
	assert_int_equal(f->err->code, ERR_DATA_LOSS);
	assert_string_equal(f->err->text, "f: 3 of 3 bytes came, and no tail");
	assert_false(exists(f->dst, "f"));

	writer_start(f);
	assert_int_equal(put_head(to, "f", 0644, 3), 0); /* the stream just stops */
	tree_writer_free(steal_ptr(f->writer));
	assert_false(exists(f->dst, "f"));

	writer_start(f);
	assert_int_equal(put_head(to, "nodir/f", 0644, 3), -1); /* its directory was not sent */
	assert_int_equal(f->err->code, ERR_NOT_FOUND);

	writer_start(f);
	assert_int_equal(put_head_typed(to, "f", 3, 0644, 0), -1); /* no known type */
	Job__V1__FileRecord empty = JOB__V1__FILE_RECORD__INIT;
	writer_start(f);
	assert_int_equal(tree_writer_record(f->writer, &empty, &f->err), -1);
	assert_int_equal(count_entries(f->dir, "dst"), 0);
}

static void content_must_be_what_was_announced(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;
	uint8_t digest[33] = {0};

	assert_int_equal(put_head(to, "f", 0644, 3), 0); /* chunks go on */
	assert_int_equal(put_chunk(to, "ab", 2), 0);
	assert_int_equal(put_chunk(to, "cd", 2), -1);
	assert_string_equal(f->err->text, "f: larger than the 3 bytes announced");
	assert_false(exists(f->dst, "f"));

	writer_start(f);
	assert_int_equal(put_head(to, "f", 0644, 3), 0); /* too short */
	assert_int_equal(put_chunk(to, "ab", 2), 0);
	assert_int_equal(put_tail(to, "ab", 2), -1);
	assert_int_equal(f->err->code, ERR_DATA_LOSS);

	writer_start(f);
	assert_int_equal(put_head(to, "f", 0644, 2), 0); /* other bytes */
	assert_int_equal(put_chunk(to, "ab", 2), 0);
	assert_int_equal(put_tail(to, "ac", 2), -1);
	assert_string_equal(f->err->text, "f: its digest does not match");

	crypto_hash_sha256(digest, (const uint8_t *)"", 0);
	for (size_t n = 0; n <= 33; n++) {
		if (n == 32)
			continue;
		writer_start(f);
		assert_int_equal(put_head(to, "f", 0644, 0), 0); /* digest of another length */
		assert_int_equal(put_tail_raw(to, n ? digest : NULL, n), -1);
	}
	assert_int_equal(count_entries(f->dir, "dst"), 0);
}

static void caps_stand_before_the_writing(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;

	f->options.limits = (struct tree_limits){.files = 3, .depth = 2, .bytes = 10};
	writer_start(f);
	assert_int_equal(put_head(to, "huge", 0644, UINT64_MAX), -1);
	assert_int_equal(f->err->code, ERR_LIMIT);
	writer_start(f);
	assert_int_equal(put_head(to, "huge", 0644, 11), -1);
	assert_int_equal(put_dir(to, "a/b/c", 0755), -1);
	assert_int_equal(count_entries(f->dir, "dst"), 0);

	writer_start(f);
	assert_int_equal(put_file(to, "a", 0644, "12345"), 0);
	assert_int_equal(put_head(to, "b", 0644, UINT64_MAX - 4), -1); /* the sum wraps */
	assert_int_equal(f->err->code, ERR_LIMIT);
	writer_start(f);
	assert_int_equal(put_file(to, "b", 0644, "1234567890"), 0);
	assert_int_equal(put_head(to, "c", 0644, 1), -1);
	assert_false(exists(f->dst, "c"));

	writer_start(f);
	assert_int_equal(put_dir(to, "d", 0755), 0);
	assert_int_equal(put_missing(to, "m", "gone"), 0); /* counts as well */
	assert_int_equal(put_file(to, "d/e", 0644, ""), 0);
	assert_int_equal(put_head(to, "d/f", 0644, 0), -1);
	assert_string_equal(f->err->text, "more than 3 files");
	writer_start(f);
	for (int i = 0; i < 3; i++)
		assert_int_equal(put_missing(to, "m", "gone"), 0);
	assert_int_equal(put_missing(to, "m", "gone"), -1);
}

static void special_bits_are_stripped(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	f->options.mode_mask = 07777; /* asks for more than there is */
	if (geteuid() == 0) {
		f->options.uid = 1234;
		f->options.gid = 2345;
	}
	writer_start(f);
	assert_int_equal(put_file(&f->to, "suid", 06755, "x"), 0);
	assert_file(f->dst, "suid", "x", 0755);
	assert_int_equal(put_dir(&f->to, "sticky", 07777), 0);
	assert_int_equal(put_file(&f->to, "none", 0, "x"), 0);
	assert_file(f->dst, "none", "x", 0600);
	assert_int_equal(fstatat(f->dst, "sticky", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0777);
	if (geteuid() == 0) {
		assert_int_equal(st.st_uid, 1234);
		assert_int_equal(fstatat(f->dst, "suid", &st, 0), 0);
		assert_int_equal(st.st_uid, 1234);
		assert_int_equal(st.st_gid, 2345);
	}
}

static void reasons_are_short_and_harmless(void **state)
{
	struct fixture *f = *state;
	char reason[2000];

	memset(reason, 'r', sizeof(reason));
	reason[0] = '\033';
	reason[sizeof(reason) - 1] = 0;
	assert_int_equal(put_missing(&f->to, "m", reason), 0);
	assert_true(strlen(f->missing) < 300);
	assert_true(str_starts(f->missing, "m: \\x1brrr"));
}

static void absolute_paths_stay_in_the_root(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;

	f->options.absolute = f->options.replace = true;
	f->options.durable = true;
	writer_start(f);
	assert_int_equal(put_file(to, "/work/in/deep/f", 0644, "x"), 0);
	assert_file(f->dst, "work/in/deep/f", "x", 0644);
	assert_int_equal(put_dir(to, "/", 0755), 0);
	assert_int_equal(put_dir(to, "/work/in/", 0700), 0); /* is there */
	assert_int_equal(put_file(to, "/work/in/deep/f", 0644, "y"), 0);
	assert_file(f->dst, "work/in/deep/f", "y", 0644);
	/* The root's own links lead on, within the root. */
	assert_int_equal(mkdirat(f->dst, "usr", 0755), 0);
	assert_int_equal(mkdirat(f->dst, "usr/bin", 0755), 0);
	assert_int_equal(symlinkat("/usr/bin", f->dst, "bin"), 0);
	assert_int_equal(symlinkat("../../../..", f->dst, "up"), 0);
	assert_int_equal(put_file(to, "/bin/tool", 0755, "t"), 0);
	assert_file(f->dst, "usr/bin/tool", "t", 0755);
	assert_int_equal(put_file(to, "/up/escaped", 0644, "e"), 0);
	assert_file(f->dst, "escaped", "e", 0644);
	assert_int_equal(tree_writer_finish(f->writer, NULL, &f->err), 0);
	static const char *const bad[] = {"/../x", "/a/../../x", "/a//b", "/./x", "/\n"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		writer_start(f);
		assert_int_equal(put_head(to, bad[i], 0644, 0), -1);
	}
	writer_start(f);
	assert_int_equal(put_head(to, "/", 0644, 0), -1); /* the root is no file */
	/* A link that leads nowhere is not filled in. */
	assert_int_equal(symlinkat("/nowhere", f->dst, "dangling"), 0);
	writer_start(f);
	assert_int_equal(put_head(to, "/dangling/x", 0644, 0), -1);
	assert_false(exists(f->dst, "nowhere"));
}

/* --- a full disk -------------------------------------------------------------------------------*/

static int write_megabyte(struct fixture *f)
{
	_cleanup_free_ uint8_t *data = xcalloc(1, MIB);

	if (put_head(&f->to, "big", 0644, MIB) < 0)
		return -1;
	for (size_t at = 0; at < MIB; at += 64 * KIB)
		if (put_chunk(&f->to, data + at, 64 * KIB) < 0)
			return -1;
	return put_tail(&f->to, data, MIB);
}

static void a_file_size_limit_is_an_error_not_a_signal(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, small;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = 100 * KIB;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	int r = write_megabyte(f);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(r, -1);
	assert_int_equal(f->err->code, ERR_LIMIT);
	assert_string_equal(f->err->text, "big: File too large");
	assert_false(exists(f->dst, "big"));
}

/* In a child, because the mount namespace is the process's. */
static int on_small_disk(struct fixture *f)
{
	_cleanup_free_ char *dst = str_printf("%s/dst", f->dir);

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", dst, "tmpfs", 0, "size=256k") < 0)
		return 77;
	close_fd(&f->dst);
	f->dst = open(dst, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	writer_start(f);
	if (write_megabyte(f) == 0)
		return 1;
	if (f->err->code != ERR_LIMIT || !str_eq(f->err->text, "big: No space left on device"))
		return 2;
	if (exists(f->dst, "big"))
		return 3;
	/* What was taken back makes room. */
	writer_start(f);
	return put_file(&f->to, "small", 0644, "fits") < 0 ? 4 : 0;
}

static void a_full_disk_is_an_error_with_its_name(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(on_small_disk(*state));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip(); /* no right to mount */
	assert_int_equal(WEXITSTATUS(status), 0);
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
		TEST(hostile_paths_are_refused),
		TEST(links_planted_between_records_are_not_followed),
		TEST(what_is_in_the_way_is_not_opened),
		TEST(records_out_of_order_are_refused),
		TEST(content_must_be_what_was_announced),
		TEST(caps_stand_before_the_writing),
		TEST(special_bits_are_stripped),
		TEST(reasons_are_short_and_harmless),
		TEST(absolute_paths_stay_in_the_root),
		TEST(a_file_size_limit_is_an_error_not_a_signal),
		TEST(a_full_disk_is_an_error_with_its_name),
	};
	return cmocka_run_group_tests_name("file_tree", tests, NULL, NULL);
}
