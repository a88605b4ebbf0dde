#include "orchestrator/attempt_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/failpoint.h"
#include "common/util.h"

const char *const attempt_file_names[] = {
	"result.json", "stdout", "stderr", "console.log", "artifacts", "artifacts.partial", NULL};

static int open_dir(int dir_fd, const char *name, struct error **err)
{
	int fd;

	if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
		return error_errno(err, errno, "%s", name);
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? error_errno(err, errno, "%s", name) : fd;
}

static int sync_fd(int fd, const char *name, struct error **err)
{
	return fsync(fd) < 0 ? error_errno(err, errno, "%s", name) : 0;
}

/* What is there already is the attempt's own. A second one is what somebody began to write who did
 * not live to commit it; the next attempt writes over it. */
static int move_all(int from_fd, int to_fd, bool *ret_moved, struct error **err)
{
	for (size_t i = 0; attempt_file_names[i]; i++) {
		const char *name = attempt_file_names[i];

		FAILPOINT("retry.moving");
		if (faccessat(to_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		if (renameat(from_fd, name, to_fd, name) == 0)
			*ret_moved = true;
		else if (errno != ENOENT)
			return error_errno(err, errno, "%s", name);
	}
	return 0;
}

static int keep(int dir_fd, unsigned n, struct error **err)
{
	char number[16];
	bool moved = false;

	snprintf(number, sizeof(number), "%u", n);
	_cleanup_close_ int all_fd = open_dir(dir_fd, "attempts", err);
	_cleanup_close_ int to_fd = all_fd < 0 ? -1 : open_dir(all_fd, number, err);

	if (to_fd < 0 || move_all(dir_fd, to_fd, &moved, err) < 0)
		return -1;
	if (!moved)
		return 0;
	if (sync_fd(to_fd, number, err) < 0 || sync_fd(all_fd, "attempts", err) < 0)
		return -1;
	return sync_fd(dir_fd, ".", err);
}

int attempt_files_keep(const char *job_dir, unsigned n, struct error **err)
{
	_cleanup_close_ int dir_fd = open(job_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir_fd < 0)
		return error_errno(err, errno, "%s", job_dir);
	if (keep(dir_fd, n, err) < 0)
		return error_wrap(err, "%s: keeping the files of attempt %u", job_dir, n);
	FAILPOINT("retry.moved");
	return 0;
}

int attempt_files_open(int dir_fd, unsigned n, bool is_last, const char *name, bool *ret_shared)
{
	char path[64];
	int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW;

	*ret_shared = false;
	snprintf(path, sizeof(path), "attempts/%u/%s", n, name);
	int fd = openat(dir_fd, path, flags);
	if (fd >= 0 || errno != ENOENT || !is_last)
		return fd;
	fd = openat(dir_fd, name, flags);
	*ret_shared = fd >= 0;
	if (fd >= 0 || errno != ENOENT)
		return fd;
	/* It may have gone between the two looks. */
	return openat(dir_fd, path, flags);
}

char *attempt_files_dir(const char *job_dir, unsigned n)
{
	_cleanup_free_ char *dir = str_printf("%s/attempts/%u", job_dir, n);

	return access(dir, F_OK) == 0 ? steal_ptr(dir) : xstrdup(job_dir);
}
