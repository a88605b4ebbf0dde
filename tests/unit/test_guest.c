/* The typed calls against workers that lie, flood, or do not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "common/limits.h"
#include "common/rpc.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "common/worker_proof.h"
#include "orchestrator/guest.h"

#define FLOOD 100

static const uint8_t secret[PROOF_SECRET_BYTES] = {1, 2, 3};

enum { HONEST, NO_PROOF, WRONG_PROOF, SHORT_NONCE, ENDLESS_NONCE, SILENT };
enum { ENDS, STARTS_OFTEN };
enum { RECORDS, EMPTY_MESSAGES };

/* What the worker does. */
struct script {
	atomic_int hello; /* set before the call, while the server's threads run */
	atomic_int run;
	atomic_int get;
	atomic_int entered;
};

static int handle_hello(struct rpc_call *call, void *arg, struct error **err)
{
	struct script *script = arg;
	Worker__V1__HelloReply reply = WORKER__V1__HELLO_REPLY__INIT;
	ProtobufCMessage *message;
	uint8_t nonce[PROOF_NONCE_BYTES + 1] = {7}, proof[PROOF_BYTES];
	char kernel[] = "6.1\x1b[2J", version[] = "1", boot[] = "b";

	if (rpc_recv(call, -1, &message, err) != 1)
		return -1;
	const Worker__V1__HelloRequest *q = (const Worker__V1__HelloRequest *)message;
	worker_proof_make(secret, PROOF_GUEST, q->host_nonce.data, nonce, proof);
	rpc_message_free(message);
	script->entered++;
	while (script->hello == SILENT && !rpc_call_cancelled(call))
		sleep_ms(5);
	if (script->hello == WRONG_PROOF)
		proof[0] ^= 1;
	reply.protocol = WORKER_PROTOCOL;
	reply.worker_version = version;
	reply.boot_id = boot;
	reply.kernel = kernel;
	reply.kernel_usec = UINT64_MAX;
	reply.guest_nonce = (ProtobufCBinaryData){PROOF_NONCE_BYTES, nonce};
	reply.guest_nonce.len -= script->hello == SHORT_NONCE;
	reply.guest_nonce.len += script->hello == ENDLESS_NONCE;
	reply.has_proof = script->hello != NO_PROOF;
	reply.proof = (ProtobufCBinaryData){sizeof(proof), proof};
	return rpc_send(call, &reply.base, err);
}

static int handle_prove(struct rpc_call *call, void *arg, struct error **err)
{
	const Worker__V1__ProveReply reply = WORKER__V1__PROVE_REPLY__INIT;

	(void)arg;
	return rpc_send(call, &reply.base, err);
}

static int handle_run(struct rpc_call *call, void *arg, struct error **err)
{
	struct script *script = arg;
	Worker__V1__RunReply reply = WORKER__V1__RUN_REPLY__INIT;
	Worker__V1__RunStarted started = WORKER__V1__RUN_STARTED__INIT;
	Worker__V1__RunExit exit = WORKER__V1__RUN_EXIT__INIT;

	script->entered++;
	reply.part_case = WORKER__V1__RUN_REPLY__PART_STARTED;
	reply.started = &started;
	for (int i = 0; i < (script->run == STARTS_OFTEN ? FLOOD : 1); i++)
		if (rpc_send(call, &reply.base, err) < 0)
			return -1;
	reply.part_case = WORKER__V1__RUN_REPLY__PART_EXIT;
	exit.reason = WORKER__V1__RUN_EXIT__REASON__EXITED;
	reply.exit = &exit;
	return rpc_send(call, &reply.base, err);
}

/* Some messages of three records each, or of none. */
static int handle_get(struct rpc_call *call, void *arg, struct error **err)
{
	const struct script *script = arg;
	Worker__V1__GetReply reply = WORKER__V1__GET_REPLY__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	Job__V1__FileRecord *records[] = {&record, &record, &record};

	reply.records = records;
	reply.n_records = script->get == EMPTY_MESSAGES ? 0 : ARRAY_SIZE(records);
	for (int i = 0; i < FLOOD; i++)
		if (rpc_send(call, &reply.base, err) < 0)
			return -1;
	return 0;
}

struct fixture {
	struct script script;
	struct rpc_server *server;
	struct guest *guest;
	int raw; /* a peer without a server */
};

static int setup(void **state)
{
	static const struct rpc_service services[] = {{&worker_hello, handle_hello},
		{&worker_prove, handle_prove}, {&worker_run, handle_run},
		{&worker_get, handle_get}};
	struct fixture *f = xcalloc(1, sizeof(*f));
	int fds[2];

	f->server =
		rpc_server_new(services, ARRAY_SIZE(services), &f->script, &rpc_limits_guest, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(rpc_server_add(f->server, fds[1], NULL, NULL, NULL), 0);
	f->guest = guest_new(fds[0], "vm-test", NULL);
	assert_non_null(f->guest);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_free(f->guest);
	rpc_server_free(f->server, 0);
	free(f);
	return 0;
}

static void *interrupt_once_entered(void *arg)
{
	struct fixture *f = arg;

	while (!f->script.entered)
		sleep_ms(1);
	sleep_ms(50);
	guest_interrupt(f->guest);
	return NULL;
}

static void an_honest_worker_is_believed(void **state)
{
	struct fixture *f = *state;
	struct guest_hello said;

	assert_int_equal(guest_hello(f->guest, secret, &said, NULL), 0);
	assert_string_equal(said.kernel, "6.1\\x1b[2J");
}

static void who_does_not_know_the_secret_is_refused(void **state)
{
	struct fixture *f = *state;
	static const int lies[] = {NO_PROOF, WRONG_PROOF, SHORT_NONCE, ENDLESS_NONCE};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		_cleanup_error_ struct error *err = NULL;
		struct guest_hello said;
		f->script.hello = lies[i];
		assert_int_equal(guest_hello(f->guest, secret, &said, &err), -1);
		assert_int_equal(err->code, ERR_UNAUTHENTICATED);
	}
}

/* A guest that hangs with the greeting half done holds up a cancel no longer than any other. */
static void a_silent_hello_can_be_interrupted(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	struct guest_hello said;
	uint64_t begun = now_mono_usec();
	pthread_t thread;

	f->script.hello = SILENT;
	assert_int_equal(pthread_create(&thread, NULL, interrupt_once_entered, f), 0);
	assert_int_equal(guest_hello(f->guest, secret, &said, &err), -1);
	pthread_join(thread, NULL);
	assert_int_equal(err->code, ERR_CANCELLED);
	assert_true(now_mono_usec() - begun < 10 * 1000000);
	/* And nothing is begun any more. */
	assert_int_equal(guest_hello(f->guest, secret, &said, &err), -1);
	assert_int_equal(err->code, ERR_CANCELLED);
}

static void count(void *arg)
{
	++*(int *)arg;
}

static int drop(void *arg, enum guest_stream stream, const void *data, size_t n, struct error **err)
{
	(void)arg;
	(void)stream;
	(void)data;
	(void)n;
	(void)err;
	return 0;
}

static int run(struct fixture *f, char *script, int *ret_started, struct error **err)
{
	const struct guest_sink sink = {.started = count, .output = drop, .arg = ret_started};
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	char image[] = "debian";
	Worker__V1__RunExit *exit = NULL;

	*ret_started = 0;
	spec.image = image;
	spec.script = script;
	spec.has_timeout_ms = spec.has_stop_grace_period_ms = true;
	spec.timeout_ms = 60000;
	spec.stop_grace_period_ms = 1000;
	int r = guest_run(f->guest, "job", &spec, &sink, &exit, err);
	if (exit)
		worker__v1__run_exit__free_unpacked(exit, NULL);
	return r;
}

static void a_program_starts_once(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	char script[] = "true";
	int started;

	assert_int_equal(run(f, script, &started, NULL), 0);
	assert_int_equal(started, 1);
	f->script.run = STARTS_OFTEN;
	assert_int_equal(run(f, script, &started, &err), -1);
	assert_int_equal(err->code, ERR_DATA_LOSS);
	assert_int_equal(started, 1);
}

static int count_record(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	(void)record;
	(void)err;
	++*(int *)arg;
	return 0;
}

static void all_records_of_all_messages_are_taken_and_an_empty_message_is_refused(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	Job__V1__Output output = JOB__V1__OUTPUT__INIT, *outputs[] = {&output};
	char path[] = "/home/job/out", image[] = "debian";
	int records = 0;

	output.path = path;
	spec.image = image;
	spec.outputs = outputs;
	spec.n_outputs = 1;
	assert_int_equal(guest_get_outputs(f->guest, &spec, count_record, &records, NULL), 0);
	assert_int_equal(records, 3 * FLOOD);
	f->script.get = EMPTY_MESSAGES;
	assert_int_equal(guest_get_outputs(f->guest, &spec, count_record, &records, &err), -1);
	assert_int_equal(err->code, ERR_INVALID);
	assert_int_equal(records, 3 * FLOOD);
}

/* A peer that speaks HTTP/2 just well enough to be alive, and has room for nothing: its window for
 * each stream is 0. */
static void *alive_without_room(void *arg)
{
	struct fixture *f = arg;
	static const uint8_t hello[] = {0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1,
		0, 0, 0, 0}; /* SETTINGS, and the ack of the other's */
	uint8_t frame[9 + 16384], preface[24];

	if (recv(f->raw, preface, sizeof(preface), MSG_WAITALL) != sizeof(preface) ||
		send(f->raw, hello, sizeof(hello), MSG_NOSIGNAL) < 0)
		return NULL;
	while (recv(f->raw, frame, 9, MSG_WAITALL) == 9) {
		size_t n = (size_t)frame[1] << 8 | frame[2];
		if (frame[0] || n > 16384 ||
			(n && recv(f->raw, frame + 9, n, MSG_WAITALL) != (ssize_t)n))
			break;
		if (frame[3] == 1)
			f->script.entered++;
		if (frame[3] == 6 && !frame[4]) {
			frame[4] = 1;
			if (send(f->raw, frame, 9 + n, MSG_NOSIGNAL) < 0)
				break;
		}
	}
	return NULL;
}

/* What to run cannot be sent, so nothing else can be sent either. It is more than the window that
 * HTTP/2 begins with, for the other's SETTINGS may come late. */
static void a_worker_that_does_not_read_does_not_hold_up_a_cancel(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *script = xmalloc(900 * KIB);
	pthread_t interrupter, peer;
	int started, fds[2];

	memset(script, '#', 900 * KIB);
	script[900 * KIB - 1] = '\0';
	guest_free(f->guest);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	f->guest = guest_new(fds[0], "vm-test", NULL);
	f->raw = fds[1];
	assert_int_equal(pthread_create(&peer, NULL, alive_without_room, f), 0);
	assert_int_equal(pthread_create(&interrupter, NULL, interrupt_once_entered, f), 0);
	uint64_t begun = now_mono_usec();
	int r = run(f, script, &started, &err);
	uint64_t took = now_mono_usec() - begun;
	pthread_join(interrupter, NULL);
	guest_free(steal_ptr(f->guest));
	shutdown(f->raw, SHUT_RDWR);
	pthread_join(peer, NULL);
	close_fd(&f->raw);
	assert_int_equal(r, -1);
	assert_int_equal(err->code, ERR_TIMEOUT);
	assert_string_equal(err->text, "the other side does not read");
	assert_true(took < 20 * 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_honest_worker_is_believed, setup, teardown),
		cmocka_unit_test_setup_teardown(
			who_does_not_know_the_secret_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_silent_hello_can_be_interrupted, setup, teardown),
		cmocka_unit_test_setup_teardown(a_program_starts_once, setup, teardown),
		cmocka_unit_test_setup_teardown(
			all_records_of_all_messages_are_taken_and_an_empty_message_is_refused,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_worker_that_does_not_read_does_not_hold_up_a_cancel, setup, teardown),
	};

	rpc_init();
	int failed = cmocka_run_group_tests_name("guest", tests, NULL, NULL);
	rpc_quit();
	return failed;
}
