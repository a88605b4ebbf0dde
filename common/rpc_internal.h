/* What the files of common/rpc share. Nobody else includes this.
 *
 * Theory of operation. One completion queue serves the whole process, and one thread at a time
 * polls it (which one, rpc_poll.c tells). A batch is started with a struct rpc_op as its tag; when
 * it completes, who polls calls op->done, which notes the result under the call's lock and wakes
 * who waits. It never blocks, and of foreign code it runs only what promises the same
 * (rpc_server_set_quick, rpc_when_received): the other handlers and on_close run, and what they
 * receive is unpacked, on other threads.
 *
 * struct rpc_call is the same at both ends: at most one SEND_MESSAGE and one RECV_MESSAGE are under
 * way, so a call holds one message each way besides what HTTP/2's window lets gRPC read ahead.
 * `pending` counts batches whose completion is still to come; a call is freed when it is 0.
 */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>

#include "common/rpc.h"

/* Tag of a batch. */
struct rpc_op {
	void (*done)(struct rpc_op *op, bool ok); /* on the thread that polls; must not block */
	struct rpc_call *call;
};

/* What was written before a batch is started is seen by who polls its completion: gRPC's queue has
 * a lock. TSan does not see that lock, since gRPC is not built with it, so it is told. */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define rpc_op_hand_over(op) __tsan_release(op)
#define rpc_op_take_over(op) __tsan_acquire(op)
#else
#define rpc_op_hand_over(op) ((void)(op))
#define rpc_op_take_over(op) ((void)(op))
#endif

/* rpc.c ------------------------------------------------------------------------------------------
 */
enum rpc_side { RPC_CLIENT, RPC_SERVER };
#define RPC_ARGS_MAX 24
/* Channel arguments for these limits; args has room for RPC_ARGS_MAX. */
void rpc_channel_args(const struct rpc_limits *limits, enum rpc_side side, grpc_arg *args,
	grpc_channel_args *ret);
/* Make fd fit for gRPC: a connected socket, O_NONBLOCK, CLOEXEC. */
int rpc_prepare_fd(int fd, struct error **err);
/* A thread that takes no signals; those are for the program's own threads. stack_size 0: as usual.
 */
int rpc_thread_start(pthread_t *ret, size_t stack_size, void *(*run)(void *), void *arg);
/* pthread_cond_init for waits against CLOCK_MONOTONIC. */
void rpc_cond_init(pthread_cond_t *cond);

/* rpc_poll.c -------------------------------------------------------------------------------------
 */
grpc_completion_queue *rpc_queue(void);
void rpc_poll_start(void);
void rpc_poll_stop(void); /* no calls and no connections any more */
/* A server comes or goes: while there is one, the poller polls always. */
void rpc_poll_serve(bool serve);
/* Until nothing of the call is pending. Not under its lock. */
void rpc_poll_for(struct rpc_call *call);
/* Before and after a wait for what a completion changes: somebody polls meanwhile. */
void rpc_poll_await(void);
void rpc_poll_awaited(unsigned n);

/* rpc_message.c ----------------------------------------------------------------------------------
 */
/* ERR_LIMIT if it is larger than limits->message. */
grpc_byte_buffer *rpc_message_pack(
	const ProtobufCMessage *message, const struct rpc_limits *limits, struct error **err);
/* The same of what is packed already; data is taken. */
grpc_byte_buffer *rpc_message_wrap(
	uint8_t *data, size_t size, const struct rpc_limits *limits, struct error **err);
/* Does not take the buffer. */
ProtobufCMessage *rpc_message_unpack(grpc_byte_buffer *buffer,
	const ProtobufCMessageDescriptor *type, const struct rpc_limits *limits,
	struct error **err);
/* The part of a text that may travel as a status, as a new slice. */
grpc_slice rpc_status_text_out(const char *text, const struct rpc_limits *limits);
/* A status text of the peer's, capped and escaped; newlines stay. */
char *rpc_status_text_in(grpc_slice text, const struct rpc_limits *limits);
/* Statuses that a handler of ours made carry this in their trailing metadata; others are gRPC's
 * own. */
#define RPC_HANDLER_KEY "x-status-from"

/* rpc_call.c -------------------------------------------------------------------------------------
 */
struct rpc_call {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	grpc_call *grpc;		 /* owned: one reference */
	const struct rpc_method *method; /* borrowed: static; server: NULL if unknown */
	const struct rpc_limits *limits; /* borrowed: the peer's or server's */
	enum rpc_side side;
	unsigned pending;
	unsigned waiting; /* threads in rpc_call_wait() since `round` began: at a completion */
	uint64_t round;
	bool woken;	/* by rpc_wake: the next rpc_recv returns */
	bool cancelled; /* by rpc_cancel, or because the peer object is freed */

	struct rpc_op send_op, recv_op, end_op, aux_op, answer_op;

	/* Sending. */
	grpc_byte_buffer *out; /* owned: the message under way; server, unary: the reply */
	bool sending;
	bool send_failed;
	bool send_closed;

	/* Receiving. A message waits in `in` until someone comes for it. */
	grpc_byte_buffer *in;	    /* owned */
	grpc_byte_buffer *incoming; /* owned: written by gRPC at any time while receiving */
	bool receiving;
	bool recv_ended; /* nothing comes any more; whether properly, `ended` tells */

	/* The call is over: client: the status came; server: closed or cancelled. */
	bool ended;

	/* Client. */
	struct rpc_peer *peer;		   /* owned: one reference */
	struct rpc_call *next, **prev;	   /* in peer->calls, under peer->lock */
	grpc_status_code status;	   /* valid when ended, as are the next two */
	grpc_slice status_text;		   /* owned */
	grpc_metadata_array head, trailer; /* owned */

	/* Server. */
	struct rpc_conn *conn;		   /* borrowed: outlives its calls */
	const struct rpc_service *service; /* borrowed; NULL: no such method */
	struct rpc_call *queue_next;	   /* in server->queue, under server->lock */
	void (*received)(void *arg);	   /* run, and forgotten, when recv_op is done */
	void *received_arg;
	ProtobufCMessage *given_back; /* owned: by rpc_unrecv */
	struct error *error;	      /* owned: of rpc_answer */
	bool at_work;		      /* counted in server->at_work; under its lock */
	bool head_sent;
	bool handled; /* the handler returned, and did not leave it to rpc_answer; or that came */
	bool recv_broken; /* the stream of requests broke off */
	int peer_cancelled;
};

struct rpc_call *rpc_call_new(
	enum rpc_side side, const struct rpc_method *method, const struct rpc_limits *limits);
/* Start a batch whose completion goes to op. Under the call's lock. */
void rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t n, struct rpc_op *op);
/* Ask for the next message, if nobody did. Under the lock. */
void rpc_call_arm(struct rpc_call *call);
/* Wait until `changed`; false when deadline_usec (0: none) has passed. Under the lock. */
bool rpc_call_wait(struct rpc_call *call, uint64_t deadline_usec);
/* In every done function, with the lock held: one batch fewer. Unlocks, and on the server frees
 * the call if this was the last of it. */
void rpc_call_op_done(struct rpc_call *call);
void rpc_call_free(struct rpc_call *call); /* pending is 0 */

/* rpc_client.c: *err from the call's status; it has ended. -1. */
int rpc_client_status(struct rpc_call *call, struct error **err);

/* rpc_server.c -----------------------------------------------------------------------------------
 */
struct rpc_server {
	struct rpc_service *services; /* owned */
	rpc_handler *quick;	      /* owned: of each; fixed before there are connections */
	size_t n_services;
	void *arg; /* borrowed: by the handlers */
	struct rpc_limits limits;
	int epoll; /* what the keeper waits for: wake, and each connection's end */
	int wake;  /* eventfd */
	pthread_t keeper;

	/* Lock order: this one alone; no call's lock is taken under it, nor it under one. */
	pthread_mutex_t lock;
	pthread_cond_t work; /* queue is not empty, or quit */
	struct rpc_conn *conns;
	struct rpc_call *queue, **queue_end; /* accepted, waiting for a thread */
	unsigned queued, idle, n_threads;
	unsigned at_work;   /* quick handlers that run, and calls that they left to rpc_answer() */
	pthread_t *threads; /* owned: limits.calls of them at most */
	bool closing;
	uint64_t grace_end; /* when what still runs is cancelled */
	bool quit;
};

/* Put an accepted call into the queue. Under server->lock. */
void rpc_server_push(struct rpc_server *server, struct rpc_call *call);
const struct rpc_service *rpc_server_find(const struct rpc_server *server, grpc_slice path);
/* NULL: none. service may be. */
rpc_handler rpc_server_quick(const struct rpc_server *server, const struct rpc_service *service);
/* Run the quick handler of a struct rpc_call. On the thread that polls. */
void rpc_server_run_quick(void *call);
/* Of answer_op. */
void rpc_server_answer_done(struct rpc_op *op, bool ok);
/* The call is handled and nothing is under way; takes it. */
void rpc_server_call_over(struct rpc_call *call);

/* rpc_conn.c -------------------------------------------------------------------------------------
 */
struct rpc_conn {
	struct rpc_server *server; /* borrowed: outlives its connections */
	struct rpc_conn *next;	   /* in server->conns */
	grpc_server *grpc;	   /* owned */
	int watch;		   /* owned: see rpc_conn.c */
	void *owner;
	void (*on_close)(void *owner);

	/* Under server->lock. */
	struct rpc_op accept_op, shutdown_op;
	bool accepting, closing, told, forced, shut;
	unsigned calls; /* not yet freed */

	/* Written by gRPC while accepting. */
	grpc_call *accepted;
	grpc_call_details details;
	grpc_metadata_array metadata;
};

/* Take the next call, unless that is asked for already or the connection ends. Under the lock. */
void rpc_conn_accept(struct rpc_conn *conn);
/* Something happened that the keeper may wait for. Under the lock. */
void rpc_server_wake(struct rpc_server *server);
/* The keeper's thread: ends connections, and itself when the server closes and none is left. */
void *rpc_conn_keep(void *server);
