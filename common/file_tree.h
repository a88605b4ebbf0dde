/* File trees as streams of typed records (job.v1.FileRecord), never as an archive.
 *
 * The receiver trusts nothing: paths are relative, without "." or "..", without control characters,
 * opened by openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS) below the given
 * directory, created with O_EXCL; regular files and directories only; count, depth, name length and
 * bytes are capped before anything is written; a file whose tail's digest does not match, or that
 * ends early, is an error. The sender walks without following links below its start, reads each
 * file once, and says `missing` for what it cannot read or what is no file or directory. A missing
 * record with the path of the file under way takes that file back: the sender lost it halfway.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "job.pb-c.h"

struct tree_limits {
	uint32_t files; /* entries, directories too */
	uint32_t depth;
	uint64_t bytes;
	/* Neither make digests nor ask for them: for the guest's end. The host makes its own of
	 * what arrives. */
	bool no_digests;
};

extern const struct tree_limits tree_limits_default; /* common/limits.h */

/* Sends one record; the record is borrowed. 0, or -1 with *err, which ends the walk. */
typedef int (*tree_emit)(void *arg, const Job__V1__FileRecord *record, struct error **err);

struct tree_totals {
	uint64_t files; /* regular files */
	uint64_t bytes;
	uint32_t missing;
};

/* Emit the file or directory at path (opened relative to dir_fd; AT_FDCWD is allowed; the path
 * itself may be a link, what is below it may not), calling it `name` in the records. Totals are
 * added to, and limits->bytes holds for totals->bytes, so for several trees. What cannot be read
 * becomes a missing record; -1 only when emit failed or a limit was passed. */
int tree_send(int dir_fd, const char *path, const char *name, const struct tree_limits *limits,
	tree_emit emit, void *arg, struct tree_totals *totals, struct error **err);

/* The same for a sink that says where content shall be read to: to where it leaves from. */
struct tree_sink {
	tree_emit emit;
	/* Room for a chunk of n bytes, at most `chunk`; NULL with *err. It is emitted next, or, if
	 * the file no longer has as many, not at all. */
	uint8_t *(*room)(void *arg, size_t n, struct error **err);
	size_t chunk;
	void *arg;
};
int tree_send_to(int dir_fd, const char *path, const char *name, const struct tree_limits *limits,
	const struct tree_sink *sink, struct tree_totals *totals, struct error **err);

struct tree_writer;

/* One finished entry; path is below the writer's directory, already checked. */
struct tree_entry {
	const char *path;
	bool directory;
	uint64_t size;
	uint8_t sha256[32]; /* zeros with limits.no_digests */
};

struct tree_writer_options {
	struct tree_limits limits;
	uid_t uid; /* owner of what is made; (uid_t)-1: leave */
	gid_t gid;
	mode_t mode_mask; /* permission bits kept, e.g. 0755; owner's rw(x for directories) is added
			   */
	/* Instead of refusing a head whose path is absolute, take it relative to the directory;
	 * parents that are not there are made, directories that are there are taken as they are,
	 * and links in the path are followed within the directory. For the worker, whose directory
	 * is the job's root and whose peer is the host.
	 */
	bool absolute;
	bool replace; /* an existing file is replaced rather than refused */
	/* On the disk when tree_writer_finish returns. The first files are synced one by one, what
	 * comes after them together with all else of the file system: dir_fd is then no O_PATH. */
	bool durable;
	/* All may be NULL. */
	void (*on_entry)(void *arg, const struct tree_entry *entry);
	void (*on_missing)(void *arg, const char *path, const char *reason);
	void *arg;
};

/* dir_fd is borrowed until the writer is freed. */
struct tree_writer *tree_writer_new(int dir_fd, const struct tree_writer_options *options);
/* Take one record of the peer's. Any -1 is final. ENOSPC comes as ERR_LIMIT "...No space left...".
 */
int tree_writer_record(
	struct tree_writer *writer, const Job__V1__FileRecord *record, struct error **err);
/* The stream ended properly: fails with ERR_DATA_LOSS if a file is unfinished. */
int tree_writer_finish(
	struct tree_writer *writer, struct tree_totals *ret_totals, struct error **err);
/* Removes an unfinished file. */
void tree_writer_free(struct tree_writer *writer);

/* Is this an acceptable relative path of a record? For callers that take paths apart. */
bool tree_path_valid(const char *path, uint32_t max_depth);
