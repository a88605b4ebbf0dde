#include "guest-worker/service.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>

#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "guest-worker/service_internal.h"

#define MAX_CONNS	 8
#define MAX_PROOFS	 2 /* the second that is wrong ends the connection */
#define REQUEST_WAIT_MS	 30000
#define SHUTDOWN_WAIT_MS 1000
/* Longer than from our announcement to the Run of a host that has a job already, which a spare
 * would delay: it shares the processor with the calls before it. */
#define SPARE_IDLE_MS 500

ProtobufCMessage *worker_request(struct rpc_call *call, struct error **err)
{
	ProtobufCMessage *message = NULL;
	int r = rpc_recv(call, REQUEST_WAIT_MS, &message, err);

	if (r == 0)
		error_set(err, ERR_INVALID, "a call without a request");
	return r == 1 ? message : NULL;
}

int worker_require_proof(struct rpc_call *call, struct error **err)
{
	struct worker_conn *conn = rpc_call_conn(call);

	pthread_mutex_lock(&conn->worker->lock);
	bool may = !conn->worker->has_secret || conn->proven;
	pthread_mutex_unlock(&conn->worker->lock);
	return may ? 0
		   : error_set(err, ERR_UNAUTHENTICATED,
			     "the host has not proven that it knows this boot's secret");
}

ProtobufCMessage *worker_proven_request(struct rpc_call *call, struct error **err)
{
	return worker_require_proof(call, err) < 0 ? NULL : worker_request(call, err);
}

/* Who is there. ---------------------------------------------------------------------------------
 */

static void make_proof(
	struct worker_conn *conn, const uint8_t *host_nonce, uint8_t *ret_nonce, uint8_t *ret_proof)
{
	struct worker *worker = conn->worker;

	random_bytes(ret_nonce, PROOF_NONCE_BYTES);
	pthread_mutex_lock(&worker->lock);
	memcpy(conn->host_nonce, host_nonce, PROOF_NONCE_BYTES);
	memcpy(conn->guest_nonce, ret_nonce, PROOF_NONCE_BYTES);
	conn->greeted = true;
	pthread_mutex_unlock(&worker->lock);
	if (worker->has_secret)
		worker_proof_make(worker->secret, PROOF_GUEST, host_nonce, ret_nonce, ret_proof);
}

static uint32_t count_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : (uint32_t)CPU_COUNT(&set);
}

static int send_hello(
	struct rpc_call *call, struct worker *worker, const uint8_t *host_nonce, struct error **err)
{
	Worker__V1__HelloReply reply = WORKER__V1__HELLO_REPLY__INIT;
	uint8_t nonce[PROOF_NONCE_BYTES], proof[PROOF_BYTES];
	char version[] = ORCHESTRATOR_VERSION;
	struct utsname name;
	struct sysinfo info;

	FAILPOINT("worker.hello");
	if (uname(&name) < 0 || sysinfo(&info) < 0)
		return error_errno(err, errno, "asking the kernel about itself");
	make_proof(rpc_call_conn(call), host_nonce, nonce, proof);
	reply.protocol = WORKER_PROTOCOL;
	reply.worker_version = version;
	reply.guest_nonce = (ProtobufCBinaryData){.data = nonce, .len = sizeof(nonce)};
	reply.has_proof = worker->has_secret;
	if (reply.has_proof)
		reply.proof = (ProtobufCBinaryData){.data = proof, .len = sizeof(proof)};
	reply.boot_id = worker->boot_id;
	reply.kernel = name.release;
	reply.cpus = count_cpus();
	reply.memory_bytes = (uint64_t)info.totalram * info.mem_unit;
	reply.kernel_usec = worker->kernel_usec;
	reply.ready_usec = worker->ready_usec;
	return rpc_send(call, &reply.base, err);
}

static int handle_hello(struct rpc_call *call, void *arg, struct error **err)
{
	struct worker *worker = arg;
	ProtobufCMessage *message = worker_request(call, err);
	const Worker__V1__HelloRequest *request = (const Worker__V1__HelloRequest *)message;
	int r;

	if (!message)
		return -1;
	if (request->protocol != WORKER_PROTOCOL)
		r = error_set(err, ERR_STATE,
			"worker speaks protocol %u, host speaks %u: rebuild the image with "
			"`orchestrator image build NAME`",
			WORKER_PROTOCOL, request->protocol);
	else if (request->host_nonce.len != PROOF_NONCE_BYTES)
		r = error_set(err, ERR_INVALID, "the host's nonce has %zu bytes, not %d",
			request->host_nonce.len, PROOF_NONCE_BYTES);
	else
		r = send_hello(call, worker, request->host_nonce.data, err);
	rpc_message_free(message);
	return r;
}

static void end_conn(const struct worker_conn *conn)
{
	shutdown(conn->end_fd, SHUT_RDWR);
}

/* Under the lock. */
static int check_proof(
	struct worker_conn *conn, const ProtobufCBinaryData *proof, struct error **err)
{
	struct worker *worker = conn->worker;

	if (!worker->has_secret)
		return error_set(err, ERR_STATE, "this worker was given no secret");
	if (!conn->greeted)
		return error_set(err, ERR_STATE, "Prove comes after Hello");
	if (conn->failures < MAX_PROOFS &&
		worker_proof_check(worker->secret, PROOF_HOST, conn->host_nonce, conn->guest_nonce,
			proof->data, proof->len)) {
		conn->proven = true;
		/* A benchmark compares connections, and has several. */
		if (worker->controller && worker->controller != conn && !worker->bench)
			end_conn(worker->controller);
		worker->controller = conn;
		return 0;
	}
	/* The same nonces are not tried twice. */
	conn->greeted = false;
	if (++conn->failures >= MAX_PROOFS) {
		log_warn("service", "a connection failed to prove itself and was closed");
		end_conn(conn);
	}
	return error_set(err, ERR_UNAUTHENTICATED, "the proof is wrong");
}

static int handle_prove(struct rpc_call *call, void *arg, struct error **err)
{
	const Worker__V1__ProveReply reply = WORKER__V1__PROVE_REPLY__INIT;
	struct worker *worker = arg;
	ProtobufCMessage *message = worker_request(call, err);

	if (!message)
		return -1;
	pthread_mutex_lock(&worker->lock);
	int r = check_proof(
		rpc_call_conn(call), &((Worker__V1__ProveRequest *)message)->proof, err);
	pthread_mutex_unlock(&worker->lock);
	rpc_message_free(message);
	return r < 0 ? -1 : rpc_send(call, &reply.base, err);
}

/* The small calls. ------------------------------------------------------------------------------
 */

static uint64_t memory_available(void)
{
	_cleanup_free_ char *all = read_file("/proc/meminfo", 64 * KIB, NULL, NULL);
	const char *line = all ? strstr(all, "MemAvailable:") : NULL;

	return line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) * KIB : 0;
}

static int handle_info(struct rpc_call *call, void *arg, struct error **err)
{
	struct worker *worker = arg;
	Worker__V1__InfoReply reply = WORKER__V1__INFO_REPLY__INIT;
	struct statvfs fs;

	ProtobufCMessage *message = worker_proven_request(call, err);
	if (!message)
		return -1;
	rpc_message_free(message);
	reply.uptime_usec = now_boot_usec();
	reply.memory_available_bytes = memory_available();
	if (fstatvfs(worker->root->fd, &fs) == 0)
		reply.root_available_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	reply.executions = executor_count(worker->executor);
	return rpc_send(call, &reply.base, err);
}

static int handle_ping(struct rpc_call *call, void *arg, struct error **err)
{
	Worker__V1__PingReply reply = WORKER__V1__PING_REPLY__INIT;

	(void)arg;
	ProtobufCMessage *message = worker_proven_request(call, err);
	if (!message)
		return -1;
	const Worker__V1__PingRequest *request = (const Worker__V1__PingRequest *)message;
	reply.has_payload = request->has_payload;
	reply.payload = request->payload;
	int r = rpc_send(call, &reply.base, err);
	rpc_message_free(message);
	return r;
}

static int handle_addition(struct rpc_call *call, void *arg, struct error **err)
{
	Worker__V1__AdditionReply reply = WORKER__V1__ADDITION_REPLY__INIT;

	(void)arg;
	FAILPOINT("worker.addition");
	ProtobufCMessage *message = worker_proven_request(call, err);
	if (!message)
		return -1;
	const Worker__V1__AdditionRequest *request = (const Worker__V1__AdditionRequest *)message;
	bool fits = !__builtin_add_overflow(request->a, request->b, &reply.c);
	rpc_message_free(message);
	if (!fits)
		return error_set(err, ERR_RANGE, "the sum does not fit into 64 bits");
	return rpc_send(call, &reply.base, err);
}

static int handle_shutdown(struct rpc_call *call, void *arg, struct error **err)
{
	const Worker__V1__ShutdownReply reply = WORKER__V1__SHUTDOWN_REPLY__INIT;
	struct worker *worker = arg;
	uint64_t one = 1;

	ProtobufCMessage *message = worker_proven_request(call, err);
	if (!message)
		return -1;
	rpc_message_free(message);
	int r = rpc_send(call, &reply.base, err);
	if (write(worker->shutdown_fd, &one, sizeof(one)) < 0)
		return error_errno(err, errno, "shutting down");
	return r;
}

static const struct rpc_service services[] = {
	{&worker_hello, handle_hello},
	{&worker_prove, handle_prove},
	{&worker_info, handle_info},
	{&worker_ping, handle_ping},
	{&worker_addition, handle_addition},
	{&worker_run, worker_handle_run},
	{&worker_put, worker_handle_put},
	{&worker_get, worker_handle_get},
	{&worker_bench, worker_handle_bench},
	{&worker_shutdown, handle_shutdown},
};

/* What these do is shorter than handing them to a thread, on one emulated processor above all. */
static const struct rpc_method *const quick[] = {
	&worker_hello, &worker_prove, &worker_ping, &worker_addition};

/* The worker. -----------------------------------------------------------------------------------
 */

static void read_boot_id(char ret[40])
{
	_cleanup_free_ char *id = read_file("/proc/sys/kernel/random/boot_id", 64, NULL, NULL);

	snprintf(ret, 40, "%.*s", id ? (int)strcspn(id, "\n") : 0, id ? id : "");
}

struct worker *worker_new(const struct worker_options *options, struct error **err)
{
	struct worker *worker = xcalloc(1, sizeof(*worker));

	worker->root = options->root;
	worker->init = options->init;
	worker->bench = options->bench;
	worker->kernel_usec = options->kernel_usec;
	pthread_mutex_init(&worker->lock, NULL);
	if (options->secret) {
		worker->has_secret = true;
		memcpy(worker->secret, options->secret, PROOF_SECRET_BYTES);
	}
	read_boot_id(worker->boot_id);
	worker->shutdown_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->shutdown_fd < 0)
		error_errno(err, errno, "eventfd");
	else if ((worker->executor = executor_new(options->root, options->init, err)))
		worker->server = rpc_server_new(
			services, ARRAY_SIZE(services), worker, &rpc_limits_guest, err);
	if (!worker->server) {
		worker_free(worker);
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(quick); i++)
		rpc_server_set_quick(worker->server, quick[i], NULL);
	return worker;
}

void worker_set_ready(struct worker *worker)
{
	worker->ready_usec = now_boot_usec();
}

void worker_keep_spare(struct worker *worker)
{
	executor_keep_spare(worker->executor, SPARE_IDLE_MS * 1000);
}

int worker_shutdown_fd(const struct worker *worker)
{
	return worker->shutdown_fd;
}

const char *worker_boot_id(const struct worker *worker)
{
	return worker->boot_id;
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	if (worker->executor)
		executor_stop(worker->executor);
	if (worker->server)
		rpc_server_free(worker->server, SHUTDOWN_WAIT_MS);
	executor_free(worker->executor);
	close_fd(&worker->shutdown_fd);
	sodium_memzero(worker->secret, sizeof(worker->secret));
	pthread_mutex_destroy(&worker->lock);
	free(worker);
}

static void conn_closed(void *arg)
{
	struct worker_conn *conn = arg;
	struct worker *worker = conn->worker;

	pthread_mutex_lock(&worker->lock);
	if (worker->controller == conn)
		worker->controller = NULL;
	worker->n_conns--;
	pthread_mutex_unlock(&worker->lock);
	close_fd(&conn->end_fd);
	free(conn);
}

int worker_serve(struct worker *worker, int fd, struct error **err)
{
	_cleanup_close_ int owned = fd;

	pthread_mutex_lock(&worker->lock);
	bool full = worker->n_conns >= MAX_CONNS;
	if (!full)
		worker->n_conns++;
	pthread_mutex_unlock(&worker->lock);
	if (full)
		return error_set(err, ERR_LIMIT, "%d connections already", MAX_CONNS);

	struct worker_conn *conn = xcalloc(1, sizeof(*conn));
	conn->worker = worker;
	conn->end_fd = fcntl(owned, F_DUPFD_CLOEXEC, 0);
	if (conn->end_fd < 0) {
		error_errno(err, errno, "a connection's socket");
		conn_closed(conn);
		return -1;
	}
	if (rpc_server_add(worker->server, steal_fd(owned), conn, conn_closed, err) < 0) {
		conn_closed(conn);
		return -1;
	}
	return 0;
}
