#include "orchestrator/guest_private.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/file_batch.h"
#include "common/failpoint.h"
#include "common/limits.h"
#include "common/rpc.h"
#include "common/worker_api.h"
#include "common/worker_proof.h"

#define UNARY_TIMEOUT_MS 20000
/* What a transfer may take: a fixed part, and a part for its size at a rate no guest that works
 * falls below, even emulated on a busy host. */
#define TRANSFER_BASE_MS    60000
#define TRANSFER_BYTES_A_MS 1024
/* How long a worker may leave one message of ours unread. */
#define READ_TIMEOUT_MS 60000

struct guest *guest_new(int fd, const char *name, struct error **err)
{
	struct rpc_peer *peer = rpc_peer_new(fd, name, &rpc_limits_guest, err);

	if (!peer)
		return NULL;
	struct guest *guest = xcalloc(1, sizeof(*guest));
	guest->peer = peer;
	pthread_mutex_init(&guest->lock, NULL);
	return guest;
}

void guest_free(struct guest *guest)
{
	if (!guest)
		return;
	rpc_peer_free(guest->peer);
	pthread_mutex_destroy(&guest->lock);
	free(guest);
}

struct rpc_call *guest_call_open(
	struct guest *guest, const struct rpc_method *method, int timeout_ms, struct error **err)
{
	struct rpc_call *call = rpc_open(guest->peer, method, timeout_ms, err);

	if (!call)
		return NULL;
	pthread_mutex_lock(&guest->lock);
	bool interrupted = guest->interrupted;
	if (!interrupted) {
		guest->call = call;
		guest->call_is_run = method == &worker_run;
	}
	pthread_mutex_unlock(&guest->lock);
	if (interrupted) {
		rpc_close(call);
		error_set(err, ERR_CANCELLED, "cancelled");
		return NULL;
	}
	return call;
}

void guest_call_close(struct guest *guest, struct rpc_call *call)
{
	pthread_mutex_lock(&guest->lock);
	guest->call = NULL;
	pthread_mutex_unlock(&guest->lock);
	rpc_close(call);
}

void guest_interrupt(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	guest->interrupted = true;
	if (guest->call) {
		if (guest->call_is_run)
			rpc_wake(guest->call);
		else
			rpc_cancel(guest->call);
	} else {
		rpc_peer_cancel(guest->peer); /* one without a stream */
	}
	pthread_mutex_unlock(&guest->lock);
}

bool guest_is_interrupted(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	bool interrupted = guest->interrupted;
	pthread_mutex_unlock(&guest->lock);
	return interrupted;
}

/* Hello. -----------------------------------------------------------------------------------------
 */

static void copy_escaped(char *to, size_t size, const char *from)
{
	_cleanup_free_ char *safe = str_escape(from, strnlen(from, 200), false);

	snprintf(to, size, "%s", safe);
}

static int check_hello(const Worker__V1__HelloReply *reply, const uint8_t *secret,
	const uint8_t *host_nonce, struct error **err)
{
	if (reply->protocol != WORKER_PROTOCOL)
		return error_set(err, ERR_STATE,
			"the image's worker speaks protocol %u, this host speaks %u: rebuild the "
			"image "
			"(orchestrator image build)",
			reply->protocol, WORKER_PROTOCOL);
	if (!reply->has_proof || reply->guest_nonce.len != PROOF_NONCE_BYTES)
		return error_set(err, ERR_UNAUTHENTICATED,
			"what answers in the guest does not prove that it is the worker");
	if (!worker_proof_check(secret, PROOF_GUEST, host_nonce, reply->guest_nonce.data,
		    reply->proof.data, reply->proof.len))
		return error_set(err, ERR_UNAUTHENTICATED,
			"what answers in the guest does not know this boot's secret");
	return 0;
}

/* A call with one message each way. */
static int ask_within(struct guest *guest, const struct rpc_method *method, int timeout_ms,
	const ProtobufCMessage *request, ProtobufCMessage **ret_reply, struct error **err)
{
	*ret_reply = NULL;
	if (!guest_is_interrupted(guest) &&
		rpc_unary(guest->peer, method, request, timeout_ms, ret_reply, err) == 0)
		return 0;
	return guest_is_interrupted(guest) ? error_set(err, ERR_CANCELLED, "cancelled") : -1;
}

static int ask(struct guest *guest, const struct rpc_method *method,
	const ProtobufCMessage *request, ProtobufCMessage **ret_reply, struct error **err)
{
	return ask_within(guest, method, UNARY_TIMEOUT_MS, request, ret_reply, err);
}

int guest_hello(struct guest *guest, const uint8_t *secret, struct guest_hello *ret_hello,
	struct error **err)
{
	Worker__V1__HelloRequest request = WORKER__V1__HELLO_REQUEST__INIT;
	Worker__V1__ProveRequest prove = WORKER__V1__PROVE_REQUEST__INIT;
	uint8_t nonce[PROOF_NONCE_BYTES], proof[PROOF_BYTES];
	ProtobufCMessage *message = NULL;
	char version[] = ORCHESTRATOR_VERSION;

	memset(ret_hello, 0, sizeof(*ret_hello));
	random_bytes(nonce, sizeof(nonce));
	request.protocol = WORKER_PROTOCOL;
	request.host_version = version;
	request.host_nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
	if (ask(guest, &worker_hello, &request.base, &message, err) < 0)
		return error_wrap(err, "hello");
	const Worker__V1__HelloReply *reply = (const Worker__V1__HelloReply *)message;
	int r = check_hello(reply, secret, nonce, err);
	if (r == 0) {
		worker_proof_make(secret, PROOF_HOST, nonce, reply->guest_nonce.data, proof);
		copy_escaped(ret_hello->version, sizeof(ret_hello->version), reply->worker_version);
		copy_escaped(ret_hello->kernel, sizeof(ret_hello->kernel), reply->kernel);
		ret_hello->kernel_usec = reply->kernel_usec;
		ret_hello->ready_usec = reply->ready_usec;
	}
	rpc_message_free(message);
	if (r < 0)
		return -1;
	prove.proof = (ProtobufCBinaryData){sizeof(proof), proof};
	if (ask(guest, &worker_prove, &prove.base, &message, err) < 0)
		return error_wrap(err, "proving to be the host");
	rpc_message_free(message);
	return 0;
}

struct rpc_peer *guest_peer(const struct guest *guest)
{
	return guest->peer;
}

int guest_ping(struct guest *guest, int timeout_ms, struct error **err)
{
	Worker__V1__AdditionRequest request = WORKER__V1__ADDITION_REQUEST__INIT;
	ProtobufCMessage *message;

	if (ask_within(guest, &worker_addition, timeout_ms, &request.base, &message, err) < 0)
		return -1;
	rpc_message_free(message);
	return 0;
}

/* Inputs. ----------------------------------------------------------------------------------------
 */

struct put {
	struct rpc_call *call;
	struct file_batch *batch; /* owned */
	const char *dest;	  /* where the input's records go */
	size_t prefix;		  /* length of their own name */
};

static int put_record(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	struct put *put = arg;
	Job__V1__FileRecord copy = *record;
	Job__V1__FileHead head = JOB__V1__FILE_HEAD__INIT;
	_cleanup_free_ char *path = NULL;

	if (record->part_case == JOB__V1__FILE_RECORD__PART_MISSING)
		return error_set(
			err, ERR_NOT_FOUND, "input %s: %s", put->dest, record->missing->reason);
	if (record->part_case == JOB__V1__FILE_RECORD__PART_HEAD) {
		head = *record->head;
		path = str_printf("%s%s", put->dest, record->head->path + put->prefix);
		head.path = path;
		copy.head = &head;
	}
	FAILPOINT("inputs.record");
	return file_batch_emit(put->batch, &copy, err);
}

static uint8_t *put_room(void *arg, size_t n, struct error **err)
{
	struct put *put = arg;

	return file_batch_room(put->batch, n, err);
}

static int put_all(
	struct put *put, const Job__V1__Spec *spec, const char *inputs_dir, struct error **err)
{
	const struct tree_sink sink = {
		.emit = put_record, .room = put_room, .chunk = file_batch_chunk, .arg = put};
	struct tree_limits limits = tree_limits_default;
	struct tree_totals totals = {0};

	/* The worker asks for none. */
	limits.no_digests = true;

	for (size_t i = 0; i < spec->n_inputs; i++) {
		char name[24];
		_cleanup_free_ char *path = str_printf("%s/%zu", inputs_dir, i);
		snprintf(name, sizeof(name), "%zu", i);
		put->dest = spec->inputs[i]->dest;
		put->prefix = strlen(name);
		if (tree_send_to(AT_FDCWD, path, name, &limits, &sink, &totals, err) < 0)
			return -1;
	}
	return file_batch_flush(put->batch, err);
}

int guest_put_inputs(
	struct guest *guest, const Job__V1__Spec *spec, const char *inputs_dir, struct error **err)
{
	Worker__V1__PutRequest first = WORKER__V1__PUT_REQUEST__INIT;
	struct put put = {0};
	_cleanup_error_ struct error *sending = NULL;
	ProtobufCMessage *message = NULL;
	int timeout = (int)(TRANSFER_BASE_MS + LIMIT_ARTIFACTS / TRANSFER_BYTES_A_MS);

	if (!spec->n_inputs)
		return 0;
	put.call = guest_call_open(guest, &worker_put, timeout, err);
	if (!put.call)
		return -1;
	first.user = spec->user;
	put.batch = file_batch_new(put.call, READ_TIMEOUT_MS, &first.base, &sending);
	int r = put.batch ? put_all(&put, spec, inputs_dir, &sending) : -1;
	file_batch_free(put.batch);
	bool ours = r < 0 && sending->code == ERR_NOT_FOUND;
	if (r == 0)
		r = rpc_close_send(put.call, &sending);
	if (ours)
		error_move(err, steal_ptr(sending));
	else if (rpc_recv(put.call, TRANSFER_BASE_MS, &message, err) != 1) {
		/* The worker's own words say more than that it stopped reading. */
		if (err && !*err)
			error_set(err, ERR_DATA_LOSS, "the worker did not confirm the inputs");
		r = -1;
	}
	if (message)
		rpc_message_free(message);
	guest_call_close(guest, put.call);
	return r < 0 ? error_wrap(err, "sending inputs") : 0;
}

/* Outputs. ---------------------------------------------------------------------------------------
 */

static int take_all(
	const Worker__V1__GetReply *reply, tree_emit take, void *arg, struct error **err)
{
	/* None would be a way to send for ever. */
	if (!reply->n_records)
		return error_set(err, ERR_INVALID, "a message without file records");
	for (size_t i = 0; i < reply->n_records; i++)
		if (take(arg, reply->records[i], err) < 0)
			return -1;
	return 0;
}

int guest_get_outputs(struct guest *guest, const Job__V1__Spec *spec,
	int (*take)(void *arg, const Job__V1__FileRecord *record, struct error **err), void *arg,
	struct error **err)
{
	Worker__V1__GetRequest request = WORKER__V1__GET_REQUEST__INIT;
	_cleanup_free_ char **paths = xcalloc(spec->n_outputs, sizeof(*paths));
	uint64_t bytes = spec->limits && spec->limits->has_artifact_bytes
				 ? spec->limits->artifact_bytes
				 : DEFAULT_ARTIFACTS;

	if (!spec->n_outputs)
		return 0;
	for (size_t i = 0; i < spec->n_outputs; i++)
		paths[i] = spec->outputs[i]->path;
	request.n_paths = spec->n_outputs;
	request.paths = paths;
	request.working_dir = spec->working_dir;
	request.user = spec->user;
	request.has_max_bytes = request.has_max_files = true;
	request.max_bytes = bytes;
	request.max_files = LIMIT_TREE_FILES;
	int timeout = (int)(TRANSFER_BASE_MS + bytes / TRANSFER_BYTES_A_MS);
	struct rpc_call *call = guest_call_open(guest, &worker_get, timeout, err);
	if (!call)
		return -1;
	int r = rpc_send(call, &request.base, err);
	if (r == 0)
		r = rpc_close_send(call, err);
	while (r == 0) {
		ProtobufCMessage *message = NULL;
		int got = rpc_recv(call, TRANSFER_BASE_MS, &message, err);
		if (got <= 0) {
			r = got;
			break;
		}
		r = take_all((const Worker__V1__GetReply *)message, take, arg, err);
		rpc_message_free(message);
	}
	guest_call_close(guest, call);
	return r;
}
