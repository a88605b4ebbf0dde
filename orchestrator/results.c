#include "orchestrator/results.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "common/failpoint.h"
#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/ballast.h"

#define PARTIAL "artifacts.partial"
#define FINAL	"artifacts"

struct stream {
	int fd;
	uint64_t cap;
	_Atomic uint64_t kept; /* in the file */
	uint64_t seen;	       /* came here, kept or not */
	uint64_t said;	       /* by the guest's count */
	bool truncated;
	bool disk_full; /* that is why */
};

/* One of the spec's outputs. */
struct output {
	char *name; /* owned; what it is called below artifacts/ */
	bool came;
	char *why; /* owned; NULL, or why it is missing */
};

struct results {
	const Job__V1__Spec *spec; /* borrowed: by the caller, until results_close() */
	char *job_dir;		   /* owned */
	int dir_fd;
	struct stream streams[RESULTS_STREAMS];
	void (*first_byte)(void *arg, uint64_t usec);
	void *first_byte_arg;

	struct output *outputs; /* owned; spec->n_outputs */
	int partial_fd;
	struct tree_writer *writer;	/* owned; NULL until the first record */
	struct job_artifact *artifacts; /* owned */
	size_t n_artifacts, room;
	char *skipped; /* owned; the first thing missing below an output */
	unsigned n_skipped;
	bool published;
};

static const char *const stream_names[] = {
	[RESULTS_STDOUT] = "stdout", [RESULTS_STDERR] = "stderr"};

/* --- errors ------------------------------------------------------------------------------------*/

static int write_error(struct error **err, int errnum, const char *what)
{
	if (errnum == ENOSPC || errnum == EDQUOT)
		return error_set(err, ERR_LIMIT, "disk full while writing %s", what);
	return error_errno(err, errnum, "writing %s", what);
}

static bool ends_with_errno(const char *text, int errnum)
{
	char buf[128];
	const char *end = strerror_r(errnum, buf, sizeof(buf));
	size_t n = strlen(text), m = strlen(end);

	return n >= m && str_eq(text + n - m, end);
}

/* The same for an error that a tree writer made. */
static int artifact_error(struct error **err)
{
	bool full =
		err && *err && (*err)->code == ERR_LIMIT &&
		(ends_with_errno((*err)->text, ENOSPC) || ends_with_errno((*err)->text, EDQUOT));

	return full ? error_wrap(err, "disk full while writing artifacts")
		    : error_wrap(err, "artifacts");
}

/* --- outputs and their names -------------------------------------------------------------------*/

static bool name_taken(const struct results *r, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(r->outputs[i].name, name))
			return true;
	return false;
}

/* The last component of a declared path, if that makes a name. */
static char *base_name(const char *path, size_t number)
{
	size_t end = strlen(path), start;

	while (end && path[end - 1] == '/')
		end--;
	for (start = end; start && path[start - 1] != '/'; start--)
		;
	_cleanup_free_ char *base = xstrndup(path + start, end - start);
	/* Room for a number that tells it from others. */
	if (strlen(base) <= LIMIT_NAME_BYTES - 8 && tree_path_valid(base, 1))
		return steal_ptr(base);
	return str_printf("output-%zu", number);
}

static void name_outputs(struct results *r)
{
	r->outputs = xcalloc(r->spec->n_outputs, sizeof(*r->outputs));
	for (size_t i = 0; i < r->spec->n_outputs; i++) {
		_cleanup_free_ char *base = base_name(r->spec->outputs[i]->path, i);
		char *name = xstrdup(base);
		for (unsigned k = 2; name_taken(r, i, name); k++) {
			free(name);
			name = str_printf("%s-%u", base, k);
		}
		r->outputs[i].name = name;
	}
}

/* "N" or "N/below": the output, and in *ret_path the path below artifacts/. */
static struct output *find_output(
	struct results *r, const char *path, char **ret_path, struct error **err)
{
	size_t digits = strspn(path, "0123456789"), number = 0;

	/* No leading zero, so that an output has one name only; few digits, so that nothing wraps.
	 */
	if (!digits || digits > 4 || (path[0] == '0' && digits > 1) ||
		(path[digits] && path[digits] != '/'))
		goto refuse;
	for (size_t i = 0; i < digits; i++)
		number = number * 10 + (size_t)(path[i] - '0');
	if (number >= r->spec->n_outputs)
		goto refuse;
	*ret_path = str_printf("%s%s", r->outputs[number].name, path + digits);
	return &r->outputs[number];
refuse:;
	_cleanup_free_ char *shown = str_escape(path, strnlen(path, 80), false);
	error_set(err, ERR_INVALID, "the guest sent \"%s\", which is no declared output", shown);
	return NULL;
}

/* --- opening and closing -----------------------------------------------------------------------*/

static uint64_t artifact_cap(const Job__V1__Spec *spec)
{
	uint64_t cap = spec->limits && spec->limits->has_artifact_bytes
			       ? spec->limits->artifact_bytes
			       : DEFAULT_ARTIFACTS;

	return MIN(cap, LIMIT_ARTIFACTS);
}

static uint64_t output_cap(const Job__V1__Spec *spec)
{
	uint64_t cap = spec->limits && spec->limits->has_output_bytes ? spec->limits->output_bytes
								      : DEFAULT_OUTPUT;

	return MIN(cap, LIMIT_OUTPUT);
}

static int remove_old(const struct results *r, struct error **err)
{
	static const char *const names[] = {PARTIAL, FINAL, "result.json"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", r->job_dir, names[i]);
		if (remove_tree(path, err) < 0)
			return error_wrap(err, "an earlier attempt's results");
	}
	return 0;
}

static int open_stream(struct results *r, enum results_stream which, bool again, struct error **err)
{
	struct stream *s = &r->streams[which];
	struct stat st;

	s->cap = output_cap(r->spec);
	/* Readers follow these files: they are emptied, not replaced. */
	s->fd = openat(r->dir_fd, stream_names[which],
		O_WRONLY | O_CREAT | (again ? 0 : O_TRUNC) | O_APPEND | O_NOFOLLOW | O_NOCTTY |
			O_CLOEXEC,
		0644);
	if (s->fd < 0 || fstat(s->fd, &st) < 0)
		return write_error(err, errno, stream_names[which]);
	s->kept = s->seen = (uint64_t)st.st_size;
	return s->kept <= s->cap
		       ? 0
		       : error_set(err, ERR_DATA_LOSS, "%s is longer than the job's output may be",
				 stream_names[which]);
}

static int open_all(struct results *r, bool again, struct error **err)
{
	r->dir_fd = open(r->job_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->dir_fd < 0)
		return error_errno(err, errno, "%s", r->job_dir);
	if (remove_old(r, err) < 0 || open_stream(r, RESULTS_STDOUT, again, err) < 0)
		return -1;
	return open_stream(r, RESULTS_STDERR, again, err);
}

static struct results *open_results(
	const char *job_dir, const Job__V1__Spec *spec, bool again, struct error **err)
{
	_cleanup_results_ struct results *r = xcalloc(1, sizeof(*r));

	r->spec = spec;
	r->job_dir = xstrdup(job_dir);
	r->dir_fd = r->partial_fd = -1;
	for (int i = 0; i < RESULTS_STREAMS; i++)
		r->streams[i].fd = -1;
	name_outputs(r);
	return open_all(r, again, err) < 0 ? NULL : steal_ptr(r);
}

struct results *results_open(const char *job_dir, const Job__V1__Spec *spec, struct error **err)
{
	return open_results(job_dir, spec, false, err);
}

struct results *results_reopen(const char *job_dir, const Job__V1__Spec *spec, struct error **err)
{
	return open_results(job_dir, spec, true, err);
}

static void free_artifacts(struct job_artifact *artifacts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(artifacts[i].path);
	free(artifacts);
}

void results_close(struct results *r)
{
	if (!r)
		return;
	tree_writer_free(r->writer);
	for (int i = 0; i < RESULTS_STREAMS; i++)
		close_fd(&r->streams[i].fd);
	close_fd(&r->partial_fd);
	close_fd(&r->dir_fd);
	for (size_t i = 0; r->outputs && i < r->spec->n_outputs; i++) {
		free(r->outputs[i].name);
		free(r->outputs[i].why);
	}
	free(r->outputs);
	free_artifacts(r->artifacts, r->n_artifacts);
	free(r->skipped);
	free(r->job_dir);
	free(r);
}

/* --- streams -----------------------------------------------------------------------------------*/

void results_on_first_byte(
	struct results *results, void (*first_byte)(void *arg, uint64_t usec), void *arg)
{
	results->first_byte = first_byte;
	results->first_byte_arg = arg;
}

/* As write_all(), but what did get written is counted even when the rest does not fit. */
static int keep(struct stream *s, const char *data, size_t n)
{
	/* What room there is is for the record (ballast.h). */
	if (n && ballast_is_given()) {
		errno = ENOSPC;
		return -1;
	}
	while (n) {
		ssize_t w = write(s->fd, data, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return -1;
		s->kept += (uint64_t)w;
		data += w;
		n -= (size_t)w;
	}
	return 0;
}

int results_output(struct results *r, enum results_stream stream, const void *data, size_t n,
	struct error **err)
{
	struct stream *s = &r->streams[stream];
	size_t room = (size_t)MIN((uint64_t)n, s->cap - s->kept);

	if (n && r->first_byte) {
		void (*first_byte)(void *, uint64_t) = r->first_byte;
		r->first_byte = NULL;
		first_byte(r->first_byte_arg, now_real_usec());
	}
	s->seen += n;
	if (room < n)
		s->truncated = true;
	FAILPOINT("output.write");
	if (!s->disk_full && keep(s, data, room) < 0) {
		s->truncated = true;
		if (errno != ENOSPC && errno != EDQUOT)
			return write_error(err, errno, stream_names[stream]);
		/* As beyond the cap: the job may be worth more than its words. */
		s->disk_full = true;
	}
	FAILPOINT("output.written");
	return 0;
}

void results_guest_counted(
	struct results *r, enum results_stream stream, uint64_t bytes, bool truncated)
{
	struct stream *s = &r->streams[stream];

	/* The guest's number; JSON's integers are signed. */
	s->said = MIN(bytes, (uint64_t)INT64_MAX);
	if (truncated || bytes > s->kept)
		s->truncated = true;
}

uint64_t results_kept(const struct results *r, enum results_stream stream)
{
	return r->streams[stream].kept;
}

/* "stdout: disk full after 17 bytes", before what is told already. */
static void add_disk_full(const struct results *r, enum results_stream stream, char **text)
{
	const struct stream *s = &r->streams[stream];
	char *rest = *text;

	if (!s->disk_full)
		return;
	*text = str_printf("%s: disk full after %llu bytes%s%s", stream_names[stream],
		(unsigned long long)s->kept, rest ? "; " : "", rest ? rest : "");
	free(rest);
}

void results_fill(const struct results *r, struct job_result *result)
{
	const struct stream *out = &r->streams[RESULTS_STDOUT], *errs = &r->streams[RESULTS_STDERR];

	result->stdout_bytes = MAX(out->seen, out->said);
	result->stderr_bytes = MAX(errs->seen, errs->said);
	result->stdout_truncated = out->truncated;
	result->stderr_truncated = errs->truncated;
	add_disk_full(r, RESULTS_STDERR, &result->left_out);
	add_disk_full(r, RESULTS_STDOUT, &result->left_out);
}

/* --- artifacts ---------------------------------------------------------------------------------*/

static void on_entry(void *arg, const struct tree_entry *entry)
{
	struct results *r = arg;

	if (entry->directory)
		return;
	/* At most LIMIT_TREE_FILES: the writer counts. */
	if (r->n_artifacts == r->room) {
		r->room = MAX(r->room * 2, (size_t)16);
		r->artifacts = xreallocarray(r->artifacts, r->room, sizeof(*r->artifacts));
	}
	struct job_artifact *artifact = &r->artifacts[r->n_artifacts++];
	artifact->path = xstrdup(entry->path);
	artifact->size = entry->size;
	memcpy(artifact->sha256, entry->sha256, sizeof(artifact->sha256));
}

static void on_missing(void *arg, const char *path, const char *reason)
{
	struct results *r = arg;

	for (size_t i = 0; i < r->spec->n_outputs; i++) {
		struct output *output = &r->outputs[i];
		if (!str_eq(output->name, path))
			continue;
		free(output->why);
		output->why = xstrdup(reason);
		output->came = false;
		return;
	}
	if (!r->n_skipped++)
		r->skipped = str_printf("%s: %s", path, reason);
}

static int begin_artifacts(struct results *r, struct error **err)
{
	if (r->writer)
		return 0;
	if (mkdirat(r->dir_fd, PARTIAL, 0755) < 0)
		return write_error(err, errno, PARTIAL);
	r->partial_fd = openat(r->dir_fd, PARTIAL, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r->partial_fd < 0)
		return error_errno(err, errno, "%s", PARTIAL);
	struct tree_writer_options options = {
		.limits = tree_limits_default,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0755,
		.durable = true,
		.on_entry = on_entry,
		.on_missing = on_missing,
		.arg = r,
	};
	options.limits.bytes = artifact_cap(r->spec);
	r->writer = tree_writer_new(r->partial_fd, &options);
	return 0;
}

/* The record with the host's name in the place of the output's number. */
static int take_named(
	struct results *r, const Job__V1__FileRecord *record, const char *path, struct error **err)
{
	Job__V1__FileRecord named = *record;
	char *mapped = NULL;
	struct output *output = find_output(r, path, &mapped, err);
	_cleanup_free_ char *owner = mapped;

	if (!output)
		return -1;
	if (record->part_case == JOB__V1__FILE_RECORD__PART_HEAD) {
		Job__V1__FileHead head = *record->head;
		head.path = mapped;
		named.head = &head;
		if (tree_writer_record(r->writer, &named, err) < 0)
			return -1;
		if (str_eq(mapped, output->name))
			output->came = true;
		return 0;
	}
	Job__V1__FileMissing missing = *record->missing;
	missing.path = mapped;
	named.missing = &missing;
	return tree_writer_record(r->writer, &named, err);
}

int results_record(struct results *r, const Job__V1__FileRecord *record, struct error **err)
{
	const char *path = record->part_case == JOB__V1__FILE_RECORD__PART_HEAD ? record->head->path
			   : record->part_case == JOB__V1__FILE_RECORD__PART_MISSING
				   ? record->missing->path
				   : NULL;

	if (r->published)
		return error_set(err, ERR_STATE, "file record after the end of the artifacts");
	if (ballast_is_given())
		return write_error(err, ENOSPC, "artifacts");
	if (begin_artifacts(r, err) < 0)
		return -1;
	if ((path ? take_named(r, record, path, err) : tree_writer_record(r->writer, record, err)) <
		0)
		return artifact_error(err);
	return 0;
}

/* One line about the first required output that did not come. */
static char *tell_missing(const struct results *r)
{
	const struct output *first = NULL;
	const char *path = NULL;
	unsigned others = 0;

	for (size_t i = 0; i < r->spec->n_outputs; i++) {
		const Job__V1__Output *declared = r->spec->outputs[i];
		if (r->outputs[i].came || (declared->has_optional && declared->optional))
			continue;
		if (first) {
			others++;
			continue;
		}
		first = &r->outputs[i];
		path = declared->path;
	}
	if (!first)
		return NULL;
	_cleanup_free_ char *shown = str_escape(path, strlen(path), false);
	const char *why = first->why ? first->why : "the guest did not send it";
	return others ? str_printf("%s: %s, and %u more", shown, why, others)
		      : str_printf("%s: %s", shown, why);
}

static int publish(struct results *r, struct error **err)
{
	/* The directory's own entry is written down by results_sync(). */
	if (renameat(r->dir_fd, PARTIAL, r->dir_fd, FINAL) < 0)
		return write_error(err, errno, FINAL);
	FAILPOINT("outputs.renamed");
	r->published = true;
	return 0;
}

int results_artifacts_finish(struct results *r, struct results_artifacts *ret, struct error **err)
{
	struct tree_totals totals = {0};

	memset(ret, 0, sizeof(*ret));
	if (!r->spec->n_outputs && !r->writer)
		return 0;
	if (r->published)
		return error_set(err, ERR_STATE, "artifacts were published already");
	if (begin_artifacts(r, err) < 0)
		return -1;
	if (tree_writer_finish(r->writer, &totals, err) < 0)
		return artifact_error(err);
	if (publish(r, err) < 0)
		return -1;
	ret->bytes = totals.bytes;
	ret->n_artifacts = r->n_artifacts;
	ret->artifacts = steal_ptr(r->artifacts);
	r->n_artifacts = 0;
	ret->missing = tell_missing(r);
	if (r->n_skipped > 1)
		ret->skipped = str_printf("%s, and %u more", r->skipped, r->n_skipped - 1);
	else
		ret->skipped = steal_ptr(r->skipped);
	return 0;
}

void results_artifacts_clear(struct results_artifacts *artifacts)
{
	free_artifacts(artifacts->artifacts, artifacts->n_artifacts);
	free(artifacts->missing);
	free(artifacts->skipped);
	memset(artifacts, 0, sizeof(*artifacts));
}

/* --- the disk ----------------------------------------------------------------------------------*/

int results_sync(struct results *r, struct error **err)
{
	for (int i = 0; i < RESULTS_STREAMS; i++)
		if (fsync(r->streams[i].fd) < 0)
			return write_error(err, errno, stream_names[i]);
	if (fsync(r->dir_fd) < 0)
		return write_error(err, errno, r->job_dir);
	return 0;
}

int results_write_json(const char *job_dir, const char *text, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/result.json", job_dir);
	_cleanup_error_ struct error *cause = NULL;

	if (!write_file(path, text, strlen(text), 0644, true, &cause))
		return 0;
	if (cause->code == ERR_LIMIT && ends_with_errno(cause->text, ENOSPC))
		return error_set(err, ERR_LIMIT, "disk full while writing %s", path);
	return error_move(err, steal_ptr(cause));
}
