#include "orchestrator/link_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/util.h"

#define COPY_STEP ((size_t)MIB)

struct place {
	int from, to; /* directories */
	unsigned depth;
	size_t *files;
};

static int copy_bytes(int from, int to)
{
	ssize_t n;

	while ((n = sendfile(to, from, NULL, COPY_STEP)) > 0)
		;
	return n < 0 ? -1 : fsync(to);
}

static int copy_file(const struct place *place, const char *name, mode_t mode)
{
	_cleanup_close_ int from =
		openat(place->from, name, O_RDONLY | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
	_cleanup_close_ int to =
		from < 0 ? -1
			 : openat(place->to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (to < 0 || copy_bytes(from, to) < 0)
		return -1;
	return fchmod(to, mode & 0777);
}

static int link_file(const struct place *place, const char *name, mode_t mode, struct error **err)
{
	++*place->files;
	if (linkat(place->from, name, place->to, name, 0) == 0)
		return 0;
	if ((errno == EPERM || errno == EMLINK || errno == EOPNOTSUPP) &&
		copy_file(place, name, mode) == 0)
		return 0;
	return error_errno(err, errno, "%s", name);
}

static int link_dir(const struct place *place, struct error **err);

static int link_below(const struct place *place, const char *name, mode_t mode, struct error **err)
{
	if (place->depth == LIMIT_TREE_DEPTH + 1)
		return error_set(err, ERR_LIMIT, "%s: too many levels of directories", name);
	/* Its owner may write while it is filled. */
	if (mkdirat(place->to, name, 0700) < 0)
		return error_errno(err, errno, "%s", name);
	int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	_cleanup_close_ int from = openat(place->from, name, flags);
	_cleanup_close_ int to = openat(place->to, name, flags);
	if (from < 0 || to < 0)
		return error_errno(err, errno, "%s", name);
	struct place below = {from, to, place->depth + 1, place->files};
	if (link_dir(&below, err) < 0)
		return error_wrap(err, "%s", name);
	return fchmod(to, mode & 0777) < 0 ? error_errno(err, errno, "%s", name) : 0;
}

static int link_entry(const struct place *place, const char *name, struct error **err)
{
	struct stat st;

	if (fstatat(place->from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, errno, "%s", name);
	if (S_ISDIR(st.st_mode))
		return link_below(place, name, st.st_mode, err);
	if (S_ISREG(st.st_mode))
		return link_file(place, name, st.st_mode, err);
	return error_set(err, ERR_DATA_LOSS, "%s: neither a file nor a directory", name);
}

static int link_dir(const struct place *place, struct error **err)
{
	int fd = fcntl(place->from, F_DUPFD_CLOEXEC, 0);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		close_fd(&fd);
		return error_errno(err, errno, "reading a directory");
	}
	while (r == 0 && (errno = 0, entry = readdir(dir))) {
		if (!str_eq(entry->d_name, ".") && !str_eq(entry->d_name, ".."))
			r = link_entry(place, entry->d_name, err);
	}
	if (r == 0 && errno)
		r = error_errno(err, errno, "reading a directory");
	closedir(dir);
	if (r == 0 && fsync(place->to) < 0)
		r = error_errno(err, errno, "writing a directory");
	return r;
}

int link_tree(const char *from, const char *to, size_t *ret_files, struct error **err)
{
	int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

	*ret_files = 0;
	_cleanup_close_ int from_fd = open(from, flags);
	if (from_fd < 0)
		return error_errno(err, errno, "%s", from);
	if (mkdir(to, 0700) < 0)
		return error_errno(err, errno, "%s", to);
	_cleanup_close_ int to_fd = open(to, flags);
	if (to_fd < 0)
		return error_errno(err, errno, "%s", to);
	struct place top = {from_fd, to_fd, 0, ret_files};
	return link_dir(&top, err) < 0 ? error_wrap(err, "%s", from) : 0;
}
