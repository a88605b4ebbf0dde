/* files_bench IMAGE DIR: files into a VM that is up and home again, for tests/bench/bench-files.
 * DIR is an empty directory to work in. Says "ready", then answers each line of its input by one
 * line of two numbers: how long that took in ms, and how much of the time QEMU had a processor.
 *
 *   raw-in, raw-out    100 MiB over the vsock without gRPC: the floor
 *   in, out            one file of 100 MiB as a job's input, as its output
 *   many-in, many-out  1000 files of 1 KiB
 *
 * What comes out is what went in before. The VM is that of `orchestrator bench`, the calls are
 * those of a job, and its files are made durable like a job's. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/files.h"
#include "common/limits.h"
#include "common/rpc.h"
#include "common/util.h"
#include "orchestrator/bench_vm.h"
#include "orchestrator/config.h"
#include "orchestrator/results.h"

#define BIG   (100 * MIB)
#define MANY  1000
#define SMALL 1024
#define DEST  "/home/job/files"
#define PIECE (64 * KIB)

struct bench {
	struct bench_vm *vm;
	struct guest *guest;
	int raw;
	const char *dir;
};

/* A job whose one input goes to where its one output comes from. */
struct job {
	Job__V1__Spec spec;
	Job__V1__Input input, *inputs[1];
	Job__V1__Output output, *outputs[1];
	char path[sizeof(DEST "/big")], image[2];
};

static void job_init(struct job *job, bool many)
{
	*job = (struct job){.spec = JOB__V1__SPEC__INIT,
		.input = JOB__V1__INPUT__INIT,
		.output = JOB__V1__OUTPUT__INIT,
		.image = "x"};
	snprintf(job->path, sizeof(job->path), DEST "%s", many ? "/all" : "/big");
	job->input.src = job->image;
	job->input.dest = job->output.path = job->path;
	job->inputs[0] = &job->input;
	job->outputs[0] = &job->output;
	job->spec.image = job->image;
	job->spec.inputs = job->inputs;
	job->spec.outputs = job->outputs;
	job->spec.n_inputs = job->spec.n_outputs = 1;
}

/* DIR/big/0 and DIR/many/0/: the inputs, as the daemon has them. */
static int make_inputs(const char *dir, struct error **err)
{
	_cleanup_free_ char *big = str_printf("%s/big", dir);
	_cleanup_free_ char *many = str_printf("%s/many/0", dir);
	_cleanup_free_ char *file = str_printf("%s/0", big);
	_cleanup_free_ uint8_t *data = xmalloc(BIG);

	random_bytes(data, BIG);
	if (make_dirs(big, 0700, err) < 0 || make_dirs(many, 0700, err) < 0 ||
		write_file(file, data, BIG, 0644, false, err) < 0)
		return -1;
	for (unsigned i = 0; i < MANY; i++) {
		_cleanup_free_ char *path = str_printf("%s/%u", many, i);
		if (write_file(path, data + i * SMALL, SMALL, 0644, false, err) < 0)
			return -1;
	}
	return 0;
}

static int put(const struct bench *b, bool many, struct error **err)
{
	_cleanup_free_ char *dir = str_printf("%s/%s", b->dir, many ? "many" : "big");
	struct job job;

	job_init(&job, many);
	return guest_put_inputs(b->guest, &job.spec, dir, err);
}

static int take(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	return results_record(arg, record, err);
}

static int get(const struct bench *b, bool many, struct error **err)
{
	_cleanup_free_ char *dir = str_printf("%s/job", b->dir);
	struct results_artifacts got = {0};
	struct job job;

	job_init(&job, many);
	if (make_dirs(dir, 0700, err) < 0)
		return -1;
	_cleanup_results_ struct results *results = results_open(dir, &job.spec, err);
	if (!results || guest_get_outputs(b->guest, &job.spec, take, results, err) < 0 ||
		results_artifacts_finish(results, &got, err) < 0)
		return -1;
	bool whole = got.bytes == (many ? MANY * SMALL : BIG);
	results_artifacts_clear(&got);
	return whole ? 0 : error_set(err, ERR_DATA_LOSS, "not all files came");
}

static int raw(const struct bench *b, bool in, struct error **err)
{
	uint8_t request[BENCH_RAW_REQUEST] = {in ? 'S' : 'R'};
	_cleanup_free_ uint8_t *piece = xcalloc(1, PIECE);
	uint64_t count = htole64(BIG);

	memcpy(request + 1, &count, sizeof(count));
	if (write_all(b->raw, request, sizeof(request)) < 0)
		return error_errno(err, errno, "raw request");
	for (uint64_t n = in ? BIG : 0; n; n -= PIECE)
		if (write_all(b->raw, piece, PIECE) < 0)
			return error_errno(err, errno, "raw stream");
	/* Of what was sent in, the guest says by one byte that it is there. */
	for (uint64_t left = in ? 1 : BIG; left;) {
		ssize_t r = recv(b->raw, piece, (size_t)MIN(left, PIECE), 0);
		if (r <= 0)
			return error_errno(err, r < 0 ? errno : EPIPE, "raw stream");
		left -= (uint64_t)r;
	}
	return 0;
}

static int transfer(const struct bench *b, const char *what, struct error **err)
{
	if (str_eq(what, "raw-in") || str_eq(what, "raw-out"))
		return raw(b, str_eq(what, "raw-in"), err);
	if (str_eq(what, "in") || str_eq(what, "many-in"))
		return put(b, str_eq(what, "many-in"), err);
	if (str_eq(what, "out") || str_eq(what, "many-out"))
		return get(b, str_eq(what, "many-out"), err);
	return error_set(err, ERR_INVALID, "not understood: %s", what);
}

static int answer(const struct bench *b, const char *what, struct error **err)
{
	_cleanup_free_ char *job = str_printf("%s/job", b->dir);
	double before[BENCH_PROCESSES], after[BENCH_PROCESSES];

	bench_vm_cpu(b->vm, before);
	uint64_t began = now_mono_usec();
	if (transfer(b, what, err) < 0)
		return -1;
	uint64_t took = now_mono_usec() - began;
	bench_vm_cpu(b->vm, after);
	printf("%.1f %.1f\n", (double)took / 1e3, (after[BENCH_QEMU] - before[BENCH_QEMU]) * 1e3);
	fflush(stdout);
	return remove_tree(job, err);
}

static int serve(struct config *config, const char *image, const char *dir, struct error **err)
{
	_cleanup_close_ int never = eventfd(0, EFD_CLOEXEC);
	struct bench b = {.vm = bench_vm_new(config, image, never, err), .raw = -1, .dir = dir};
	char line[64];
	int r = -1;

	if (!b.vm)
		return -1;
	int fd = bench_vm_dial(b.vm, BENCH_GRPC, BENCH_VSOCK, err);
	if (fd >= 0)
		b.guest = bench_vm_greet(b.vm, fd, BENCH_VSOCK, err);
	if (b.guest)
		b.raw = bench_vm_dial(b.vm, BENCH_RAW, BENCH_VSOCK, err);
	if (b.raw >= 0 && make_inputs(dir, err) == 0) {
		puts("ready");
		fflush(stdout);
		for (r = 0; r == 0 && fgets(line, sizeof(line), stdin);) {
			line[strcspn(line, "\n")] = 0;
			r = answer(&b, line, err);
		}
	}
	close_fd(&b.raw);
	guest_free(b.guest);
	bench_vm_free(b.vm);
	return r;
}

int main(int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	int r = -1;

	if (argc != 3) {
		fprintf(stderr, "usage: files_bench IMAGE DIR\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	rpc_init();
	struct config *config = config_load(NULL, &err);
	if (config)
		r = serve(config, argv[1], argv[2], &err);
	if (r < 0)
		fprintf(stderr, "files_bench: %s\n", err->text);
	config_free(config);
	rpc_quit();
	return r < 0 ? 1 : 0;
}
