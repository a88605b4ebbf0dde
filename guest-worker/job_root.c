#include "guest-worker/job_root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/util.h"

int job_root_init(const char *path, const char *workdir, struct job_root *ret, struct error **err)
{
	ret->path = path;
	ret->workdir = workdir;
	ret->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ret->fd < 0)
		return error_errno(err, errno, "root of the jobs, %s", path);
	return 0;
}

int job_root_open(const struct job_root *root, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	/* EAGAIN: a rename beside us kept the kernel from being sure. A job that renames for ever
	 * gets an error, not our time. */
	for (int tries = 0; tries < 64; tries++) {
		fd = syscall(SYS_openat2, root->fd, path, &how, sizeof(how));
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return (int)fd;
}

char *job_root_read(const struct job_root *root, const char *path, size_t cap)
{
	_cleanup_close_ int fd = job_root_open(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 0 ||
		(size_t)st.st_size > cap)
		return NULL;

	size_t size = (size_t)st.st_size, got = 0;
	_cleanup_free_ char *buf = xmalloc(size + 1);
	while (got < size) {
		ssize_t n = read(fd, buf + got, size - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	buf[got] = 0;
	return steal_ptr(buf);
}
