/* Removing a tree that somebody else may be changing meanwhile: a process of QEMU's user can write
 * in its VM's directory, and the daemon that removes it may be root.
 *
 * So no path is walked. A directory is opened by its name in a directory that is open already,
 * without following a link and without crossing a mount (openat2), and each name is removed within
 * the open directory it was read from: whatever is swapped for a link, the link is what goes.
 * Only the current directory is open, so a tree may be of any depth; the way back is "..", which
 * counts only if it is the very directory that we came from.
 *
 * What changes under our hands costs a further look, and there is a number of those.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/files.h"
#include "common/util.h"

#define MAX_SURPRISES 1000

struct level {
	dev_t dev;
	ino_t ino;
	char *name; /* owned; in the level above */
};

struct removal {
	int fd;		      /* the directory we are in */
	struct level *levels; /* owned; the way to it, the tree's top first */
	size_t n, room;
	unsigned surprises;
};

/* A name turned out to be something else than a moment ago. */
static int surprised(struct removal *r)
{
	if (++r->surprises <= MAX_SURPRISES)
		return 0;
	errno = EBUSY;
	return -1;
}

static int open_child(int dir, const char *name)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};

	return (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
}

/* Go into name. 0: done, or it is no directory any more; -1 with errno. */
static int descend(struct removal *r, int dir, const char *name)
{
	_cleanup_close_ int fd = open_child(dir, name);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EAGAIN
			       ? surprised(r)
			       : -1;
	if (fstat(fd, &st) < 0)
		return -1;
	if (r->n == r->room) {
		r->room = MAX(r->room * 2, (size_t)16);
		r->levels = xreallocarray(r->levels, r->room, sizeof(*r->levels));
	}
	r->levels[r->n++] = (struct level){st.st_dev, st.st_ino, xstrdup(name)};
	close_fd(&r->fd);
	r->fd = steal_fd(fd);
	return 0;
}

/* Remove name, whatever it is. 1: it is a directory with something in it. */
static int remove_name(int dir, const char *name)
{
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return -1;
	if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	/* ENOTDIR: not any more. Looking again is for the caller. */
	return errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR ? 1 : -1;
}

/* Remove what is in the current directory, up to the first directory that is not empty: 1, and its
 * name in *ret. 0: nothing is left. */
static int clear_current(struct removal *r, char **ret)
{
	/* Opened anew, for it may have been read before: a duplicate would share the position. */
	int fd = openat(r->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd); /* takes it */
	struct dirent *entry;
	int left = 0;

	if (!dir) {
		close_fd(&fd);
		return -1;
	}
	while (!left && (errno = 0, entry = readdir(dir))) {
		if (str_eq(entry->d_name, ".") || str_eq(entry->d_name, ".."))
			continue;
		left = remove_name(r->fd, entry->d_name);
		if (left > 0)
			*ret = xstrdup(entry->d_name);
	}
	int saved = errno;
	closedir(dir);
	errno = saved;
	return left ? left : saved ? -1 : 0;
}

/* Back to the level above, and remove the one we were in. 1: there; 0: it lies elsewhere by now. */
static int ascend(struct removal *r)
{
	const struct level *above = &r->levels[r->n - 2];
	_cleanup_close_ int fd = openat(r->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (st.st_dev != above->dev || st.st_ino != above->ino)
		return surprised(r);
	_cleanup_free_ char *name = r->levels[--r->n].name;
	close_fd(&r->fd);
	r->fd = steal_fd(fd);
	int left = remove_name(r->fd, name);
	return left < 0 || (left > 0 && surprised(r) < 0) ? -1 : 1;
}

/* 1: there is more to do; 0: the tree is empty, or we are no longer in it. */
static int step(struct removal *r)
{
	_cleanup_free_ char *child = NULL;
	int left = clear_current(r, &child);

	if (left < 0)
		return -1;
	if (left > 0)
		return descend(r, r->fd, child) < 0 ? -1 : 1;
	return r->n > 1 ? ascend(r) : 0;
}

static int remove_below(struct removal *r, int parent, const char *name)
{
	int left;

	while ((left = remove_name(parent, name)) > 0) {
		if (surprised(r) < 0 || descend(r, parent, name) < 0)
			left = -1;
		while (left > 0 && r->n)
			left = step(r);
		int saved = errno;
		while (r->n)
			free(r->levels[--r->n].name);
		close_fd(&r->fd);
		errno = saved;
		if (left < 0)
			break;
	}
	return left;
}

int remove_tree(const char *path, struct error **err)
{
	_cleanup_free_ char *trimmed = xstrdup(path);
	struct removal r = {.fd = -1};
	size_t n = strlen(trimmed);

	while (n > 1 && trimmed[n - 1] == '/')
		trimmed[--n] = 0;
	const char *slash = strrchr(trimmed, '/'), *name = slash ? slash + 1 : trimmed;
	if (!*name || str_eq(name, ".") || str_eq(name, ".."))
		return error_errno(err, EINVAL, "%s", path);
	_cleanup_free_ char *parent =
		slash ? xstrndup(trimmed, (size_t)(name - trimmed)) : xstrdup(".");
	_cleanup_close_ int fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
	int result = remove_below(&r, fd, name), saved = errno;
	free(r.levels);
	if (result == 0)
		return 0;
	if (r.surprises > MAX_SURPRISES)
		return error_set(
			err, ERR_ABORTED, "%s: changes all the time while it is removed", path);
	if (saved == EBUSY || saved == EXDEV)
		return error_set(err, ERR_STATE, "%s: something is mounted in it", path);
	return error_errno(err, saved, "%s", path);
}
