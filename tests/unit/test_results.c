#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "orchestrator/results.h"
#include "tests/unit/in_child.h"
#include "tests/unit/tree_records.h"

#define MAX_OUTPUTS 8

struct fixture {
	char dir[64]; /* the job's */
	Job__V1__Spec spec;
	Job__V1__Limits limits;
	Job__V1__Output outputs[MAX_OUTPUTS], *output_ptrs[MAX_OUTPUTS];
	struct results *results;
	struct results_artifacts artifacts;
	struct error *err;
	struct record_to to;
	uint64_t first_byte;
	unsigned first_bytes;
};

static int take(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	return results_record(((struct fixture *)arg)->results, record, err);
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/test_results.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	job__v1__spec__init(&f->spec);
	job__v1__limits__init(&f->limits);
	f->spec.image = (char *)(uintptr_t) "minimal";
	f->spec.outputs = f->output_ptrs;
	f->spec.limits = &f->limits;
	f->to = (struct record_to){take, f, &f->err};
	*state = f;
	return 0;
}

static void add_output(struct fixture *f, const char *path, bool optional)
{
	Job__V1__Output *output = &f->outputs[f->spec.n_outputs];

	assert_true(f->spec.n_outputs < MAX_OUTPUTS);
	job__v1__output__init(output);
	output->path = (char *)(uintptr_t)path;
	output->has_optional = output->optional = optional;
	f->output_ptrs[f->spec.n_outputs++] = output;
}

/* Begin an attempt (again). */
static void begin(struct fixture *f)
{
	results_close(f->results);
	results_artifacts_clear(&f->artifacts);
	error_free(steal_ptr(f->err));
	f->results = results_open(f->dir, &f->spec, &f->err);
	assert_non_null(f->results);
}

static int finish(struct fixture *f)
{
	return results_artifacts_finish(f->results, &f->artifacts, &f->err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	results_close(f->results);
	results_artifacts_clear(&f->artifacts);
	error_free(f->err);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static void assert_text(struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);
	_cleanup_free_ char *got = read_file(path, MIB, NULL, NULL);

	assert_non_null(got);
	assert_string_equal(got, text);
}

static bool exists(struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);
	struct stat st;

	return lstat(path, &st) == 0;
}

/* --- streams -----------------------------------------------------------------------------------*/

static int out(struct fixture *f, enum results_stream stream, const char *text)
{
	return results_output(f->results, stream, text, strlen(text), &f->err);
}

static void first_byte(void *arg, uint64_t usec)
{
	struct fixture *f = arg;

	f->first_byte = usec;
	f->first_bytes++;
}

static void streams_are_kept_apart_capped_and_counted(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *late = str_printf("%s/stdout", f->dir);
	struct job_result result = {0};

	f->limits.has_output_bytes = true;
	f->limits.output_bytes = 10;
	begin(f);
	_cleanup_close_ int reader = open(late, O_RDONLY | O_CLOEXEC); /* follows from the start */
	assert_true(reader >= 0);
	results_on_first_byte(f->results, first_byte, f);
	assert_int_equal(results_output(f->results, RESULTS_STDOUT, "", 0, &f->err), 0);
	assert_int_equal(f->first_bytes, 0);
	uint64_t before = now_real_usec();
	assert_int_equal(out(f, RESULTS_STDERR, "e"), 0);
	assert_in_range(f->first_byte, before, now_real_usec());
	assert_int_equal(out(f, RESULTS_STDOUT, "12345"), 0);
	assert_int_equal(out(f, RESULTS_STDOUT, "67890"), 0);
	assert_int_equal(f->first_bytes, 1);
	results_fill(f->results, &result);
	assert_false(result.stdout_truncated); /* just full */
	assert_int_equal(out(f, RESULTS_STDOUT, "beyond"), 0);
	assert_int_equal(out(f, RESULTS_STDERR, "123456789+++"), 0); /* across the cap */
	assert_int_equal(results_kept(f->results, RESULTS_STDOUT), 10);
	assert_int_equal(results_kept(f->results, RESULTS_STDERR), 10);
	assert_int_equal(results_sync(f->results, &f->err), 0);
	assert_text(f, "stdout", "1234567890");
	assert_text(f, "stderr", "e123456789");
	char buf[20];
	assert_int_equal(read(reader, buf, sizeof(buf)), 10);
	results_fill(f->results, &result);
	assert_int_equal(result.stdout_bytes, 16);
	assert_int_equal(result.stderr_bytes, 13);
	assert_true(result.stdout_truncated);
	assert_true(result.stderr_truncated);
}

static void binary_output_is_intact(void **state)
{
	struct fixture *f = *state;
	uint8_t all[256];
	_cleanup_free_ char *path = str_printf("%s/stdout", f->dir);
	size_t size;

	for (int i = 0; i < 256; i++)
		all[i] = (uint8_t)i;
	begin(f);
	assert_int_equal(results_output(f->results, RESULTS_STDOUT, all, sizeof(all), &f->err), 0);
	_cleanup_free_ char *got = read_file(path, MIB, &size, &f->err);
	assert_int_equal(size, 256);
	assert_memory_equal(got, all, 256);
}

static void the_guests_count_only_adds(void **state)
{
	struct fixture *f = *state;
	struct job_result result = {0};

	begin(f);
	assert_int_equal(out(f, RESULTS_STDOUT, "12345"), 0);
	assert_int_equal(out(f, RESULTS_STDERR, "12345"), 0);
	results_guest_counted(f->results, RESULTS_STDOUT, 3, false);   /* less than what came */
	results_guest_counted(f->results, RESULTS_STDERR, GIB, false); /* dropped, and no flag */
	results_fill(f->results, &result);
	assert_int_equal(result.stdout_bytes, 5);
	assert_false(result.stdout_truncated);
	assert_int_equal(result.stderr_bytes, GIB);
	assert_true(result.stderr_truncated);
	results_guest_counted(f->results, RESULTS_STDERR, UINT64_MAX, false);
	results_fill(f->results, &result);
	assert_true(result.stderr_bytes == INT64_MAX); /* not -1 in result.json */
	results_guest_counted(f->results, RESULTS_STDOUT, 5, true);
	results_fill(f->results, &result);
	assert_true(result.stdout_truncated);
}

static void an_absurd_cap_is_capped(void **state)
{
	struct fixture *f = *state;

	f->limits.has_output_bytes = true;
	f->limits.output_bytes = UINT64_MAX;
	begin(f);
	assert_int_equal(out(f, RESULTS_STDOUT, "x"), 0);
	f->limits.output_bytes = 0;
	begin(f);
	assert_int_equal(out(f, RESULTS_STDOUT, "x"), 0);
	assert_int_equal(results_kept(f->results, RESULTS_STDOUT), 0);
}

/* --- artifacts ---------------------------------------------------------------------------------*/

static void outputs_are_named_by_the_host(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;
	uint8_t digest[32];

	add_output(f, "/work/out/", false);
	add_output(f, "report.txt", false);
	add_output(f, "/other/out", false);
	add_output(f, "/", false);
	add_output(f, "x/..", false);
	add_output(f, "a\033b", false);
	add_output(f, "out-2", false);
	begin(f);
	assert_int_equal(put_dir(to, "0", 0755), 0);
	assert_int_equal(put_dir(to, "0/sub", 0755), 0);
	assert_int_equal(put_file(to, "0/sub/f", 0755, "deep"), 0);
	assert_int_equal(put_file(to, "1", 0644, "report"), 0);
	assert_int_equal(put_file(to, "2", 0644, "second out"), 0);
	assert_int_equal(put_file(to, "3", 0644, "root"), 0);
	assert_int_equal(put_file(to, "4", 0644, "dots"), 0);
	assert_int_equal(put_file(to, "5", 0644, "escape"), 0);
	assert_int_equal(put_file(to, "6", 0644, "taken"), 0);
	assert_false(exists(f, "artifacts")); /* not before all is there */
	assert_int_equal(finish(f), 0);
	assert_false(exists(f, "artifacts.partial"));
	assert_text(f, "artifacts/out/sub/f", "deep");
	assert_text(f, "artifacts/report.txt", "report");
	assert_text(f, "artifacts/out-2", "second out");
	assert_text(f, "artifacts/output-3", "root");
	assert_text(f, "artifacts/output-4", "dots");
	assert_text(f, "artifacts/output-5", "escape");
	assert_text(f, "artifacts/out-2-2", "taken");
	assert_null(f->artifacts.missing);
	assert_null(f->artifacts.skipped);
	assert_int_equal(f->artifacts.n_artifacts, 7);
	assert_int_equal(f->artifacts.bytes, 4 + 6 + 10 + 4 + 4 + 6 + 5);
	assert_string_equal(f->artifacts.artifacts[0].path, "out/sub/f");
	assert_int_equal(f->artifacts.artifacts[0].size, 4);
	crypto_hash_sha256(digest, (const uint8_t *)"deep", 4);
	assert_memory_equal(f->artifacts.artifacts[0].sha256, digest, 32);
	assert_int_equal(put_file(to, "1", 0644, "late"), -1);
}

static void undeclared_outputs_are_refused(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {"2", "-1", "00", "01", "", "/0", "0x", "..", "../0",
		"0/..", "0/../../x", "0//x", "18446744073709551616", "4294967296", "0\n", "x",
		"artifacts"};

	add_output(f, "a", true);
	add_output(f, "b", true);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		begin(f);
		assert_int_equal(put_dir(&f->to, "0", 0755), 0);
		assert_int_equal(put_head(&f->to, bad[i], 0644, 1), -1);
		assert_int_equal(f->err->code, ERR_INVALID);
		begin(f);
		assert_int_equal(put_missing(&f->to, bad[i], "x"), -1);
	}
	assert_string_equal(f->err->text,
		"artifacts: the guest sent \"artifacts\", which is no declared output");
	begin(f);
	assert_int_equal(put_file(&f->to, "0", 0644, "x"), 0);
	assert_int_equal(put_file(&f->to, "0", 0644, "y"), -1); /* twice */
	results_close(steal_ptr(f->results));			/* borrows the spec */
	f->spec.n_outputs = 0;
	begin(f);
	assert_int_equal(put_head(&f->to, "0", 0644, 1), -1);
}

static void missing_outputs_are_told(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;

	add_output(f, "/out/a", false);
	add_output(f, "/out/b", true);
	add_output(f, "/out/c", false);
	begin(f); /* optional ones may be missing; something below is skipped */
	assert_int_equal(put_dir(to, "0", 0755), 0);
	assert_int_equal(put_missing(to, "0/link", "is a symbolic link"), 0);
	assert_int_equal(put_missing(to, "0/fifo", "is a FIFO"), 0);
	assert_int_equal(put_missing(to, "1", "No such file or directory"), 0);
	assert_int_equal(put_file(to, "2", 0644, "x"), 0);
	assert_int_equal(finish(f), 0);
	assert_null(f->artifacts.missing);
	assert_string_equal(f->artifacts.skipped, "a/link: is a symbolic link, and 1 more");

	begin(f);
	assert_int_equal(put_missing(to, "0", "No such file\033"), 0);
	assert_int_equal(finish(f), 0); /* 2 was not even mentioned */
	assert_string_equal(f->artifacts.missing, "/out/a: No such file\\x1b, and 1 more");

	begin(f); /* taken back halfway */
	assert_int_equal(put_file(to, "0", 0644, "x"), 0);
	assert_int_equal(put_head(to, "2", 0644, 5), 0);
	assert_int_equal(put_missing(to, "2", "became shorter"), 0);
	assert_int_equal(finish(f), 0);
	assert_string_equal(f->artifacts.missing, "/out/c: became shorter");
	assert_text(f, "artifacts/a", "x");
	assert_false(exists(f, "artifacts/c"));

	begin(f); /* nothing at all came */
	assert_int_equal(finish(f), 0);
	assert_string_equal(f->artifacts.missing, "/out/a: the guest did not send it, and 1 more");
	assert_true(exists(f, "artifacts"));
}

static void a_failed_collection_stays_partial(void **state)
{
	struct fixture *f = *state;
	const struct record_to *to = &f->to;

	add_output(f, "out", false);
	begin(f);
	assert_int_equal(put_dir(to, "0", 0755), 0);
	assert_int_equal(put_file(to, "0/whole", 0644, "whole"), 0);
	assert_int_equal(put_head(to, "0/torn", 0644, 5), 0);
	assert_int_equal(put_chunk(to, "to", 2), 0);
	assert_int_equal(finish(f), -1);
	assert_int_equal(f->err->code, ERR_DATA_LOSS);
	assert_string_equal(f->err->text, "artifacts: out/torn: 2 of 5 bytes came, and no tail");
	assert_text(f, "artifacts.partial/out/whole", "whole");
	assert_false(exists(f, "artifacts.partial/out/torn"));
	assert_false(exists(f, "artifacts"));

	/* The next attempt starts clean. */
	begin(f);
	assert_false(exists(f, "artifacts.partial"));
	assert_int_equal(out(f, RESULTS_STDOUT, "first"), 0);
	assert_int_equal(put_file(to, "0", 0644, "x"), 0);
	assert_int_equal(finish(f), 0);
	assert_int_equal(results_write_json(f->dir, "{}\n", &f->err), 0);
	assert_text(f, "result.json", "{}\n");
	begin(f);
	assert_false(exists(f, "artifacts"));
	assert_false(exists(f, "result.json"));
	assert_text(f, "stdout", "");
}

static void the_quota_is_charged_before_the_write(void **state)
{
	struct fixture *f = *state;

	add_output(f, "out", false);
	add_output(f, "two", false);
	f->limits.has_artifact_bytes = true;
	f->limits.artifact_bytes = 8;
	begin(f);
	assert_int_equal(put_file(&f->to, "0", 0644, "12345"), 0);
	assert_int_equal(put_head(&f->to, "1", 0644, 4), -1);
	assert_int_equal(f->err->code, ERR_LIMIT);
	assert_string_equal(f->err->text, "artifacts: two: more than 8 bytes in all");
	assert_false(exists(f, "artifacts.partial/two"));
}

static void without_outputs_there_is_no_directory(void **state)
{
	struct fixture *f = *state;

	begin(f);
	assert_int_equal(finish(f), 0);
	assert_false(exists(f, "artifacts"));
	assert_int_equal(f->artifacts.n_artifacts, 0);
}

static void links_in_the_jobs_directory_are_not_followed(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *link = str_printf("%s/stdout", f->dir);

	assert_int_equal(symlink("/tmp/nowhere-of-test-results", link), 0);
	assert_null(results_open(f->dir, &f->spec, &f->err));
	assert_int_equal(access("/tmp/nowhere-of-test-results", F_OK), -1);
	assert_null(results_open("/nonexistent/job", &f->spec, &f->err));
	assert_int_equal(f->err->code, ERR_NOT_FOUND);
}

/* --- a full disk -------------------------------------------------------------------------------*/

/* In a child, because the mount namespace is the process's. The number says what went wrong. */
static int on_full_disk(void *arg)
{
	struct fixture *f = arg;
	_cleanup_free_ uint8_t *data = xcalloc(1, MIB);

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", f->dir, "tmpfs", 0, "size=128k") < 0)
		return CHILD_MAY_NOT;
	add_output(f, "out", false);
	begin(f);
	if (put_head(&f->to, "0", 0644, MIB) < 0)
		return 1;
	if (put_chunk(&f->to, data, MIB) == 0)
		return 2;
	if (f->err->code != ERR_LIMIT || !str_eq(f->err->text, "disk full while writing artifacts: "
							       "out: No space left on device"))
		return 3;
	if (!exists(f, "artifacts.partial"))
		return 4;
	error_free(steal_ptr(f->err));
	if (results_output(f->results, RESULTS_STDOUT, data, MIB, &f->err) < 0)
		return 5;
	uint64_t kept = results_kept(f->results, RESULTS_STDOUT);
	/* Room that comes later makes no hole in it. */
	_cleanup_free_ char *filler = str_printf("%s/artifacts.partial", f->dir);
	if (remove_tree(filler, NULL) < 0 ||
		results_output(f->results, RESULTS_STDOUT, data, 1, &f->err) < 0 ||
		results_kept(f->results, RESULTS_STDOUT) != kept)
		return 6;
	/* What fitted is there and the rest is flagged, and told before what was known. */
	struct job_result result = {.left_out = xstrdup("out/l: is a socket")};
	_cleanup_free_ char *told = str_printf(
		"stdout: disk full after %llu bytes; out/l: is a socket", (unsigned long long)kept);
	results_fill(f->results, &result);
	if (!kept || !result.stdout_truncated || result.stdout_bytes != MIB + 1 ||
		!str_eq(result.left_out, told))
		return 7;
	if (results_write_json(f->dir, "{\"more\": \"text\"}", &f->err) == 0)
		return 8;
	if (!strstr(f->err->text, "disk full while writing"))
		return 9;
	return exists(f, "result.json") ? 10 : 0;
}

static void a_full_disk_is_told_and_keeps_what_came(void **state)
{
	assert_in_child(on_full_disk, *state);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(streams_are_kept_apart_capped_and_counted),
		TEST(binary_output_is_intact),
		TEST(the_guests_count_only_adds),
		TEST(an_absurd_cap_is_capped),
		TEST(outputs_are_named_by_the_host),
		TEST(undeclared_outputs_are_refused),
		TEST(missing_outputs_are_told),
		TEST(a_failed_collection_stays_partial),
		TEST(the_quota_is_charged_before_the_write),
		TEST(without_outputs_there_is_no_directory),
		TEST(links_in_the_jobs_directory_are_not_followed),
		TEST(a_full_disk_is_told_and_keeps_what_came),
	};
	return cmocka_run_group_tests_name("results", tests, NULL, NULL);
}
