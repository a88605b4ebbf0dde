#include "tests/unit/file_tree_fixture.h"
#include "tests/unit/in_child.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>

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
static int on_small_disk(void *arg)
{
	struct fixture *f = arg;
	_cleanup_free_ char *dst = str_printf("%s/dst", f->dir);

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", dst, "tmpfs", 0, "size=256k") < 0)
		return CHILD_MAY_NOT;
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
	assert_in_child(on_small_disk, *state);
}

/* What the writer asks of the disk: these stand before libc's. */
static unsigned fsyncs, syncfss;
static int syncfs_errno;

int fsync(int fd)
{
	fsyncs++;
	return (int)syscall(SYS_fsync, fd);
}

int syncfs(int fd)
{
	syncfss++;
	errno = syncfs_errno;
	return syncfs_errno ? -1 : (int)syscall(SYS_syncfs, fd);
}

static void put_durable(struct fixture *f, unsigned n)
{
	f->options.durable = true;
	writer_start(f);
	fsyncs = syncfss = 0;
	assert_int_equal(put_dir(&f->to, "d", 0755), 0);
	for (unsigned i = 0; i < n; i++) {
		_cleanup_free_ char *path = str_printf("d/%u", i);
		assert_int_equal(put_file(&f->to, path, 0644, "text"), 0);
	}
}

static void few_durable_files_are_synced_by_themselves(void **state)
{
	struct fixture *f = *state;

	put_durable(f, 3);
	assert_int_equal(tree_writer_finish(f->writer, NULL, &f->err), 0);
	assert_int_equal(fsyncs, 3 + 2); /* and the directories */
	assert_int_equal(syncfss, 0);
}

static void many_durable_files_are_synced_together(void **state)
{
	struct fixture *f = *state;

	put_durable(f, 500);
	assert_true(fsyncs < 50);
	assert_int_equal(tree_writer_finish(f->writer, NULL, &f->err), 0);
	assert_true(fsyncs < 50);
	assert_int_equal(syncfss, 1);
}

static void many_durable_files_that_did_not_reach_the_disk_are_an_error(void **state)
{
	struct fixture *f = *state;

	put_durable(f, 100);
	syncfs_errno = EIO;
	int r = tree_writer_finish(f->writer, NULL, &f->err);
	syncfs_errno = 0;
	assert_int_equal(r, -1);
	assert_non_null(strstr(f->err->text, "Input/output error"));
}

/* Their names say that they are whole, also after a crash. */
static void durable_files_that_replace_others_are_synced_first(void **state)
{
	struct fixture *f = *state;

	f->options.replace = true;
	put_durable(f, 100);
	assert_int_equal(fsyncs, 100);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
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
		TEST(few_durable_files_are_synced_by_themselves),
		TEST(many_durable_files_are_synced_together),
		TEST(many_durable_files_that_did_not_reach_the_disk_are_an_error),
		TEST(durable_files_that_replace_others_are_synced_first),
	};
	return cmocka_run_group_tests_name("file_tree", tests, NULL, NULL);
}
