/* Bytes to a sequence of file records, given to a writer in a directory of its own. Nothing may
 * appear outside the directory, and no cap may be passed.
 *
 * Each record: one byte kind, one byte of parameters, one byte length, that many bytes. A kind may
 * also plant a link, as a second writer in the same directory would.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "tests/unit/tree_records.h"

#define MAX_FILES 16
#define MAX_BYTES 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char top[] = "/tmp/fuzz_file_tree.XXXXXX";
static int top_fd = -1;

static void leave(void)
{
	remove_tree(top, NULL);
}

static void begin(void)
{
	if (top_fd >= 0)
		return;
	if (!mkdtemp(top) || (top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		abort();
	atexit(leave);
}

static int take(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	return tree_writer_record(arg, record, err);
}

/* The right digest of what came since the last head, so that files do get finished. */
struct content {
	uint8_t bytes[MAX_BYTES * 2];
	size_t n;
};

static int put_one(const struct record_to *to, struct content *content, int dir_fd, unsigned kind,
	unsigned param, const char *text, size_t n)
{
	switch (kind % 8) {
	case 0:
		content->n = 0;
		return put_head(to, text, param * 0x101, param % 64);
	case 1:
		return put_dir(to, text, param * 0x101);
	case 2:
		if (content->n + n <= sizeof(content->bytes)) {
			memcpy(content->bytes + content->n, text, n);
			content->n += n;
		}
		return put_chunk(to, text, n);
	case 3:
		return put_tail(to, content->bytes, content->n);
	case 4:
		return put_tail_raw(to, text, n);
	case 5:
		return put_missing(to, text, "reason \033");
	case 6:
		content->n = 0;
		return put_head_typed(to, text, (int)param, 0777, (uint64_t)param << (param % 60));
	default: {
		_cleanup_free_ char *name = xstrndup(text, strcspn(text, "/"));
		if (*name && symlinkat(param % 2 ? "../outside" : ".", dir_fd, name) < 0)
			return 0;
		return 0;
	}
	}
}

static unsigned count(int at, const char *name)
{
	DIR *dir = fdopendir(openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	unsigned n = 0;

	if (!dir)
		abort();
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct content content;
	_cleanup_error_ struct error *err = NULL;
	struct tree_totals totals;

	if (!size)
		return 0;
	begin();
	if (mkdirat(top_fd, "in", 0700) < 0 || mkdirat(top_fd, "outside", 0700) < 0)
		abort();
	int dir_fd = openat(top_fd, "in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct tree_writer_options options = {
		.limits = {.files = MAX_FILES, .depth = 4, .bytes = MAX_BYTES},
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0777,
		.absolute = data[0] & 1,
		.replace = data[0] & 2,
		.durable = false,
	};
	struct tree_writer *writer = tree_writer_new(dir_fd, &options);
	struct record_to to = {take, writer, &err};
	content.n = 0;
	for (size_t i = 1; i + 3 <= size;) {
		size_t n = MIN((size_t)data[i + 2], size - i - 3);
		_cleanup_free_ char *text = xstrndup((const char *)data + i + 3, n);
		if (put_one(&to, &content, dir_fd, data[i], data[i + 1], text, strlen(text)) < 0)
			break;
		i += 3 + n;
	}
	tree_writer_finish(writer, &totals, NULL);
	if (totals.files > MAX_FILES || totals.bytes > MAX_BYTES)
		abort();
	tree_writer_free(writer);
	close(dir_fd);
	if (count(top_fd, "outside") || count(top_fd, ".") != 2)
		abort();
	if (remove_tree(top, NULL) < 0 || mkdir(top, 0700) < 0)
		abort();
	close_fd(&top_fd);
	top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return 0;
}
