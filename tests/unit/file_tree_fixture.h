/* For the tests of both ends of a file tree: directories, a writer, and what it reported. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "common/limits.h"
#include "tests/unit/tree_records.h"

/* A directory of its own per test: src/ to send from, dst/ to write to, out/ that stays empty. */
struct fixture {
	char dir[64];
	int src, dst;
	struct tree_writer_options options;
	struct tree_writer *writer;
	struct error *err;
	struct record_to to; /* the writer */
	char *missing;	     /* "path: reason\n" of all missing records */
	char *entries;	     /* "path size\n" of all entries, "path/\n" for directories */
	void (*on_emit)(struct fixture *f, const Job__V1__FileRecord *record);
	unsigned emitted;
};

static inline void append(char **text, char *more)
{
	char *all = str_printf("%s%s", *text ? *text : "", more);

	free(*text);
	free(more);
	*text = all;
}

static inline void on_missing(void *arg, const char *path, const char *reason)
{
	append(&((struct fixture *)arg)->missing, str_printf("%s: %s\n", path, reason));
}

static inline void on_entry(void *arg, const struct tree_entry *entry)
{
	struct fixture *f = arg;

	append(&f->entries, entry->directory ? str_printf("%s/\n", entry->path)
					     : str_printf("%s %llu\n", entry->path,
						       (unsigned long long)entry->size));
}

static inline int take(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	struct fixture *f = arg;

	f->emitted++;
	if (f->on_emit)
		f->on_emit(f, record);
	return tree_writer_record(f->writer, record, err);
}

/* Begin (again) with f->options. */
static inline void writer_start(struct fixture *f)
{
	tree_writer_free(f->writer);
	error_free(steal_ptr(f->err));
	f->writer = tree_writer_new(f->dst, &f->options);
}

static inline int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	umask(022);
	strcpy(f->dir, "/tmp/test_file_tree.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(chmod(f->dir, 0755), 0);
	_cleanup_close_ int dir = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(dir, "src", 0755), 0);
	assert_int_equal(mkdirat(dir, "dst", 0755), 0);
	assert_int_equal(mkdirat(dir, "out", 0755), 0);
	f->src = openat(dir, "src", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->dst = openat(dir, "dst", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->options = (struct tree_writer_options){
		.limits = tree_limits_default,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0755,
		.on_entry = on_entry,
		.on_missing = on_missing,
		.arg = f,
	};
	f->to = (struct record_to){take, f, &f->err};
	writer_start(f);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	tree_writer_free(f->writer);
	error_free(f->err);
	close_fd(&f->src);
	close_fd(&f->dst);
	free(f->missing);
	free(f->entries);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static inline void make_file(int dir_fd, const char *path, const void *data, size_t n, mode_t mode)
{
	_cleanup_close_ int fd =
		openat(dir_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, data, n), 0);
	assert_int_equal(fchmod(fd, mode), 0);
}

static inline void assert_file(int dir_fd, const char *path, const char *text, mode_t mode)
{
	char buf[256] = {0};
	struct stat st;
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
	assert_string_equal(buf, text);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
}

static inline bool exists(int dir_fd, const char *path)
{
	struct stat st;

	return fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Entries of one of the fixture's directories. */
static inline unsigned count_entries(const char *dir, const char *sub)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, sub);
	DIR *d = opendir(path);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}
