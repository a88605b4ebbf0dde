/* The only door to gRPC: unary and streaming calls over connected sockets, for both ends.
 *
 * A caller has an rpc_peer, made from a connected fd, and makes calls on it; a callee has an
 * rpc_server and adds connected fds to it. All functions block. One call is used by at most two
 * threads at a time, one sending and one receiving; rpc_cancel() and rpc_call_cancelled() may come
 * from any thread. Everything has a deadline or can be cancelled, and every limit of struct
 * rpc_limits stands before the allocation it bounds.
 *
 * Errors carry gRPC's canonical code as enum err_code. What a handler said comes as it said it
 * (escaped, cut at a quarter of limits.metadata, newlines kept); what went wrong on the way names
 * the peer. A lost peer is ERR_UNAVAILABLE at the caller, ERR_CANCELLED in a handler.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct rpc_peer;
struct rpc_server;
struct rpc_call;

struct rpc_limits {
	size_t message;	  /* bytes of one message on the wire, both ways */
	size_t unpacked;  /* bytes it may allocate when unpacked */
	size_t window;	  /* bytes read ahead per stream before the reader asks */
	size_t metadata;  /* bytes of headers */
	unsigned calls;	  /* server: calls at work at once, over all connections */
	int keepalive_ms; /* 0: none */
	int dead_ms;	  /* a keepalive unanswered for so long is a lost peer */
};

/* For a peer that may be a hostile guest. */
extern const struct rpc_limits rpc_limits_guest;
/* Between the command line and the daemon. */
extern const struct rpc_limits rpc_limits_control;

/* One method; tables of these stand in common/worker_api.h and orchestrator/control_api.h, because
 * protobuf-c's descriptors do not say which sides stream. */
struct rpc_method {
	const char *path; /* "/worker.v1.Worker/Run" */
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *reply;
	bool requests; /* a stream of requests */
	bool replies;  /* a stream of replies */
};

/* Once per process, before anything else here; nests. The threads that are started take no signals.
 * After fork() nothing of this may be used but by exec(). */
void rpc_init(void);
void rpc_quit(void);

/* Calling. --------------------------------------------------------------------------------------
 */

/* Takes fd in every case. name is for error texts ("worker of vm-3f2"). */
struct rpc_peer *rpc_peer_new(
	int fd, const char *name, const struct rpc_limits *limits, struct error **err);
/* From any thread: what is under way on this peer ends with ERR_UNAVAILABLE. What is begun
 * afterwards is not touched. */
void rpc_peer_cancel(struct rpc_peer *peer);
/* Cancels what is under way; the calls must still be closed by their owners. */
void rpc_peer_free(struct rpc_peer *peer);

/* One request, one reply (*ret_reply to be freed by rpc_message_free). timeout_ms > 0. */
int rpc_unary(struct rpc_peer *peer, const struct rpc_method *method,
	const ProtobufCMessage *request, int timeout_ms, ProtobufCMessage **ret_reply,
	struct error **err);

/* A call with at least one stream. timeout_ms bounds the whole call; -1: none. Does not fail today:
 * a dead connection shows at the first use. */
struct rpc_call *rpc_open(
	struct rpc_peer *peer, const struct rpc_method *method, int timeout_ms, struct error **err);

/* Both ends. ------------------------------------------------------------------------------------
 */

/* Hand over one message. Returns when the one before it was taken by the transport: streams
 * pipeline, a slow reader holds the writer. Client: with a method of one request, this also ends
 * the stream; -1 after the other side ended the call carries its status, unless a message of its
 * waits to be received first. */
int rpc_send(struct rpc_call *call, const ProtobufCMessage *message, struct error **err);
/* The same, but -1 with ERR_TIMEOUT when the message before it was not taken within wait_ms (-1: no
 * limit): the other side does not read. This message is then not sent. */
int rpc_send_within(
	struct rpc_call *call, const ProtobufCMessage *message, int wait_ms, struct error **err);
/* The same, of a message that is packed already: size bytes from malloc(), taken in every case and
 * sent without a copy. The other side gets what is in them, so the caller answers for that. */
int rpc_send_packed(
	struct rpc_call *call, uint8_t *data, size_t size, int wait_ms, struct error **err);
/* The next message: 1 and *ret_message; 0 when the other side ended the stream properly (client:
 * the status is OK); -1 on a lost peer, an error status, or with ERR_TIMEOUT when nothing came
 * within wait_ms (-1: for ever), in which case the call goes on and rpc_recv may be called again;
 * ERR_TIMEOUT for the call's own deadline is told from it by rpc_call_cancelled(). A single reply
 * is given out only when the call's status is OK. */
int rpc_recv(
	struct rpc_call *call, int wait_ms, ProtobufCMessage **ret_message, struct error **err);
/* Client: no more requests. */
int rpc_close_send(struct rpc_call *call, struct error **err);
/* From any thread: a rpc_recv() that waits on this call, or the next one if none does, returns with
 * ERR_ABORTED; the call goes on. */
void rpc_wake(struct rpc_call *call);
/* From any thread: what blocks on this call returns with ERR_CANCELLED. */
void rpc_cancel(struct rpc_call *call);
/* Client: end the call (cancelled, if it did not end by itself) and free it. */
void rpc_close(struct rpc_call *call);

void rpc_message_free(ProtobufCMessage *message); /* NULL is allowed */

/* Messages as locals, of whatever type. */
static inline void rpc_message_freep(void *message)
{
	rpc_message_free(*(ProtobufCMessage **)message);
}
#define _cleanup_message_ __attribute__((cleanup(rpc_message_freep)))

/* Being called. ---------------------------------------------------------------------------------
 */

/* Messages by rpc_recv and rpc_send; a unary reply is one rpc_send. Returns 0, or -1 with *err,
 * which becomes the call's status, or one of these. */
typedef int (*rpc_handler)(struct rpc_call *call, void *server_arg, struct error **err);
/* Whoever has the call now answers it by rpc_answer(): another thread may have done so already. */
#define RPC_LATER 1
/* A quick handler will not do it; what it received it has given back by rpc_unrecv(). */
#define RPC_POOL 2

/* The handler runs on a thread of the server's pool, and may wait. */
struct rpc_service {
	const struct rpc_method *method;
	rpc_handler handler;
};

struct rpc_server *rpc_server_new(const struct rpc_service *services, size_t n_services, void *arg,
	const struct rpc_limits *limits, struct error **err);
/* Before the first rpc_server_add(): calls of the method are tried by this handler first (NULL: its
 * own, of a method without streams). It waits for nothing (a lock that is held for a moment is no
 * wait) and makes no calls. It begins when the first request is here, or will not come, on the
 * thread that polls, which saves a change of threads. Everything else of the process's RPC stands
 * still meanwhile. While as many calls as limits.calls are to be answered later, it is not tried.
 */
void rpc_server_set_quick(
	struct rpc_server *server, const struct rpc_method *method, rpc_handler quick);
/* Serve a connected fd (taken in every case). conn is the owner's, found by rpc_call_conn();
 * on_close(conn) is called once, on a thread of the server's, when the connection has ended and
 * none of its handlers runs any more; never if this fails. It must not free the server. */
int rpc_server_add(struct rpc_server *server, int fd, void *conn, void (*on_close)(void *conn),
	struct error **err);
/* No new calls; running ones get grace_ms, then are cancelled; joins all handlers. Not to be called
 * from a handler. */
void rpc_server_free(struct rpc_server *server, int grace_ms);

/* For a quick handler before it returns RPC_POOL: the next rpc_recv() gives the message, which is
 * taken over. */
void rpc_unrecv(struct rpc_call *call, ProtobufCMessage *message);
/* For a call that is answered later, once: run fn(arg) when rpc_recv() will not wait, on the thread
 * that polls or on the calling one. It is as quick as a quick handler. */
void rpc_when_received(struct rpc_call *call, void (*fn)(void *arg), void *arg);
/* The end of a call whose handler returned RPC_LATER, from any thread, once: the reply of a unary
 * method, or an error, which is taken over. The call may be gone when this returns. Does not wait.
 */
void rpc_answer(struct rpc_call *call, const ProtobufCMessage *reply, struct error *error);

void *rpc_call_conn(struct rpc_call *call);
/* The call is over, whoever ended it: the caller cancelled, went away or its deadline passed, or,
 * for a caller, the status has come (messages before it may still be waiting). */
bool rpc_call_cancelled(struct rpc_call *call);
