/* The log's file and its turn-over, in processes of their own: stderr is theirs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/log_file.h"
#include "common/util.h"

#define MOST	 (64 * KIB)
#define THREADS	 4
#define LINES	 2000
#define LINE_MAX 64 /* of those written here */

static char dir[64], path[80], older[96];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_log_file.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/log", dir);
	snprintf(older, sizeof(older), "%s.1", path);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir, NULL);
}

/* fn in a child, whose stdout and stderr begin as `path`, as those of a daemon that was started by
 * a command do. */
static void in_child(void (*fn)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 ||
			log_file_open(path, MOST, NULL) < 0)
			_exit(99);
		fn();
		log_file_forget();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static uint64_t size_of(const char *name)
{
	struct stat st;

	return stat(name, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void *write_lines(void *arg)
{
	for (int i = 0; i < LINES; i++)
		log_info((const char *)arg, "line %d of many, as long as lines are", i);
	return NULL;
}

static void write_from_threads(void)
{
	static char names[THREADS][2] = {"a", "b", "c", "d"};
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, write_lines, names[i]);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* Lines of one thread have rising numbers without a gap, from wherever they begin to the last. */
static void check_lines(const char *text)
{
	int next[THREADS] = {-1, -1, -1, -1};

	for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
		int who = line[0] - 'a', number = -1;

		assert_in_range(who, 0, THREADS - 1);
		assert_int_equal(sscanf(line + 1, ": line %d of many", &number), 1);
		assert_true(next[who] < 0 || number == next[who]);
		next[who] = number + 1;
	}
	for (int i = 0; i < THREADS; i++)
		assert_true(next[i] < 0 || next[i] == LINES);
	assert_true(next[0] == LINES || next[1] == LINES || next[2] == LINES || next[3] == LINES);
}

static void the_newest_lines_are_kept(void **state)
{
	(void)state;
	in_child(write_from_threads);
	assert_true(size_of(path) < MOST + THREADS * LINE_MAX);
	assert_in_range(size_of(older), MOST, MOST + THREADS * LINE_MAX);
	_cleanup_free_ char *one = read_file(older, MIB, NULL, NULL);
	_cleanup_free_ char *two = read_file(path, MIB, NULL, NULL);
	_cleanup_free_ char *both = str_printf("%s%s", one, two);
	check_lines(both);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* As libraries do, which know nothing of this. */
static void write_behind_its_back(void)
{
	for (int i = 0; i < 3000; i++) {
		dprintf(2, "to stderr, by its number %d\n", i);
		dprintf(1, "to stdout %d\n", i);
		if (i % 100 == 99)
			log_file_check();
	}
}

static void what_others_write_counts_too(void **state)
{
	(void)state;
	in_child(write_behind_its_back);
	assert_in_range(size_of(older), MOST, MOST + 100 * 2 * LINE_MAX);
	assert_in_range(size_of(path), 1, MOST + 100 * 2 * LINE_MAX);
	_cleanup_free_ char *text = read_file(path, MIB, NULL, NULL);
	assert_non_null(strstr(text, "to stderr, by its number 2999\nto stdout 2999\n"));
}

static void write_where_nothing_can_be_made(void)
{
	write_lines("a");
	log_info("a", "the last");
}

static void what_cannot_be_renamed_goes_on(void **state)
{
	(void)state;
	/* A directory stands in the way of the older file. */
	assert_int_equal(mkdir(older, 0700), 0);
	in_child(write_where_nothing_can_be_made);
	assert_true(size_of(path) > MOST);
	_cleanup_free_ char *text = read_file(path, MIB, NULL, NULL);
	assert_non_null(strstr(text, "a: the last\n"));
}

/* A file that was full before is turned over by the first line. */
static void write_one(void)
{
	log_info("a", "the first");
	log_info("a", "the second");
}

static void a_full_file_is_turned_over_at_once(void **state)
{
	_cleanup_free_ char *full = xcalloc(1, MOST + 1);

	(void)state;
	memset(full, 'x', MOST);
	assert_int_equal(write_file(path, full, MOST, 0600, false, NULL), 0);
	in_child(write_one);
	_cleanup_free_ char *text = read_file(path, MIB, NULL, NULL);
	assert_string_equal(text, "a: the second\n");
	assert_int_equal(size_of(older), MOST + strlen("a: the first\n"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(the_newest_lines_are_kept),
		TEST(what_others_write_counts_too),
		TEST(what_cannot_be_renamed_goes_on),
		TEST(a_full_file_is_turned_over_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
