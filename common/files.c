#include "common/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"

int write_all(int fd, const void *buf, size_t n)
{
	const char *p = buf;

	while (n) {
		ssize_t w = write(fd, p, n);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			return -1;
		}
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

char *read_file(const char *path, size_t cap, size_t *ret_size, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buf = NULL;
	size_t size = 0, room = 0;

	if (fd < 0) {
		error_errno(err, errno, "%s", path);
		return NULL;
	}
	for (;;) {
		if (room - size < 4096) {
			room = MAX(room * 2, (size_t)8192);
			buf = xreallocarray(buf, room, 1);
		}
		ssize_t r = read(fd, buf + size, room - size - 1);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			error_errno(err, errno, "%s", path);
			return NULL;
		}
		if (r == 0)
			break;
		size += (size_t)r;
		if (size > cap) {
			error_set(err, ERR_LIMIT, "%s: larger than %zu bytes", path, cap);
			return NULL;
		}
	}
	buf[size] = 0;
	if (ret_size)
		*ret_size = size;
	return steal_ptr(buf);
}

static int sync_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir =
		slash ? xstrndup(path, slash == path ? 1 : (size_t)(slash - path)) : xstrdup(".");
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -1 : fsync(fd);
}

int write_file(
	const char *path, const void *buf, size_t n, mode_t mode, bool durable, struct error **err)
{
	_cleanup_free_ char *tmp = str_printf("%s.XXXXXX", path);
	_cleanup_close_ int fd = mkostemp(tmp, O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	if (write_all(fd, buf, n) < 0 || fchmod(fd, mode) < 0 || (durable && fsync(fd) < 0) ||
		rename(tmp, path) < 0 || (durable && sync_parent(path) < 0)) {
		error_errno(err, errno, "%s", path);
		unlink(tmp);
		return -1;
	}
	return 0;
}

int make_dirs(const char *path, mode_t mode, struct error **err)
{
	_cleanup_free_ char *p = xstrdup(path);
	struct stat st;

	for (char *s = p + 1;; s++) {
		if (*s && *s != '/')
			continue;
		char c = *s;
		*s = 0;
		if (mkdir(p, mode) < 0 && errno != EEXIST)
			return error_errno(err, errno, "%s", p);
		*s = c;
		if (!c)
			break;
	}
	if (stat(path, &st) < 0)
		return error_errno(err, errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return error_errno(err, ENOTDIR, "%s", path);
	return 0;
}

int fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -1;
	return fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}
