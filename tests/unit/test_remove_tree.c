/* Removing a tree: all of it, nothing beside it, whatever others do to it meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/util.h"
#include "tests/unit/in_child.h"

#define FILES  40
#define ROUNDS 60

struct fixture {
	char dir[32];
	char *tree;	 /* what is removed */
	char *bystander; /* a directory of files that must stay */
};

static void make_files(const char *dir)
{
	assert_int_equal(make_dirs(dir, 0700, NULL), 0);
	for (int i = 0; i < FILES; i++) {
		_cleanup_free_ char *path = str_printf("%s/f%d", dir, i);
		assert_int_equal(write_file(path, "x", 1, 0600, false, NULL), 0);
	}
}

static void assert_files_there(const char *dir)
{
	for (int i = 0; i < FILES; i++) {
		_cleanup_free_ char *path = str_printf("%s/f%d", dir, i);
		assert_int_equal(access(path, F_OK), 0);
	}
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/test_remove.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->tree = str_printf("%s/tree", f->dir);
	f->bystander = str_printf("%s/bystander", f->dir);
	assert_int_equal(mkdir(f->tree, 0700), 0);
	make_files(f->bystander);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	remove_tree(f->dir, NULL);
	free(f->tree);
	free(f->bystander);
	free(f);
	return 0;
}

static void links_and_special_files_go_as_what_they_are(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *sub = str_printf("%s/a/b/c", f->tree);
	_cleanup_free_ char *link = str_printf("%s/link", sub);
	_cleanup_free_ char *fifo = str_printf("%s/fifo", sub);

	make_files(sub);
	assert_int_equal(symlink(f->bystander, link), 0);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(remove_tree(f->tree, &err), 0);
	assert_int_equal(access(f->tree, F_OK), -1);
	assert_files_there(f->bystander);

	/* The top may be a file or a link, and have a slash behind it. */
	assert_int_equal(symlink(f->bystander, f->tree), 0);
	_cleanup_free_ char *slash = str_printf("%s//", f->tree);
	assert_int_equal(remove_tree(slash, &err), 0);
	assert_files_there(f->bystander);
	assert_int_equal(write_file(f->tree, "x", 1, 0600, false, NULL), 0);
	assert_int_equal(remove_tree(f->tree, &err), 0);
	assert_int_equal(remove_tree(f->tree, &err), 0); /* not there is success */
	_cleanup_free_ char *nowhere = str_printf("%s/not/there", f->tree);
	assert_int_equal(remove_tree(nowhere, &err), 0);
	assert_null(err);
}

static void what_names_no_entry_is_refused(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *dot = str_printf("%s/.", f->tree);
	_cleanup_free_ char *up = str_printf("%s/..", f->tree);

	assert_int_equal(remove_tree("", NULL), -1);
	assert_int_equal(remove_tree("/", NULL), -1);
	assert_int_equal(remove_tree(dot, NULL), -1);
	assert_int_equal(remove_tree(up, NULL), -1);
	assert_files_there(f->bystander);
	assert_int_equal(access(f->tree, F_OK), 0);
}

/* Deeper than a path can say, and than a process has file descriptors. */
static void a_tree_may_be_of_any_depth(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	int fd = open(f->tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (int i = 0; i < 1500; i++) {
		assert_int_equal(mkdirat(fd, "deeper", 0700), 0);
		int next = openat(fd, "deeper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(fd);
		fd = next;
	}
	close(fd);
	assert_int_equal(remove_tree(f->tree, &err), 0);
	assert_int_equal(access(f->tree, F_OK), -1);
}

static void a_directory_of_many_directories(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 300; i++) {
		_cleanup_free_ char *sub = str_printf("%s/%d/x", f->tree, i);
		assert_int_equal(make_dirs(sub, 0700, NULL), 0);
	}
	assert_int_equal(remove_tree(f->tree, NULL), 0);
	assert_int_equal(access(f->tree, F_OK), -1);
}

/* In a process with mounts of its own. */
static int remove_with_a_mount(void *arg)
{
	const struct fixture *f = arg;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *sub = str_printf("%s/a/mount", f->tree);

	if (unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return CHILD_MAY_NOT;
	if (make_dirs(sub, 0700, NULL) < 0 || mount(f->bystander, sub, NULL, MS_BIND, NULL) < 0)
		return CHILD_MAY_NOT;
	if (remove_tree(f->tree, &err) == 0 || err->code != ERR_STATE)
		return 1;
	error_free(steal_ptr(err));
	/* Also when it is the top itself. */
	return remove_tree(sub, &err) < 0 && err->code == ERR_STATE ? 0 : 2;
}

static void a_mount_is_not_crossed(void **state)
{
	struct fixture *f = *state;

	assert_in_child(remove_with_a_mount, f);
	assert_files_there(f->bystander);
}

struct racer {
	const struct fixture *f;
	atomic_bool stop;
	atomic_uint swaps;
};

/* A directory of the tree, and a link to the bystander, swap places again and again. */
static void *swap_with_link(void *arg)
{
	struct racer *racer = arg;
	_cleanup_free_ char *a = str_printf("%s/deep/a", racer->f->tree);
	_cleanup_free_ char *b = str_printf("%s/deep/b", racer->f->tree);

	while (!atomic_load(&racer->stop))
		if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0)
			atomic_fetch_add(&racer->swaps, 1);
	return NULL;
}

/* A directory of the tree moves into the bystander and back. */
static void *move_out_and_in(void *arg)
{
	struct racer *racer = arg;
	_cleanup_free_ char *in = str_printf("%s/deep/a", racer->f->tree);
	_cleanup_free_ char *out = str_printf("%s/a", racer->f->bystander);

	while (!atomic_load(&racer->stop)) {
		if (rename(in, out) == 0)
			atomic_fetch_add(&racer->swaps, 1);
		rename(out, in);
	}
	return NULL;
}

static void race(struct fixture *f, void *(*run)(void *))
{
	struct racer racer = {.f = f};
	_cleanup_free_ char *a = str_printf("%s/deep/a", f->tree);
	_cleanup_free_ char *below = str_printf("%s/below", a);
	_cleanup_free_ char *b = str_printf("%s/deep/b", f->tree);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run, &racer), 0);
	for (int i = 0; i < ROUNDS; i++) {
		_cleanup_error_ struct error *err = NULL;
		unsigned before = atomic_load(&racer.swaps);

		/* The racer may take away what we are making. */
		for (int k = 0; k < FILES; k++) {
			_cleanup_free_ char *path = str_printf("%s/f%d", below, k);
			make_dirs(below, 0700, NULL);
			write_file(path, "x", 1, 0600, false, NULL);
		}
		if (symlink(f->bystander, b) < 0 && errno != EEXIST)
			fail_msg("%s: %d", b, errno);
		for (int k = 0; k < 1000 && atomic_load(&racer.swaps) == before; k++)
			sched_yield();
		if (remove_tree(f->tree, &err) < 0 && err->code != ERR_ABORTED)
			fail_msg("%s", err->text);
	}
	atomic_store(&racer.stop, true);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&racer.swaps) > ROUNDS / 10);
	assert_files_there(f->bystander);
	assert_int_equal(remove_tree(f->tree, NULL), 0);
	assert_int_equal(access(f->tree, F_OK), -1);
}

static void a_directory_swapped_for_a_link_leads_nowhere(void **state)
{
	race(*state, swap_with_link);
}

static void a_directory_moved_away_leads_nowhere(void **state)
{
	race(*state, move_out_and_in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			links_and_special_files_go_as_what_they_are, setup, teardown),
		cmocka_unit_test_setup_teardown(what_names_no_entry_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_tree_may_be_of_any_depth, setup, teardown),
		cmocka_unit_test_setup_teardown(a_directory_of_many_directories, setup, teardown),
		cmocka_unit_test_setup_teardown(a_mount_is_not_crossed, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_directory_swapped_for_a_link_leads_nowhere, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_directory_moved_away_leads_nowhere, setup, teardown),
	};
	return cmocka_run_group_tests_name("remove_tree", tests, NULL, NULL);
}
