/* The ballast on a small disk of its own, in a child: the mount namespace and the ballast are the
 * process's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/util.h"
#include "orchestrator/ballast.h"

#define SIZE ((off_t)MIB)

struct disk {
	char dir[32];
	char *file, *filler; /* owned */
};

static int setup(void **state)
{
	struct disk *d = xcalloc(1, sizeof(*d));

	strcpy(d->dir, "/tmp/ballast-test-XXXXXX");
	if (!mkdtemp(d->dir))
		return -1;
	d->file = str_printf("%s/ballast", d->dir);
	d->filler = str_printf("%s/filler", d->dir);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct disk *d = *state;

	remove_tree(d->dir, NULL);
	free(d->file);
	free(d->filler);
	free(d);
	return 0;
}

static bool there(const struct disk *d)
{
	struct stat st;

	return stat(d->file, &st) == 0 && st.st_size == SIZE && st.st_blocks * 512 >= SIZE;
}

/* All but so many bytes. */
static bool fill_but(const struct disk *d, uint64_t left)
{
	uint64_t free_bytes;

	unlink(d->filler);
	int fd = open(d->filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && ballast_free_disk(&free_bytes, NULL) == 0 &&
		  posix_fallocate(fd, 0, (off_t)(free_bytes - left)) == 0;

	close(fd);
	return ok;
}

static bool check_is(enum err_code code)
{
	_cleanup_error_ struct error *err = NULL;
	int r = ballast_check_room(&err);

	return code ? r < 0 && err->code == code : r == 0;
}

/* The number says what went wrong. */
static int live(const struct disk *d)
{
	uint64_t before, after;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", d->dir, "tmpfs", 0, "size=8m") < 0)
		return 77;
	/* Before it is opened there is none. */
	if (ballast_give() || ballast_is_given() || !check_is(0))
		return 1;
	ballast_open(d->dir, SIZE);
	if (!there(d) || ballast_is_given() || !check_is(0))
		return 2;
	/* Little room is none to begin something, and no reason to give it. */
	if (!fill_but(d, (uint64_t)SIZE / 2) || !check_is(ERR_LIMIT) || ballast_is_given())
		return 3;
	if (ballast_free_disk(&before, NULL) < 0 || !ballast_give() || ballast_give() ||
		!ballast_is_given() || there(d))
		return 4;
	/* What it gave is not free for others, and not enough for itself. */
	if (ballast_free_disk(&after, NULL) < 0 || after != before || !check_is(ERR_LIMIT))
		return 5;
	unlink(d->filler);
	if (!check_is(0) || ballast_is_given() || !there(d))
		return 6;
	/* The next daemon: on a full disk, which then has a little room; on one without room; and
	 * one that shall have none. */
	if (!fill_but(d, 0))
		return 7;
	ballast_open(d->dir, SIZE);
	if (!ballast_is_given() || there(d) || !fill_but(d, 0))
		return 8;
	ballast_open(d->dir, SIZE);
	if (!ballast_is_given() || there(d))
		return 9;
	unlink(d->filler);
	if (!check_is(0) || !there(d))
		return 10;
	ballast_open(d->dir, 0);
	return !there(d) && !ballast_give() && check_is(0) ? 0 : 11;
}

static void it_is_given_once_and_made_again(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(live(*state));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip(); /* no right to mount */
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_is_given_once_and_made_again, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
