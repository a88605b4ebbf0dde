/* A hostile worker's outputs and file records, as messages, into one attempt's results: nothing is
 * written beside artifacts.partial/ and the two streams, and never more than the caps. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "orchestrator/results.h"
#include "tests/fuzz/fuzz.h"

#define CAP (2 * KIB)

static Job__V1__Spec *make_spec(void)
{
	static Job__V1__Limits limits = JOB__V1__LIMITS__INIT;
	static Job__V1__Output outputs[] = {JOB__V1__OUTPUT__INIT, JOB__V1__OUTPUT__INIT};
	static Job__V1__Output *list[] = {&outputs[0], &outputs[1]};
	static Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	static char image[] = "minimal", a[] = "/home/job/out", b[] = "log.txt";

	limits.has_output_bytes = limits.has_artifact_bytes = true;
	limits.output_bytes = limits.artifact_bytes = CAP;
	outputs[0].path = a;
	outputs[1].path = b;
	spec.image = image;
	spec.limits = &limits;
	spec.outputs = list;
	spec.n_outputs = 2;
	return &spec;
}

static uint64_t bytes_below(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	uint64_t bytes = 0;
	struct stat st;

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' && (!entry->d_name[1] || str_eq(entry->d_name, "..")))
			continue;
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			abort();
		must(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode), "neither file nor directory",
			entry->d_name);
		bytes +=
			S_ISDIR(st.st_mode) ? bytes_below(fd, entry->d_name) : (uint64_t)st.st_size;
	}
	if (dir)
		closedir(dir);
	return bytes;
}

static void check_job_dir(const char *job)
{
	static const char *const known[] = {
		".", "..", "stdout", "stderr", "artifacts", "artifacts.partial"};
	DIR *dir = opendir(job);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		size_t i = 0;
		while (i < ARRAY_SIZE(known) && !str_eq(known[i], entry->d_name))
			i++;
		must(i < ARRAY_SIZE(known), "beside the results", entry->d_name);
	}
	must(bytes_below(AT_FDCWD, job) <= 3 * CAP, "more than the caps", job);
	if (dir)
		closedir(dir);
}

/* Pieces: what it is, two bytes of length, the bytes. */
static void feed(struct results *results, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		_cleanup_error_ struct error *err = NULL;
		size_t n = MIN((size_t)(data[1] | data[2] << 8), size - 3);
		const uint8_t *piece = data + 3;
		int r = 0;

		if (data[0] & 2) {
			results_output(results, data[0] & 1, piece, n, &err);
		} else {
			Job__V1__FileRecord *record = job__v1__file_record__unpack(NULL, n, piece);
			if (record)
				r = results_record(results, record, &err);
			job__v1__file_record__free_unpacked(record, NULL);
		}
		if (r < 0)
			break;
		data += 3 + n;
		size -= 3 + n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *job;
	_cleanup_error_ struct error *err = NULL;
	struct results_artifacts artifacts = {0};

	if (!job) {
		atexit(fuzz_dir_remove);
		job = str_printf("%s/job", fuzz_dir());
	}
	if (mkdir(job, 0700) < 0)
		abort();
	struct results *results = results_open(job, make_spec(), &err);
	must(results != NULL, "open", err ? err->text : NULL);
	feed(results, data, size);
	check_job_dir(job);
	if (results_artifacts_finish(results, &artifacts, &err) == 0)
		must(artifacts.bytes <= CAP, "artifacts", job);
	check_job_dir(job);
	results_artifacts_clear(&artifacts);
	results_close(results);
	if (remove_tree(job, NULL) < 0)
		abort();
	return 0;
}
