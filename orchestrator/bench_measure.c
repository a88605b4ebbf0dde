/* Every wait has a deadline, and what the guest sends is counted and compared, never kept: its
 * sizes are those that were asked for, or the measurement ends. */
#include "orchestrator/bench_measure.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "common/worker_api.h"

#define CALL_MS	   30000
#define MESSAGE_MS 30000
#define STREAM_MS  300000
#define SLICES	   4 /* of a round's calls; the transports alternate */
#define FIRST	   (64 * KIB)
#define MOST	   (512 * MIB)
#define CHECK_MASK 63u /* a long stream looks for Ctrl-C every so many messages */

struct links {
	struct guest *guests[BENCH_TRANSPORTS];
	int echo[BENCH_TRANSPORTS], raw[BENCH_TRANSPORTS];
};

struct measure {
	const struct bench_vm *vm;
	int cancel_fd;
	struct bench_result *result;
	struct links links;
	bool counts;	  /* not the warm-up */
	uint8_t *payload; /* owned: BENCH_PAYLOAD_MAX */
};

static double now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static int check_cancel(const struct measure *m, struct error **err)
{
	struct pollfd pfd = {.fd = m->cancel_fd, .events = POLLIN};

	return poll(&pfd, 1, 0) > 0 ? error_set(err, ERR_CANCELLED, "interrupted") : 0;
}

/* Raw. -------------------------------------------------------------------------------------------
 */

static int io_error(struct error **err, ssize_t n, const char *what)
{
	if (n == 0)
		return error_set(err, ERR_UNAVAILABLE, "%s: the guest ended the connection", what);
	if (errno == EAGAIN)
		return error_set(err, ERR_TIMEOUT, "%s: the guest is silent", what);
	return error_errno(err, errno, "%s", what);
}

static int raw_request(int fd, char what, uint64_t count, struct error **err)
{
	uint8_t request[BENCH_RAW_REQUEST] = {(uint8_t)what};

	count = htole64(count);
	memcpy(request + 1, &count, sizeof(count));
	return write_all(fd, request, sizeof(request)) < 0 ? io_error(err, -1, "raw request") : 0;
}

static int raw_echo(int fd, struct error **err)
{
	char byte = 1;

	if (write_all(fd, &byte, 1) < 0)
		return io_error(err, -1, "raw echo");
	ssize_t n = recv(fd, &byte, 1, 0);
	return n == 1 ? 0 : io_error(err, n, "raw echo");
}

static int raw_send(const struct measure *m, int fd, uint64_t bytes, struct error **err)
{
	char byte;

	if (raw_request(fd, 'S', bytes, err) < 0)
		return -1;
	while (bytes) {
		size_t n = (size_t)MIN(bytes, BENCH_RAW_CHUNK);
		if (check_cancel(m, err) < 0)
			return -1;
		if (write_all(fd, m->payload, n) < 0)
			return io_error(err, -1, "raw stream");
		bytes -= n;
	}
	ssize_t n = recv(fd, &byte, 1, 0);
	return n == 1 ? 0 : io_error(err, n, "raw stream");
}

static int raw_receive(const struct measure *m, int fd, uint64_t bytes, struct error **err)
{
	if (raw_request(fd, 'R', bytes, err) < 0)
		return -1;
	while (bytes) {
		if (check_cancel(m, err) < 0)
			return -1;
		ssize_t n = recv(fd, m->payload, (size_t)MIN(bytes, BENCH_RAW_CHUNK), 0);
		if (n <= 0)
			return io_error(err, n, "raw stream");
		bytes -= (uint64_t)n;
	}
	return 0;
}

/* gRPC. ------------------------------------------------------------------------------------------
 */

static int ping(const struct guest *guest, struct error **err)
{
	Worker__V1__PingRequest request = WORKER__V1__PING_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;
	uint8_t byte = 1;

	request.has_payload = true;
	request.payload = (ProtobufCBinaryData){1, &byte};
	if (rpc_unary(guest_peer(guest), &worker_ping, &request.base, CALL_MS, &reply, err) < 0)
		return -1;
	rpc_message_free(reply);
	return 0;
}

static int send_messages(const struct measure *m, struct rpc_call *call, uint64_t bytes,
	uint32_t size, struct error **err)
{
	Worker__V1__BenchRequest request = WORKER__V1__BENCH_REQUEST__INIT;
	ProtobufCMessage *message = NULL;

	request.has_payload = true;
	for (uint64_t left = bytes, i = 0; left; i++) {
		request.payload = (ProtobufCBinaryData){(size_t)MIN(left, size), m->payload};
		if (((i & CHECK_MASK) == 0 && check_cancel(m, err) < 0) ||
			rpc_send(call, &request.base, err) < 0)
			return -1;
		left -= request.payload.len;
	}
	if (rpc_close_send(call, err) < 0)
		return -1;
	if (rpc_recv(call, MESSAGE_MS, &message, err) < 0)
		return -1;
	uint64_t got = message ? ((const Worker__V1__BenchReply *)message)->received_bytes : 0;
	if (message)
		rpc_message_free(message);
	return got == bytes ? 0
			    : error_set(err, ERR_DATA_LOSS,
				      "the guest counted other bytes than were sent");
}

static int receive_messages(const struct measure *m, struct rpc_call *call, uint64_t bytes,
	uint32_t size, struct error **err)
{
	Worker__V1__BenchRequest request = WORKER__V1__BENCH_REQUEST__INIT;
	ProtobufCMessage *message = NULL;
	uint64_t got = 0;
	int r;

	request.has_send_bytes = request.has_message_bytes = true;
	request.send_bytes = bytes;
	request.message_bytes = size;
	if (rpc_send(call, &request.base, err) < 0 || rpc_close_send(call, err) < 0)
		return -1;
	for (uint64_t i = 0; (r = rpc_recv(call, MESSAGE_MS, &message, err)) > 0; i++) {
		size_t n = ((const Worker__V1__BenchReply *)message)->payload.len;
		rpc_message_free(message);
		got += n;
		if (n > size || got > bytes || n == 0)
			return error_set(
				err, ERR_DATA_LOSS, "the guest sent what was not asked for");
		if ((i & CHECK_MASK) == 0 && check_cancel(m, err) < 0)
			return -1;
	}
	if (r < 0)
		return -1;
	return got == bytes ? 0 : error_set(err, ERR_DATA_LOSS, "the guest sent too little");
}

static int grpc_stream(const struct measure *m, enum bench_transport transport,
	enum bench_direction direction, uint64_t bytes, uint32_t size, struct error **err)
{
	struct rpc_call *call =
		rpc_open(guest_peer(m->links.guests[transport]), &worker_bench, STREAM_MS, err);

	if (!call)
		return -1;
	int r = (direction == BENCH_TO_GUEST ? send_messages : receive_messages)(
		m, call, bytes, size, err);
	rpc_close(call);
	return r;
}

/* One measurement of each kind. ------------------------------------------------------------------
 */

static int measure_call(struct measure *m, enum bench_layer layer, enum bench_transport transport,
	struct error **err)
{
	double began = now_usec();
	int r = layer == BENCH_GRPC ? ping(m->links.guests[transport], err)
				    : raw_echo(m->links.echo[transport], err);

	if (r == 0 && m->counts)
		bench_samples_add(&m->result->calls[layer][transport], now_usec() - began);
	return r < 0 ? -1 : check_cancel(m, err);
}

static int measure_connect(struct measure *m, enum bench_layer layer,
	enum bench_transport transport, struct error **err)
{
	double began = now_usec(), took;
	struct guest *guest = NULL;
	int fd = bench_vm_dial(m->vm, layer, transport, err);
	int r = fd < 0 ? -1 : 0;

	if (r == 0 && layer == BENCH_GRPC) {
		guest = bench_vm_greet(m->vm, steal_fd(fd), transport, err);
		r = guest ? 0 : -1;
	} else if (r == 0) {
		r = raw_request(fd, 'E', 0, err) < 0 ? -1 : raw_echo(fd, err);
	}
	took = now_usec() - began;
	guest_free(guest);
	close_fd(&fd);
	if (r == 0 && m->counts)
		bench_samples_add(&m->result->connects[layer][transport], took);
	return r < 0 ? -1 : check_cancel(m, err);
}

/* size 0: raw. The budget follows the rate, so that each stream takes about as long. */
static int measure_stream(struct measure *m, struct bench_stream *stream,
	enum bench_transport transport, enum bench_direction direction, uint32_t size,
	struct error **err)
{
	uint64_t least = MAX(FIRST, (uint64_t)2 * size), bytes = MAX(stream->budget, least);
	double before[BENCH_PROCESSES], after[BENCH_PROCESSES];
	int fd = m->links.raw[transport], r;

	bench_vm_cpu(m->vm, before);
	double began = now_usec();
	if (size)
		r = grpc_stream(m, transport, direction, bytes, size, err);
	else if (direction == BENCH_TO_GUEST)
		r = raw_send(m, fd, bytes, err);
	else
		r = raw_receive(m, fd, bytes, err);
	if (r < 0)
		return -1;
	double seconds = MAX(now_usec() - began, 1.0) / 1e6;
	bench_vm_cpu(m->vm, after);
	double rate = (double)bytes / seconds;
	double budget = rate * m->result->plan.stream_ms / 1000;
	stream->budget = budget > (double)MOST ? MOST : (uint64_t)budget;
	if (!m->counts)
		return 0;
	stream->rates[stream->rounds++] = rate;
	stream->bytes += bytes;
	for (int i = 0; i < BENCH_PROCESSES; i++)
		stream->cpu[i] += after[i] - before[i];
	return 0;
}

/* Rounds. ----------------------------------------------------------------------------------------
 */

/* Who goes first changes, so that neither always comes after the other. */
static enum bench_transport turn(unsigned round, int i)
{
	return (enum bench_transport)((round + (unsigned)i) % BENCH_TRANSPORTS);
}

typedef int (*measure_one)(struct measure *m, enum bench_layer layer,
	enum bench_transport transport, struct error **err);

static int measure_many(
	struct measure *m, measure_one one, unsigned count, unsigned round, struct error **err)
{
	for (unsigned slice = 0; slice < SLICES; slice++) {
		unsigned n = count * (slice + 1) / SLICES - count * slice / SLICES;
		for (int i = 0; i < BENCH_TRANSPORTS; i++)
			for (int layer = 0; layer < BENCH_LAYERS; layer++)
				for (unsigned k = 0; k < n; k++)
					if (one(m, (enum bench_layer)layer, turn(round + slice, i),
						    err) < 0)
						return -1;
	}
	return 0;
}

static int measure_streams(struct measure *m, unsigned round, struct error **err)
{
	for (int direction = 0; direction < BENCH_DIRECTIONS; direction++)
		for (int size = -1; size < BENCH_SIZES; size++)
			for (int i = 0; i < BENCH_TRANSPORTS; i++) {
				enum bench_transport t = turn(round, i);
				struct bench_stream *stream =
					size < 0 ? &m->result->raw_streams[t][direction]
						 : &m->result->streams[t][direction][size];
				if (measure_stream(m, stream, t, (enum bench_direction)direction,
					    size < 0 ? 0 : bench_sizes[size], err) < 0)
					return -1;
			}
	return 0;
}

static void end_round(struct bench_result *result)
{
	for (int layer = 0; layer < BENCH_LAYERS; layer++)
		for (int t = 0; t < BENCH_TRANSPORTS; t++) {
			bench_samples_end_round(&result->calls[layer][t]);
			bench_samples_end_round(&result->connects[layer][t]);
		}
}

static int measure_round(struct measure *m, unsigned round, struct error **err)
{
	const struct bench_plan *plan = &m->result->plan;
	unsigned calls = m->counts ? plan->calls : MIN(plan->calls, 50u);
	unsigned connections = m->counts ? plan->connections : 1;

	if (measure_many(m, measure_call, calls, round, err) < 0 ||
		measure_many(m, measure_connect, connections, round, err) < 0 ||
		measure_streams(m, round, err) < 0)
		return -1;
	if (m->counts)
		end_round(m->result);
	return 0;
}

static int open_links(struct measure *m, struct error **err)
{
	/* TCP first: a guest that has no network has no raw service either, and this says why. */
	for (int i = BENCH_TRANSPORTS; i--;) {
		enum bench_transport t = (enum bench_transport)i;
		int fd = bench_vm_dial(m->vm, BENCH_GRPC, t, err);

		if (fd < 0 || !(m->links.guests[t] = bench_vm_greet(m->vm, fd, t, err)) ||
			(m->links.echo[t] = bench_vm_dial(m->vm, BENCH_RAW, t, err)) < 0 ||
			(m->links.raw[t] = bench_vm_dial(m->vm, BENCH_RAW, t, err)) < 0 ||
			raw_request(m->links.echo[t], 'E', 0, err) < 0)
			return -1;
	}
	return 0;
}

static void close_links(struct links *links)
{
	for (int i = 0; i < BENCH_TRANSPORTS; i++) {
		guest_free(links->guests[i]);
		close_fd(&links->echo[i]);
		close_fd(&links->raw[i]);
	}
}

int bench_measure(const struct bench_vm *vm, int cancel_fd,
	void (*on_round)(void *arg, unsigned round), void *arg, struct bench_result *ret_result,
	struct error **err)
{
	_cleanup_free_ uint8_t *payload = xcalloc(1, BENCH_PAYLOAD_MAX);
	struct measure m = {.vm = vm,
		.cancel_fd = cancel_fd,
		.result = ret_result,
		.payload = payload,
		.links = {.echo = {-1, -1}, .raw = {-1, -1}}};
	int r = open_links(&m, err);

	for (unsigned round = 0; r == 0 && round <= ret_result->plan.rounds; round++) {
		on_round(arg, round);
		m.counts = round > 0;
		r = measure_round(&m, round, err);
	}
	close_links(&m.links);
	if (r < 0)
		bench_vm_explain(vm, err);
	return r;
}
