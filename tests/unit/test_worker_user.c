#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "guest-worker/job_user.h"
#include "tests/unit/as_nobody.h"

static char dir[] = "/tmp/test_worker_user.XXXXXX";
static struct job_root root;

static void write_etc(const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/etc/%s", dir, name);

	assert_int_equal(write_file(path, text, strlen(text), 0644, false, NULL), 0);
}

static int find_code(const char *name)
{
	_cleanup_error_ struct error *err = NULL;
	struct job_user user;

	return job_user_find(&root, name, &user, &err) < 0 ? (int)err->code : 0;
}

static void names_and_numbers_are_the_images(void **state)
{
	struct job_user user;

	(void)state;
	if (geteuid() != 0)
		skip();
	write_etc("passwd", "root:x:0:0:root:/root:/bin/sh\n"
			    "short:x:5\n"
			    "bad:x:12x:12::/:/bin/sh\n"
			    "none:x:4294967295:1::/:/bin/sh\n"
			    "alice:x:70:71:Alice:/home/alice:/bin/sh\n"
			    "nohome:x:80:80:::");
	write_etc("group", "root:x:0:\nwheel:x:10:bob,alice\nalice:x:71:alice\nx:x:9:alic,alice2\n"
			   "last:x:11:alice");
	assert_int_equal(job_user_find(&root, "alice", &user, NULL), 0);
	assert_int_equal(user.uid, 70);
	assert_int_equal(user.gid, 71);
	assert_string_equal(user.home, "/home/alice");
	assert_int_equal(user.n_groups, 2);
	assert_int_equal(user.groups[0], 10);
	assert_int_equal(user.groups[1], 11);
	assert_int_equal(job_user_find(&root, "70", &user, NULL), 0);
	assert_string_equal(user.name, "alice");
	assert_int_equal(job_user_find(&root, "4711", &user, NULL), 0);
	assert_int_equal(user.uid, 4711);
	assert_int_equal(user.gid, 4711);
	assert_string_equal(user.home, "/");
	assert_int_equal(job_user_find(&root, "nohome", &user, NULL), 0);
	assert_string_equal(user.home, "/");

	static const char *const unknown[] = {
		"nobody-here", "short", "bad", "none", "4294967295", "4294967296", "-1", "0x10"};
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
		assert_int_equal(find_code(unknown[i]), ERR_NOT_FOUND);
	assert_int_equal(find_code(""), ERR_INVALID);
	assert_int_equal(find_code("\xff"), ERR_INVALID);
}

static void the_default_is_job_or_its_number(void **state)
{
	struct job_user user;

	(void)state;
	if (geteuid() != 0)
		skip();
	write_etc("passwd", "root:x:0:0::/root:/bin/sh\njob:x:1234:1234::/work:/bin/sh\n");
	assert_int_equal(job_user_find(&root, NULL, &user, NULL), 0);
	assert_int_equal(user.uid, 1234);
	assert_string_equal(user.home, "/work");
	write_etc("passwd", "root:x:0:0::/root:/bin/sh\n");
	assert_int_equal(job_user_find(&root, NULL, &user, NULL), 0);
	assert_int_equal(user.uid, 1000);
	/* A person, in a machine's own root. */
	const struct job_root own = {.fd = root.fd, .path = "/"};
	assert_int_equal(job_user_find(&own, NULL, &user, NULL), 0);
	assert_int_equal(user.uid, 65534);
}

static void a_link_or_a_giant_is_not_read(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	_cleanup_free_ char *path = str_printf("%s/etc/passwd", dir);
	_cleanup_free_ char *giant = xcalloc(2 * MIB, 1);
	unlink(path);
	assert_int_equal(symlink("/proc/self/root/etc/passwd", path), 0);
	assert_int_equal(find_code("daemon"), ERR_NOT_FOUND);
	unlink(path);
	memset(giant, '\n', 2 * MIB - 1);
	memcpy(giant, "x:x:1:1::/:\n", 12);
	write_etc("passwd", giant);
	assert_int_equal(find_code("x"), ERR_NOT_FOUND);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0); /* must not wait */
	assert_int_equal(find_code("x"), ERR_NOT_FOUND);
	unlink(path);
}

static void without_privileges_there_is_one_user(void **state)
{
	struct job_user user;
	char name[16];

	(void)state;
	if (geteuid() == 0)
		skip();
	write_etc("passwd", "root:x:0:0::/root:/bin/sh\n");
	assert_int_equal(job_user_find(&root, NULL, &user, NULL), 0);
	assert_true(user.self);
	assert_int_equal(user.uid, geteuid());
	snprintf(name, sizeof(name), "%u", geteuid());
	assert_int_equal(job_user_find(&root, name, &user, NULL), 0);
	assert_int_equal(find_code("root"), ERR_DENIED);
	assert_int_equal(find_code("0"), ERR_DENIED);
}

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	_cleanup_free_ char *etc = str_printf("%s/etc", dir);
	return mkdir(etc, 0700) < 0 ? -1 : job_root_init(dir, "/", &root, NULL);
}

static int teardown(void **state)
{
	(void)state;
	close(root.fd);
	return remove_tree(dir, NULL);
}

static int run_all(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_numbers_are_the_images),
		cmocka_unit_test(the_default_is_job_or_its_number),
		cmocka_unit_test(a_link_or_a_giant_is_not_read),
		cmocka_unit_test(without_privileges_there_is_one_user),
	};
	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	int failed = geteuid() == 0 ? run_as_nobody(run_all, "worker user, as nobody") : 0;

	return failed + run_all("worker user") != 0;
}
