/* The sending end of a file tree: a walk that follows no link below its start.
 *
 * Names are opened one at a time, relative to the directory they were read from, so that nothing
 * outside can be reached whatever is renamed meanwhile. The start may be hostile too (a guest's
 * program made it): what is neither file nor directory is looked at before it is opened, and opened
 * without blocking in case it was swapped in between.
 */
#include "common/file_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/util.h"

struct walk {
	const struct tree_limits *limits; /* borrowed */
	const struct tree_sink *sink;	  /* borrowed */
	struct tree_totals *totals;	  /* borrowed */
	uint32_t entries;
};

/* --- records -----------------------------------------------------------------------------------*/

/* protobuf-c's structs have no const; the record is only read. */
static char *borrow(const char *s)
{
	return (char *)(uintptr_t)s;
}

static int emit_head(
	struct walk *w, const char *path, bool directory, const struct stat *st, struct error **err)
{
	Job__V1__FileHead head = JOB__V1__FILE_HEAD__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	head.path = borrow(path);
	head.type =
		directory ? JOB__V1__FILE_HEAD__TYPE__DIRECTORY : JOB__V1__FILE_HEAD__TYPE__REGULAR;
	head.mode = st->st_mode & 0777;
	head.size = directory ? 0 : (uint64_t)st->st_size;
	record.part_case = JOB__V1__FILE_RECORD__PART_HEAD;
	record.head = &head;
	return w->sink->emit(w->sink->arg, &record, err);
}

static int emit_chunk(struct walk *w, uint8_t *data, size_t n, struct error **err)
{
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	record.part_case = JOB__V1__FILE_RECORD__PART_CHUNK;
	record.chunk.data = data;
	record.chunk.len = n;
	return w->sink->emit(w->sink->arg, &record, err);
}

/* digest: NULL for none. */
static int emit_tail(struct walk *w, uint8_t *digest, struct error **err)
{
	Job__V1__FileTail tail = JOB__V1__FILE_TAIL__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	tail.has_sha256 = digest != NULL;
	tail.sha256.data = digest;
	tail.sha256.len = digest ? crypto_hash_sha256_BYTES : 0;
	record.part_case = JOB__V1__FILE_RECORD__PART_TAIL;
	record.tail = &tail;
	return w->sink->emit(w->sink->arg, &record, err);
}

static int emit_missing(struct walk *w, const char *path, const char *reason, struct error **err)
{
	Job__V1__FileMissing missing = JOB__V1__FILE_MISSING__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	missing.path = borrow(path);
	missing.reason = borrow(reason);
	record.part_case = JOB__V1__FILE_RECORD__PART_MISSING;
	record.missing = &missing;
	w->totals->missing++;
	return w->sink->emit(w->sink->arg, &record, err);
}

static int emit_missing_errno(struct walk *w, const char *path, int errnum, struct error **err)
{
	char buf[128];

	return emit_missing(w, path, strerror_r(errnum, buf, sizeof(buf)), err);
}

/* --- the walk ----------------------------------------------------------------------------------*/

static const char *why_not_sent(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFLNK:
		return "is a symbolic link";
	case S_IFIFO:
		return "is a FIFO";
	case S_IFSOCK:
		return "is a socket";
	case S_IFCHR:
	case S_IFBLK:
		return "is a device";
	default:
		return "is neither a regular file nor a directory";
	}
}

static uint32_t path_depth(const char *path)
{
	uint32_t depth = 0;

	while (*path) {
		size_t n = strcspn(path, "/");
		depth += n > 0;
		path += n + (path[n] == '/');
	}
	return depth;
}

/* Read up to n bytes, fewer only at the end of the file. -1 with errno. */
static ssize_t read_full(int fd, uint8_t *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = read(fd, buf + done, n - done);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -1;
		if (r == 0)
			break;
		done += (size_t)r;
	}
	return (ssize_t)done;
}

/* Exactly the bytes the head announces: what is appended meanwhile is left out, and a file that
 * became shorter is taken back by a missing record. */
static int send_file(
	struct walk *w, int fd, const char *path, const struct stat *st, struct error **err)
{
	uint64_t size = (uint64_t)st->st_size;
	uint8_t digest[crypto_hash_sha256_BYTES];
	crypto_hash_sha256_state hash;

	if (size > w->limits->bytes || w->totals->bytes > w->limits->bytes - size)
		return error_set(err, ERR_LIMIT, "%s: more than %llu bytes in all", path,
			(unsigned long long)w->limits->bytes);
	if (emit_head(w, path, false, st, err) < 0)
		return -1;
	crypto_hash_sha256_init(&hash);
	for (uint64_t left = size; left;) {
		size_t want = (size_t)MIN(left, (uint64_t)w->sink->chunk);
		uint8_t *data = w->sink->room(w->sink->arg, want, err);
		if (!data)
			return -1;
		ssize_t n = read_full(fd, data, want);
		if (n < 0)
			return emit_missing_errno(w, path, errno, err);
		if ((size_t)n < want)
			return emit_missing(w, path, "became shorter while it was read", err);
		if (!w->limits->no_digests)
			crypto_hash_sha256_update(&hash, data, want);
		if (emit_chunk(w, data, want, err) < 0)
			return -1;
		left -= want;
	}
	crypto_hash_sha256_final(&hash, digest);
	if (emit_tail(w, w->limits->no_digests ? NULL : digest, err) < 0)
		return -1;
	w->totals->files++;
	w->totals->bytes += size;
	return 0;
}

struct names {
	char **names;
	size_t n, room;
};

static void names_clear(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->names[i]);
	free(names->names);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All names in the directory, sorted: the same tree gives the same records. At most `cap`, which
 * stands before the allocations. 0; -1 with errno; ELOOP stands for "too many". */
static int read_names(DIR *dir, uint32_t cap, struct names *ret)
{
	const struct dirent *entry;

	while (errno = 0, entry = readdir(dir)) {
		if (str_eq(entry->d_name, ".") || str_eq(entry->d_name, ".."))
			continue;
		if (ret->n >= cap) {
			errno = ELOOP;
			return -1;
		}
		if (ret->n == ret->room) {
			ret->room = MAX(ret->room * 2, (size_t)32);
			ret->names = xreallocarray(ret->names, ret->room, sizeof(*ret->names));
		}
		ret->names[ret->n++] = xstrdup(entry->d_name);
	}
	if (errno)
		return -1;
	if (ret->n)
		qsort(ret->names, ret->n, sizeof(*ret->names), by_name);
	return 0;
}

static int send_entry(struct walk *w, int dir_fd, const char *open_path, const char *path,
	bool below, struct error **err);

/* One name of a directory. A name that cannot travel is told in its escaped form. */
static int send_child(
	struct walk *w, int dir_fd, const char *parent, const char *name, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", parent, name);

	if (tree_path_valid(name, 1))
		return send_entry(w, dir_fd, name, path, true, err);
	_cleanup_free_ char *shown = str_escape(name, strnlen(name, 60), false);
	_cleanup_free_ char *shown_path = str_printf("%s/%s", parent, shown);
	w->entries++;
	return emit_missing(w, shown_path, "its name has control characters or is not UTF-8", err);
}

static int too_many(const struct walk *w, struct error **err)
{
	return error_set(err, ERR_LIMIT, "more than %u files", w->limits->files);
}

static int send_directory(struct walk *w, int fd /* taken */, const char *path,
	const struct stat *st, struct error **err)
{
	__attribute__((cleanup(names_clear))) struct names names = {0};
	DIR *dir = fdopendir(fd);
	int r = 0;

	if (!dir) {
		int saved = errno;
		close(fd);
		return emit_missing_errno(w, path, saved, err);
	}
	if (read_names(dir, w->limits->files - MIN(w->limits->files, w->entries), &names) < 0)
		r = errno == ELOOP ? too_many(w, err) : emit_missing_errno(w, path, errno, err);
	else
		r = emit_head(w, path, true, st, err);
	for (size_t i = 0; !r && i < names.n; i++)
		r = send_child(w, dirfd(dir), path, names.names[i], err);
	closedir(dir);
	return r;
}

static int send_entry(struct walk *w, int dir_fd, const char *open_path, const char *path,
	bool below, struct error **err)
{
	int no_link = below ? AT_SYMLINK_NOFOLLOW : 0;
	struct stat st;

	if (++w->entries > w->limits->files)
		return too_many(w, err);
	if (path_depth(path) > w->limits->depth)
		return error_set(
			err, ERR_LIMIT, "%s: deeper than %u directories", path, w->limits->depth);
	if (strlen(path) > LIMIT_PATH)
		return error_set(
			err, ERR_LIMIT, "%.80s...: path of more than %d bytes", path, LIMIT_PATH);
	if (fstatat(dir_fd, open_path, &st, no_link) < 0)
		return emit_missing_errno(w, path, errno, err);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return emit_missing(w, path, why_not_sent(st.st_mode), err);
	_cleanup_close_ int fd = openat(dir_fd, open_path,
		O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (below ? O_NOFOLLOW : 0));
	if (fd < 0 || fstat(fd, &st) < 0)
		return emit_missing_errno(w, path, errno, err);
	if (S_ISDIR(st.st_mode))
		return send_directory(w, steal_fd(fd), path, &st, err);
	if (S_ISREG(st.st_mode))
		return send_file(w, fd, path, &st, err);
	return emit_missing(w, path, why_not_sent(st.st_mode), err);
}

int tree_send_to(int dir_fd, const char *path, const char *name, const struct tree_limits *limits,
	const struct tree_sink *sink, struct tree_totals *totals, struct error **err)
{
	struct walk w = {.limits = limits, .sink = sink, .totals = totals};

	return send_entry(&w, dir_fd, path, name, false, err);
}

/* A sink of whole records: the content is read to a place of ours. */
struct plain {
	tree_emit emit;
	void *arg;
	uint8_t *buf; /* borrowed; LIMIT_CHUNK bytes */
};

static int plain_emit(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	const struct plain *plain = arg;

	return plain->emit(plain->arg, record, err);
}

static uint8_t *plain_room(void *arg, size_t n, struct error **err)
{
	const struct plain *plain = arg;

	(void)n;
	(void)err;
	return plain->buf;
}

int tree_send(int dir_fd, const char *path, const char *name, const struct tree_limits *limits,
	tree_emit emit, void *arg, struct tree_totals *totals, struct error **err)
{
	_cleanup_free_ uint8_t *buf = xmalloc(LIMIT_CHUNK);
	struct plain plain = {.emit = emit, .arg = arg, .buf = buf};
	const struct tree_sink sink = {
		.emit = plain_emit, .room = plain_room, .chunk = LIMIT_CHUNK, .arg = &plain};

	return tree_send_to(dir_fd, path, name, limits, &sink, totals, err);
}
