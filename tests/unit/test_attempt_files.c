#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/attempt_files.h"

struct fixture {
	char dir[40];
	int dir_fd;
};

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/attempt-files-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->dir_fd);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static void make(struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);
	_cleanup_free_ char *parent = xstrdup(path);

	*strrchr(parent, '/') = '\0';
	assert_int_equal(make_dirs(parent, 0700, NULL), 0);
	assert_int_equal(write_file(path, text, strlen(text), 0600, false, NULL), 0);
}

/* NULL: it is not there. */
static void expect(struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);
	_cleanup_free_ char *found = read_file(path, MIB, NULL, NULL);

	if (text)
		assert_string_equal(found, text);
	else
		assert_null(found);
}

static void expect_open(struct fixture *f, unsigned n, bool is_last, const char *text, bool shared)
{
	bool is_shared;
	char found[16] = "";
	_cleanup_close_ int fd = attempt_files_open(f->dir_fd, n, is_last, "stdout", &is_shared);

	if (!text) {
		assert_int_equal(fd, -1);
		assert_int_equal(errno, ENOENT);
		return;
	}
	assert_true(fd >= 0);
	assert_true(read(fd, found, sizeof(found) - 1) >= 0);
	assert_string_equal(found, text);
	assert_int_equal(is_shared, shared);
}

static void an_attempts_files_have_a_place(void **state)
{
	struct fixture *f = *state;

	make(f, "stdout", "one");
	make(f, "result.json", "{}");
	make(f, "artifacts/a/b", "deep");
	make(f, "inputs/0", "stays");
	make(f, "vm.json", "stays");
	expect_open(f, 1, true, "one", true);
	expect_open(f, 2, false, NULL, false);
	assert_int_equal(attempt_files_keep(f->dir, 1, NULL), 0);
	expect(f, "stdout", NULL);
	expect(f, "attempts/1/stdout", "one");
	expect(f, "attempts/1/artifacts/a/b", "deep");
	expect(f, "attempts/1/result.json", "{}");
	expect(f, "inputs/0", "stays");
	expect(f, "vm.json", "stays");
	/* Found wherever it is; and the next one's is not taken for it. */
	make(f, "stdout", "two");
	expect_open(f, 1, true, "one", false);
	expect_open(f, 1, false, "one", false);
	expect_open(f, 2, true, "two", true);
	assert_int_equal(attempt_files_keep(f->dir, 2, NULL), 0);
	expect_open(f, 2, false, "two", false);
	expect(f, "attempts/1/stdout", "one");
}

/* Killed on the way, and gone on by whoever comes next. */
static void half_of_it_is_gone_on_with(void **state)
{
	struct fixture *f = *state;

	make(f, "attempts/1/result.json", "first");
	make(f, "attempts/1/stdout", "one");
	make(f, "stderr", "err");
	/* Begun by one who did not live to commit it. */
	make(f, "result.json", "second");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(attempt_files_keep(f->dir, 1, NULL), 0);
		expect(f, "attempts/1/result.json", "first");
		expect(f, "attempts/1/stdout", "one");
		expect(f, "attempts/1/stderr", "err");
	}
}

static void an_attempt_without_files_has_none(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(attempt_files_keep(f->dir, 1, NULL), 0);
	make(f, "stdout", "two");
	expect_open(f, 1, false, NULL, false);
	/* Who believes that it is the last one is told to look again. */
	expect_open(f, 1, true, "two", true);
}

static void what_is_in_the_way_is_told(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;

	make(f, "attempts", "a file");
	assert_int_equal(attempt_files_keep(f->dir, 1, &err), -1);
	assert_non_null(strstr(err->text, "attempts"));
	error_free(steal_ptr(err));
	assert_int_equal(attempt_files_keep("/nonexistent", 1, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_attempts_files_have_a_place),
		TEST(half_of_it_is_gone_on_with),
		TEST(an_attempt_without_files_has_none),
		TEST(what_is_in_the_way_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
