/* File records for tests, one call each. Whatever takes them is a tree_emit. */
#pragma once

#include <sodium.h>
#include <string.h>

#include "common/file_tree.h"
#include "common/util.h"

struct record_to {
	tree_emit take;
	void *arg;
	struct error **err;
};

static inline int put_head_typed(
	const struct record_to *to, const char *path, int type, uint32_t mode, uint64_t size)
{
	Job__V1__FileHead head = JOB__V1__FILE_HEAD__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	head.path = (char *)(uintptr_t)path;
	head.type = (Job__V1__FileHead__Type)type;
	head.mode = mode;
	head.size = size;
	record.part_case = JOB__V1__FILE_RECORD__PART_HEAD;
	record.head = &head;
	return to->take(to->arg, &record, to->err);
}

static inline int put_head(
	const struct record_to *to, const char *path, uint32_t mode, uint64_t size)
{
	return put_head_typed(to, path, JOB__V1__FILE_HEAD__TYPE__REGULAR, mode, size);
}

static inline int put_dir(const struct record_to *to, const char *path, uint32_t mode)
{
	return put_head_typed(to, path, JOB__V1__FILE_HEAD__TYPE__DIRECTORY, mode, 0);
}

static inline int put_chunk(const struct record_to *to, const void *data, size_t n)
{
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	record.part_case = JOB__V1__FILE_RECORD__PART_CHUNK;
	record.chunk.data = (uint8_t *)(uintptr_t)data;
	record.chunk.len = n;
	return to->take(to->arg, &record, to->err);
}

static inline int put_tail_raw(const struct record_to *to, const void *digest, size_t n)
{
	Job__V1__FileTail tail = JOB__V1__FILE_TAIL__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	tail.has_sha256 = true;
	tail.sha256.data = (uint8_t *)(uintptr_t)digest;
	tail.sha256.len = n;
	record.part_case = JOB__V1__FILE_RECORD__PART_TAIL;
	record.tail = &tail;
	return to->take(to->arg, &record, to->err);
}

/* The right tail for a file of these bytes. */
static inline int put_tail(const struct record_to *to, const void *data, size_t n)
{
	uint8_t digest[crypto_hash_sha256_BYTES];

	crypto_hash_sha256(digest, n ? data : "", n);
	return put_tail_raw(to, digest, sizeof(digest));
}

static inline int put_missing(const struct record_to *to, const char *path, const char *reason)
{
	Job__V1__FileMissing missing = JOB__V1__FILE_MISSING__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;

	missing.path = (char *)(uintptr_t)path;
	missing.reason = (char *)(uintptr_t)reason;
	record.part_case = JOB__V1__FILE_RECORD__PART_MISSING;
	record.missing = &missing;
	return to->take(to->arg, &record, to->err);
}

/* A whole file with this text. */
static inline int put_file(
	const struct record_to *to, const char *path, uint32_t mode, const char *text)
{
	size_t n = strlen(text);

	if (put_head(to, path, mode, n) < 0 || put_chunk(to, text, n) < 0)
		return -1;
	return put_tail(to, text, n);
}
