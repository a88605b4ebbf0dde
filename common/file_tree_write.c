/* The receiving end of a file tree: a state machine fed one record at a time.
 *
 *	idle --head of a directory--> idle
 *	idle --head of a file--> file --chunk--> file --tail--> idle
 *	                         file --missing, same path--> idle      (the sender lost it halfway)
 *	idle --missing--> idle
 *
 * Everything else is an error, and an error is final. The peer is hostile, so the order matters:
 * a path is checked as a string, then the caps are charged with what the head promises, and only
 * then is anything opened. The string checks are for good messages and for names that would
 * mislead a person; what holds the writer inside its directory is the kernel's own resolution
 * (openat2), which no race between check and use can pass.
 */
#include "common/file_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/limits.h"
#include "common/util.h"

#define REASON_BYTES 256 /* kept of the peer's text why a file is missing */
#define SYNC_EACH    16	 /* files that are synced one by one */

const struct tree_limits tree_limits_default = {
	.files = LIMIT_TREE_FILES,
	.depth = LIMIT_TREE_DEPTH,
	.bytes = DEFAULT_ARTIFACTS,
};

struct tree_writer {
	int dir_fd; /* borrowed: by the caller */
	struct tree_writer_options options;
	uint32_t entries; /* heads and missing records so far */
	uint64_t charged; /* bytes promised by heads so far */
	struct tree_totals totals;
	bool failed;

	/* The file being written; path is NULL between files. */
	char *path;	  /* owned */
	const char *leaf; /* its last component, within path */
	char *temp;	  /* owned; the name it is written under when it will replace another */
	int parent_fd;
	int fd;
	uint64_t size, done;
	mode_t mode;
	crypto_hash_sha256_state hash;

	/* Durable only: files synced by themselves, and files that still are to be; directories to
	 * be synced, by their paths. */
	unsigned synced, unsynced;
	char **dirs; /* owned */
	size_t n_dirs, room_dirs;
};

/* --- paths -----------------------------------------------------------------------------------*/

bool tree_path_valid(const char *path, uint32_t max_depth)
{
	size_t size = strlen(path);
	uint32_t depth = 0;

	if (!size || size > LIMIT_PATH)
		return false;
	_cleanup_free_ char *shown = str_escape(path, size, false);
	/* Escaped means: a control character, or no UTF-8. A tab is shown, but no name either. */
	if (!str_eq(shown, path) || strchr(path, '\t'))
		return false;
	for (const char *p = path;; p++) {
		size_t n = strcspn(p, "/");
		if (!n || n > LIMIT_NAME_BYTES || ++depth > max_depth)
			return false;
		if (p[0] == '.' && (n == 1 || (n == 2 && p[1] == '.')))
			return false;
		p += n;
		if (!*p)
			return true;
	}
}

/* The record's path below the writer's directory, owned by the caller; "" is the directory itself
 * (absolute mode only). NULL if it is not acceptable. */
static char *accepted_path(const struct tree_writer *w, const char *path)
{
	if (w->options.absolute) {
		size_t size;
		while (*path == '/')
			path++;
		for (size = strlen(path); size && path[size - 1] == '/'; size--)
			;
		if (size > LIMIT_PATH)
			return NULL;
		_cleanup_free_ char *trimmed = xstrndup(path, size);
		if (!size || tree_path_valid(trimmed, w->options.limits.depth))
			return steal_ptr(trimmed);
		return NULL;
	}
	return tree_path_valid(path, w->options.limits.depth) ? xstrdup(path) : NULL;
}

static int refuse_path(const char *path, struct error **err)
{
	_cleanup_free_ char *shown = str_escape(path, strnlen(path, 80), false);

	return error_set(err, ERR_INVALID, "path \"%s\" is not acceptable", shown);
}

/* Below the directory by the kernel's word. A root file system's own links (/bin -> usr/bin) are
 * followed where records come from the host, within the root; a guest's records follow none. */
static int open_beneath(const struct tree_writer *w, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)flags | O_CLOEXEC,
		.resolve = RESOLVE_NO_MAGICLINKS |
			   (w->options.absolute ? RESOLVE_IN_ROOT
						: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS),
	};
	int fd = -1;

	/* EAGAIN: something was renamed meanwhile, so the kernel could not be sure. */
	for (int i = 0; i < 64; i++) {
		fd = (int)syscall(SYS_openat2, w->dir_fd, *path ? path : ".", &how, sizeof(how));
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return fd;
}

/* --- directories -------------------------------------------------------------------------------*/

static void note_dir(struct tree_writer *w, const char *path, size_t n)
{
	if (!w->options.durable)
		return;
	for (size_t i = w->n_dirs; i-- > 0 && i + 4 > w->n_dirs;)
		if (strlen(w->dirs[i]) == n && !strncmp(w->dirs[i], path, n))
			return;
	if (w->n_dirs == w->room_dirs) {
		w->room_dirs = MAX(w->room_dirs * 2, (size_t)16);
		w->dirs = xreallocarray(w->dirs, w->room_dirs, sizeof(*w->dirs));
	}
	w->dirs[w->n_dirs++] = xstrndup(path, n);
}

static int give_owner_and_mode(const struct tree_writer *w, int fd, mode_t mode)
{
	/* The mode last: a change of owner takes bits away. */
	if ((w->options.uid != (uid_t)-1 || w->options.gid != (gid_t)-1) &&
		fchown(fd, w->options.uid, w->options.gid) < 0)
		return -1;
	return fchmod(fd, mode);
}

/* mkdir with owner and mode. EEXIST comes back untouched in errno. */
static int make_dir(const struct tree_writer *w, int parent_fd, const char *name, mode_t mode)
{
	if (mkdirat(parent_fd, name, 0700) < 0)
		return -1;
	_cleanup_close_ int fd =
		openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -1 : give_owner_and_mode(w, fd, mode);
}

/* mkdir -p of the first n bytes of path, for absolute mode. Returns the directory's fd, or -1. */
static int make_parents(struct tree_writer *w, const char *path, size_t n)
{
	_cleanup_close_ int at = open_beneath(w, "", O_PATH | O_DIRECTORY);

	for (size_t i = 0; at >= 0 && i < n;) {
		size_t len = strcspn(path + i, "/");
		_cleanup_free_ char *name = xstrndup(path + i, len);
		_cleanup_free_ char *prefix = xstrndup(path, i + len);
		int next = open_beneath(w, prefix, O_PATH | O_DIRECTORY);
		if (next < 0 && errno == ENOENT && !make_dir(w, at, name, 0755)) {
			note_dir(w, path, i ? i - 1 : 0);
			next = open_beneath(w, prefix, O_PATH | O_DIRECTORY);
		}
		close_fd(&at);
		at = next;
		i += len + 1;
	}
	return steal_fd(at);
}

/* The directory that path's last component is in: an fd, or -1 with *err. */
static int open_parent(
	struct tree_writer *w, const char *path, const char **ret_leaf, struct error **err)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	_cleanup_free_ char *parent = xstrndup(path, n);
	int fd = open_beneath(w, parent, O_PATH | O_DIRECTORY);

	if (fd < 0 && errno == ENOENT && w->options.absolute)
		fd = make_parents(w, path, n);
	if (fd < 0)
		return error_errno(err, errno, "%s", n ? parent : path);
	note_dir(w, path, n);
	*ret_leaf = slash ? slash + 1 : path;
	return fd;
}

static void report_entry(
	const struct tree_writer *w, const char *path, bool directory, const uint8_t *sha256)
{
	struct tree_entry entry = {.path = path, .directory = directory};

	if (!w->options.on_entry)
		return;
	if (!directory) {
		entry.size = w->done;
		memcpy(entry.sha256, sha256, sizeof(entry.sha256));
	}
	w->options.on_entry(w->options.arg, &entry);
}

static int take_directory(struct tree_writer *w, const char *path, mode_t mode, struct error **err)
{
	const char *leaf;
	struct stat st;

	if (!*path)
		return 0; /* the writer's own directory is there */
	_cleanup_close_ int parent = open_parent(w, path, &leaf, err);
	if (parent < 0)
		return -1;
	if (make_dir(w, parent, leaf, (mode & w->options.mode_mask & 0777) | 0700) < 0) {
		if (errno != EEXIST || !(w->options.absolute || w->options.replace))
			return error_errno(err, errno, "%s", path);
		_cleanup_close_ int fd = open_beneath(w, path, O_PATH | O_DIRECTORY);
		if (fd < 0 || fstat(fd, &st) < 0)
			return error_errno(err, errno, "%s", path);
	}
	note_dir(w, path, strlen(path));
	report_entry(w, path, true, NULL);
	return 0;
}

/* --- files -------------------------------------------------------------------------------------*/

/* Forget the open file, removing what there is of it. */
static void drop_file(struct tree_writer *w)
{
	if (!w->path)
		return;
	if (w->fd >= 0)
		unlinkat(w->parent_fd, w->temp ? w->temp : w->leaf, 0);
	close_fd(&w->fd);
	close_fd(&w->parent_fd);
	free(steal_ptr(w->temp));
	free(steal_ptr(w->path));
}

static int begin_file(struct tree_writer *w, char *path /* taken */, uint64_t size, mode_t mode,
	struct error **err)
{
	uint64_t random;

	w->path = path;
	w->size = size;
	w->done = 0;
	w->mode = (mode & w->options.mode_mask & 0777) | 0600;
	w->parent_fd = open_parent(w, path, &w->leaf, err);
	if (w->parent_fd < 0)
		return -1;
	if (w->options.replace) {
		/* Until it is whole, the file that is there stays. */
		random_bytes(&random, sizeof(random));
		w->temp = str_printf(".partial-%016llx", (unsigned long long)random);
	}
	w->fd = openat(w->parent_fd, w->temp ? w->temp : w->leaf,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600);
	if (w->fd < 0)
		return error_errno(err, errno, "%s", path);
	crypto_hash_sha256_init(&w->hash);
	return 0;
}

static int take_head(struct tree_writer *w, const Job__V1__FileHead *head, struct error **err)
{
	const struct tree_limits *limits = &w->options.limits;
	_cleanup_free_ char *path = accepted_path(w, head->path);

	if (w->path)
		return error_set(err, ERR_DATA_LOSS, "%s: ended before its tail came", w->path);
	if (!path)
		return refuse_path(head->path, err);
	if (++w->entries > limits->files)
		return error_set(err, ERR_LIMIT, "more than %u files", limits->files);
	switch (head->type) {
	case JOB__V1__FILE_HEAD__TYPE__DIRECTORY:
		return take_directory(w, path, head->mode, err);
	case JOB__V1__FILE_HEAD__TYPE__REGULAR:
		if (!*path)
			return refuse_path(head->path, err);
		if (head->size > limits->bytes - w->charged)
			return error_set(err, ERR_LIMIT, "%s: more than %llu bytes in all", path,
				(unsigned long long)limits->bytes);
		w->charged += head->size;
		return begin_file(w, steal_ptr(path), head->size, head->mode, err);
	default:
		return error_set(
			err, ERR_INVALID, "%s: neither a regular file nor a directory", path);
	}
}

static int take_chunk(struct tree_writer *w, const ProtobufCBinaryData *chunk, struct error **err)
{
	if (!w->path)
		return error_set(err, ERR_INVALID, "file content without a file");
	if (chunk->len > w->size - w->done)
		return error_set(err, ERR_INVALID, "%s: larger than the %llu bytes announced",
			w->path, (unsigned long long)w->size);
	if (!chunk->len)
		return 0;
	if (write_all(w->fd, chunk->data, chunk->len) < 0)
		return error_errno(err, errno, "%s", w->path);
	if (!w->options.limits.no_digests)
		crypto_hash_sha256_update(&w->hash, chunk->data, chunk->len);
	w->done += chunk->len;
	return 0;
}

/* Each fsync waits for a commit of the file system and for the disk's cache, some ms: for thousands
 * of files that is longer than all else. But where one is replaced, the new content is there before
 * its name. */
static int sync_file(struct tree_writer *w)
{
	if (!w->options.durable)
		return 0;
	if (w->temp || w->synced < SYNC_EACH) {
		w->synced++;
		return fsync(w->fd);
	}
	w->unsynced++;
	return 0;
}

/* Owner, mode, disk, name: in this order, so that a name stands only for a finished file. */
static int settle_file(struct tree_writer *w)
{
	if (give_owner_and_mode(w, w->fd, w->mode) < 0)
		return -1;
	if (sync_file(w) < 0)
		return -1;
	return w->temp ? renameat(w->parent_fd, w->temp, w->parent_fd, w->leaf) : 0;
}

/* What arrived, for the record; where the sender has a digest too, they must be the same. */
static int make_digest(struct tree_writer *w, const Job__V1__FileTail *tail,
	uint8_t ret[crypto_hash_sha256_BYTES], struct error **err)
{
	memset(ret, 0, crypto_hash_sha256_BYTES);
	if (w->options.limits.no_digests)
		return 0;
	crypto_hash_sha256_final(&w->hash, ret);
	if (tail->has_sha256 && (tail->sha256.len != crypto_hash_sha256_BYTES ||
					memcmp(tail->sha256.data, ret, tail->sha256.len) != 0))
		return error_set(err, ERR_DATA_LOSS, "%s: its digest does not match", w->path);
	return 0;
}

static int take_tail(struct tree_writer *w, const Job__V1__FileTail *tail, struct error **err)
{
	uint8_t digest[crypto_hash_sha256_BYTES];

	if (!w->path)
		return error_set(err, ERR_INVALID, "end of a file without a file");
	if (w->done != w->size)
		return error_set(err, ERR_DATA_LOSS, "%s: %llu of %llu bytes came", w->path,
			(unsigned long long)w->done, (unsigned long long)w->size);
	if (make_digest(w, tail, digest, err) < 0)
		return -1;
	if (settle_file(w) < 0)
		return error_errno(err, errno, "%s", w->path);
	/* On some file systems a full disk is only told here. The name goes too, then. */
	int fd = steal_fd(w->fd);
	if (close(fd) < 0 && errno != EINTR) {
		int saved = errno;
		unlinkat(w->parent_fd, w->leaf, 0);
		return error_errno(err, saved, "%s", w->path);
	}
	w->totals.files++;
	w->totals.bytes += w->done;
	report_entry(w, w->path, false, digest);
	drop_file(w); /* closed: nothing is removed */
	return 0;
}

static int take_missing(
	struct tree_writer *w, const Job__V1__FileMissing *missing, struct error **err)
{
	_cleanup_free_ char *path = accepted_path(w, missing->path);

	if (!path)
		return refuse_path(missing->path, err);
	if (w->path && !str_eq(path, w->path))
		return error_set(err, ERR_DATA_LOSS, "%s: ended before its tail came", w->path);
	if (w->path)
		drop_file(w);
	else if (++w->entries > w->options.limits.files)
		return error_set(err, ERR_LIMIT, "more than %u files", w->options.limits.files);
	w->totals.missing++;
	if (w->options.on_missing) {
		_cleanup_free_ char *reason =
			str_escape(missing->reason, strnlen(missing->reason, REASON_BYTES), false);
		w->options.on_missing(w->options.arg, path, reason);
	}
	return 0;
}

/* --- the writer --------------------------------------------------------------------------------*/

struct tree_writer *tree_writer_new(int dir_fd, const struct tree_writer_options *options)
{
	struct tree_writer *w = xcalloc(1, sizeof(*w));

	w->dir_fd = dir_fd;
	w->options = *options;
	w->fd = w->parent_fd = -1;
	return w;
}

static int take_record(struct tree_writer *w, const Job__V1__FileRecord *record, struct error **err)
{
	switch (record->part_case) {
	case JOB__V1__FILE_RECORD__PART_HEAD:
		return take_head(w, record->head, err);
	case JOB__V1__FILE_RECORD__PART_CHUNK:
		return take_chunk(w, &record->chunk, err);
	case JOB__V1__FILE_RECORD__PART_TAIL:
		return take_tail(w, record->tail, err);
	case JOB__V1__FILE_RECORD__PART_MISSING:
		return take_missing(w, record->missing, err);
	default:
		return error_set(err, ERR_INVALID, "file record without content");
	}
}

int tree_writer_record(
	struct tree_writer *writer, const Job__V1__FileRecord *record, struct error **err)
{
	if (writer->failed)
		return error_set(err, ERR_STATE, "file record after an error");
	if (take_record(writer, record, err) < 0) {
		writer->failed = true;
		drop_file(writer);
		return -1;
	}
	return 0;
}

int tree_writer_finish(
	struct tree_writer *writer, struct tree_totals *ret_totals, struct error **err)
{
	if (ret_totals)
		*ret_totals = writer->totals;
	if (writer->failed)
		return error_set(err, ERR_STATE, "end of files after an error");
	if (writer->path) {
		error_set(err, ERR_DATA_LOSS, "%s: %llu of %llu bytes came, and no tail",
			writer->path, (unsigned long long)writer->done,
			(unsigned long long)writer->size);
		writer->failed = true;
		drop_file(writer);
		return -1;
	}
	/* Its errors are those of all writes since dir_fd was opened. */
	if (writer->unsynced) {
		if (syncfs(writer->dir_fd) < 0)
			return error_errno(err, errno, "syncing the files");
		return 0;
	}
	for (size_t i = 0; i < writer->n_dirs; i++) {
		_cleanup_close_ int fd =
			open_beneath(writer, writer->dirs[i], O_RDONLY | O_DIRECTORY);
		if (fd < 0 || fsync(fd) < 0)
			return error_errno(err, errno, "%s", writer->dirs[i]);
	}
	return 0;
}

void tree_writer_free(struct tree_writer *writer)
{
	if (!writer)
		return;
	drop_file(writer);
	for (size_t i = 0; i < writer->n_dirs; i++)
		free(writer->dirs[i]);
	free(writer->dirs);
	free(writer);
}
