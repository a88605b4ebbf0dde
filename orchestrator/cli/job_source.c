/* Documents are told apart by their lines alone: YAML lets no content, not even a text of several
 * lines, have a line that begins with "---" and a blank. */
#include "orchestrator/cli/job_source.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/util.h"

static char *read_stdin(size_t *ret_size, struct error **err)
{
	_cleanup_free_ char *text = xmalloc(LIMIT_JOB_FILE + 2);
	size_t n = 0;

	while (n <= LIMIT_JOB_FILE) {
		ssize_t r = read(STDIN_FILENO, text + n, LIMIT_JOB_FILE + 1 - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			error_errno(err, errno, "reading the job from stdin");
			return NULL;
		}
		if (r == 0) {
			text[n] = '\0';
			*ret_size = n;
			return steal_ptr(text);
		}
		n += (size_t)r;
	}
	error_set(err, ERR_LIMIT, "-: larger than %zu bytes", (size_t)LIMIT_JOB_FILE);
	return NULL;
}

/* What can be read once only (stdin, a pipe of the shell's) may be asked for twice. */
static char *read_once(const char *path, size_t *ret_size, struct error **err)
{
	static char *first_path, *first_text;
	static size_t first_size;

	if (first_path && str_eq(first_path, path)) {
		*ret_size = first_size;
		return xmemdup(first_text, first_size + 1);
	}
	char *text = str_eq(path, "-") ? read_stdin(ret_size, err)
				       : read_file(path, LIMIT_JOB_FILE, ret_size, err);
	if (text && !first_path) {
		first_path = xstrdup(path);
		first_text = xmemdup(text, *ret_size + 1);
		first_size = *ret_size;
	}
	return text;
}

static bool is_marker(const char *line, const char *end)
{
	return end - line >= 3 && memcmp(line, "---", 3) == 0 &&
	       (end - line == 3 || strchr(" \t\r\n", line[3]));
}

static const char *line_end(const char *line, const char *end)
{
	const char *newline = memchr(line, '\n', (size_t)(end - line));

	return newline ? newline + 1 : end;
}

/* Where the line's content begins; its end when there is none but white space and a comment. */
static const char *content(const char *line, const char *end)
{
	while (line < end && strchr(" \t\r\n", *line))
		line++;
	return line < end && *line == '#' ? end : line;
}

static void add_document(struct job_source *source, const char *from, const char *to, unsigned line)
{
	struct job_document document = {
		.at = (size_t)(from - source->text), .size = (size_t)(to - from)};

	for (const char *at = from; at < to; at = line_end(at, to), line++) {
		const char *end = line_end(at, to);
		const char *begin = content(at + (at == from && is_marker(at, end) ? 3 : 0), end);

		if (begin == end)
			continue;
		document.line = line;
		document.column = (unsigned)(begin - at) + 1;
		source->documents =
			xreallocarray(source->documents, source->n + 1, sizeof(*source->documents));
		source->documents[source->n++] = document;
		return;
	}
}

static void find_documents(struct job_source *source)
{
	const char *end = source->text + source->size, *from = source->text;
	unsigned line = 1, from_line = 1;

	for (const char *at = source->text; at < end; at = line_end(at, end), line++) {
		if (at == source->text || !is_marker(at, line_end(at, end)))
			continue;
		add_document(source, from, at, from_line);
		from = at;
		from_line = line;
	}
	add_document(source, from, end, from_line);
}

struct job_source *job_source_read(const char *path, struct error **err)
{
	_cleanup_job_source_ struct job_source *source = xcalloc(1, sizeof(*source));

	source->name = xstrdup(path);
	source->text = read_once(path, &source->size, err);
	if (!source->text) {
		error_blame_caller(err);
		return NULL;
	}
	find_documents(source);
	return steal_ptr(source);
}

void job_source_free(struct job_source *source)
{
	if (!source)
		return;
	free(source->documents);
	free(source->name);
	free(source->text);
	free(source);
}

char *job_source_document(const struct job_source *source, size_t i)
{
	const struct job_document *document = &source->documents[i];
	size_t lines = 0;

	for (size_t at = 0; at < document->at; at++)
		lines += source->text[at] == '\n';
	char *text = xmalloc(lines + document->size + 1);
	memset(text, '\n', lines);
	memcpy(text + lines, source->text + document->at, document->size);
	text[lines + document->size] = '\0';
	return text;
}
