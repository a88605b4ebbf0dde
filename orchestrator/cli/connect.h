/* The way to the daemon: connect to its control socket, and start it when nobody listens there. */
#pragma once

#include <jansson.h>

#include "common/rpc.h"
#include "control.pb-c.h"
#include "orchestrator/cli/cli.h"

/* How long a daemon may take to say that it is ready. */
#define CONNECT_START_MS 30000
/* How long it may take to answer a simple question. */
#define CONNECT_CALL_MS 30000

enum connect_mode {
	CONNECT_START,	    /* a daemon is needed */
	CONNECT_IF_RUNNING, /* without one there is nothing to ask */
	/* The connection was lost. A daemon that died is started again, and takes up its jobs; one
	 * that was told to leave stays away. */
	CONNECT_AGAIN,
};

/* A connection to the daemon of this configuration, whose version is ours and which serves our
 * state directory. *ret_info may be NULL, else to be freed by rpc_message_free(). 0 with *ret_peer
 * NULL: none runs (CONNECT_IF_RUNNING only). rpc_init() is done here, rpc_quit() in
 * connect_close(). */
int connect_daemon(const struct cli *cli, enum connect_mode mode, struct rpc_peer **ret_peer,
	Control__V1__InfoReply **ret_info, struct error **err);
void connect_close(struct rpc_peer *peer); /* NULL is allowed */

/* Does a living daemon hold the state directory? It may be about to listen, or about to leave. */
bool connect_is_locked(const struct config *config);

static inline void connect_closep(struct rpc_peer **peer)
{
	connect_close(*peer);
}
#define _cleanup_peer_ __attribute__((cleanup(connect_closep)))

/* rpc_unary for the replies the commands get: *ret_reply is to be freed by rpc_message_free(). */
int connect_call(struct rpc_peer *peer, const struct rpc_method *method, const void *request,
	int timeout_ms, void *ret_reply, struct error **err);

/* A call with one request and a stream of replies, each within reply_ms: rows gets view(reply), a
 * new reference, of each. On failure -1, and rows has those that came before. */
int connect_list(struct rpc_peer *peer, const struct rpc_method *method,
	const ProtobufCMessage *request, int reply_ms, json_t *(*view)(const ProtobufCMessage *),
	json_t *rows, struct error **err);
