/* A worker in this process, and a host that talks to it over a socket pair. */
#pragma once

#include <sys/socket.h>

#include "common/util.h"
#include "common/worker_api.h"
#include "guest-worker/service.h"

#define PATIENCE_MS 60000

static inline struct rpc_peer *dial(struct worker *worker)
{
	_cleanup_error_ struct error *err = NULL;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(worker_serve(worker, fds[1], &err), 0);
	struct rpc_peer *peer = rpc_peer_new(fds[0], "worker", &rpc_limits_guest, &err);
	assert_non_null(peer);
	return peer;
}

/* ERR codes are from 1 on; 0 is success. */
static inline int call_code(struct rpc_peer *peer, const struct rpc_method *method,
	const ProtobufCMessage *request, ProtobufCMessage **ret)
{
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *reply = NULL;

	if (rpc_unary(peer, method, request, PATIENCE_MS, &reply, &err) < 0)
		return (int)err->code;
	if (ret)
		*ret = reply;
	else
		rpc_message_free(reply);
	return 0;
}
