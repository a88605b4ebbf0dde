/* warm_bench IMAGE: a VM that is up, for tests/bench/bench-warm. Says "ready", then answers each
 * line of its input by one line of numbers, in microseconds:
 *
 *   ping N    N calls of Ping, one after the other: what each took
 *   exec N    N runs of /bin/true: from the call until its exit was heard, what each took; before
 *             each the VM has had nothing to do for a second, as one that waits for its job
 *   started N the same, until it was heard that the program runs
 *   cpu N     the same again: what processor time it took, of QEMU, the vsock device and this
 *             process together, which other work on the machine disturbs less
 *   soon N, sooncpu N
 *             as exec and cpu, but at once after what was before: the job init is not made ahead
 *
 * The VM is that of `orchestrator bench`, the calls are those of a job. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/rpc.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "orchestrator/bench_vm.h"
#include "orchestrator/config.h"

#define CALL_MS	  30000
#define IDLE_MS	  1000
#define COUNT_MAX 100000

static int ping(struct guest *guest, uint64_t *ret_usec, struct error **err)
{
	const Worker__V1__PingRequest request = WORKER__V1__PING_REQUEST__INIT;
	ProtobufCMessage *reply;
	uint64_t began = now_mono_usec();

	if (rpc_unary(guest_peer(guest), &worker_ping, &request.base, CALL_MS, &reply, err) < 0)
		return -1;
	*ret_usec = now_mono_usec() - began;
	rpc_message_free(reply);
	return 0;
}

/* The call of a job, but that nothing is held for a stream that is lost: so the worker forgets the
 * execution with the stream, and there may be many. */
static int send_start(struct rpc_call *call, struct error **err)
{
	char program[] = "/bin/true", *argv[] = {program}, id[32];
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	static unsigned serial;

	snprintf(id, sizeof(id), "warm-%u", ++serial);
	start.id = id;
	start.argv = argv;
	start.n_argv = ARRAY_SIZE(argv);
	start.has_together = start.together = true;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_START;
	request.start = &start;
	return rpc_send(call, &request.base, err);
}

/* 0: the exit has come. */
static int follow(struct rpc_call *call, uint64_t *ret_started, struct error **err)
{
	for (;;) {
		ProtobufCMessage *message;
		int r = rpc_recv(call, CALL_MS, &message, err);
		if (r <= 0)
			return r < 0 ? -1 : error_set(err, ERR_INTERNAL, "no exit came");
		const Worker__V1__RunReply *reply = (const Worker__V1__RunReply *)message;
		if (reply->started)
			*ret_started = now_mono_usec();
		bool over = reply->exit != NULL;
		bool well = !over || (reply->exit->has_code && reply->exit->code == 0);
		rpc_message_free(message);
		if (!well)
			return error_set(err, ERR_INTERNAL, "/bin/true failed");
		if (over)
			return 0;
	}
}

static int run_true(
	struct guest *guest, uint64_t *ret_usec, uint64_t *ret_started, struct error **err)
{
	uint64_t began = now_mono_usec(), started = began;
	struct rpc_call *call = rpc_open(guest_peer(guest), &worker_run, CALL_MS, err);

	if (!call)
		return -1;
	int r = send_start(call, err);
	if (r == 0)
		r = follow(call, &started, err);
	*ret_usec = now_mono_usec() - began;
	*ret_started = started - began;
	rpc_close(call);
	return r;
}

static uint64_t cpu_usec(const struct bench_vm *vm)
{
	double seconds[BENCH_PROCESSES], all = 0;

	bench_vm_cpu(vm, seconds);
	for (size_t i = 0; i < BENCH_PROCESSES; i++)
		all += seconds[i];
	return (uint64_t)(all * 1e6);
}

/* One number of those that were asked for. */
static int measure(const struct bench_vm *vm, struct guest *guest, const char *what, uint64_t *ret,
	struct error **err)
{
	uint64_t usec, started, cpu;

	if (str_eq(what, "ping"))
		return ping(guest, ret, err);
	if (!str_starts(what, "soon"))
		sleep_ms(IDLE_MS);
	cpu = cpu_usec(vm);
	if (run_true(guest, &usec, &started, err) < 0)
		return -1;
	if (str_eq(what, "cpu") || str_eq(what, "sooncpu"))
		*ret = cpu_usec(vm) - cpu;
	else
		*ret = str_eq(what, "started") ? started : usec;
	return 0;
}

static int answer(
	const struct bench_vm *vm, struct guest *guest, const char *line, struct error **err)
{
	char what[16];
	unsigned count;

	if (sscanf(line, "%15s %u", what, &count) != 2 || count > COUNT_MAX)
		return error_set(err, ERR_INVALID, "not understood: %s", line);
	for (unsigned i = 0; i < count; i++) {
		uint64_t number = 0;
		if (measure(vm, guest, what, &number, err) < 0)
			return -1;
		printf("%s%llu", i ? " " : "", (unsigned long long)number);
	}
	printf("\n");
	fflush(stdout);
	return 0;
}

static int serve(struct config *config, const char *image, struct error **err)
{
	_cleanup_close_ int never = eventfd(0, EFD_CLOEXEC);
	struct bench_vm *vm = bench_vm_new(config, image, never, err);
	struct guest *guest = NULL;
	char line[64];
	int r = -1;

	if (!vm)
		return -1;
	int fd = bench_vm_dial(vm, BENCH_GRPC, BENCH_VSOCK, err);
	if (fd >= 0)
		guest = bench_vm_greet(vm, fd, BENCH_VSOCK, err);
	if (guest) {
		puts("ready");
		fflush(stdout);
		for (r = 0; r == 0 && fgets(line, sizeof(line), stdin);)
			r = answer(vm, guest, line, err);
	}
	guest_free(guest);
	bench_vm_free(vm);
	return r;
}

int main(int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	int r = -1;

	if (argc != 2) {
		fprintf(stderr, "usage: warm_bench IMAGE\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	rpc_init();
	struct config *config = config_load(NULL, &err);
	if (config)
		r = serve(config, argv[1], &err);
	if (r < 0)
		fprintf(stderr, "warm_bench: %s\n", err->text);
	config_free(config);
	rpc_quit();
	return r < 0 ? 1 : 0;
}
