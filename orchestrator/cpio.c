#include "orchestrator/cpio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"

#define HEADER_SIZE 110
#define BLOCK	    512

static int put(struct cpio *cpio, const void *data, size_t n, struct error **err)
{
	if (write_all(cpio->fd, data, n) < 0)
		return error_errno(err, errno, "writing the archive");
	cpio->size += n;
	return 0;
}

static int pad(struct cpio *cpio, size_t to, struct error **err)
{
	static const char zeros[BLOCK];
	size_t over = (size_t)(cpio->size % to);

	return over ? put(cpio, zeros, to - over, err) : 0;
}

static int put_header(struct cpio *cpio, const char *name, mode_t mode, uint64_t size,
	unsigned major, unsigned minor, struct error **err)
{
	char header[HEADER_SIZE + 1];
	size_t name_size = strlen(name) + 1;
	bool trailer = mode == 0;

	if (size > UINT32_MAX)
		return error_set(err, ERR_LIMIT, "%s: too large for an initramfs", name);
	/* magic, inode, mode, uid, gid, links, mtime, size, device, the node's device, name size,
	 * checksum (not used in this form) */
	snprintf(header, sizeof(header),
		"070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		trailer ? 0 : cpio->next_inode++, (unsigned)mode, 0, 0, S_ISDIR(mode) ? 2 : 1, 0,
		(unsigned)size, 0, 0, major, minor, (unsigned)name_size, 0);
	if (put(cpio, header, HEADER_SIZE, err) < 0 || put(cpio, name, name_size, err) < 0)
		return -1;
	return pad(cpio, 4, err);
}

void cpio_start(struct cpio *cpio, int fd)
{
	*cpio = (struct cpio){.fd = fd, .next_inode = 1};
}

int cpio_add_dir(struct cpio *cpio, const char *name, mode_t mode, struct error **err)
{
	return put_header(cpio, name, S_IFDIR | mode, 0, 0, 0, err);
}

int cpio_add_char_device(struct cpio *cpio, const char *name, mode_t mode, unsigned major,
	unsigned minor, struct error **err)
{
	return put_header(cpio, name, S_IFCHR | mode, 0, major, minor, err);
}

int cpio_add_data(struct cpio *cpio, const char *name, mode_t mode, const void *data, size_t size,
	struct error **err)
{
	if (put_header(cpio, name, S_IFREG | mode, size, 0, 0, err) < 0 ||
		put(cpio, data, size, err) < 0)
		return -1;
	return pad(cpio, 4, err);
}

int cpio_add_file(
	struct cpio *cpio, const char *name, mode_t mode, const char *path, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buf = xmalloc(64 * KIB);
	struct stat st;
	uint64_t left;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERR_INVALID, "%s: not a regular file", path);
	if (put_header(cpio, name, S_IFREG | mode, (uint64_t)st.st_size, 0, 0, err) < 0)
		return -1;
	for (left = (uint64_t)st.st_size; left;) {
		ssize_t r = read(fd, buf, MIN(left, 64 * KIB));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return error_errno(err, errno, "%s", path);
		if (r == 0)
			return error_set(
				err, ERR_DATA_LOSS, "%s: became shorter while being read", path);
		if (put(cpio, buf, (size_t)r, err) < 0)
			return -1;
		left -= (uint64_t)r;
	}
	return pad(cpio, 4, err);
}

int cpio_finish(struct cpio *cpio, struct error **err)
{
	if (put_header(cpio, "TRAILER!!!", 0, 0, 0, 0, err) < 0)
		return -1;
	return pad(cpio, BLOCK, err);
}
