/* Connected and listening sockets. The project opens, checks and owns sockets; gRPC adopts
 * connected fds. All fds are CLOEXEC. In error texts an endpoint is named so:
 *
 *   unix:PATH          a Unix stream socket
 *   vsock:CID:PORT     AF_VSOCK; for listening the CID is "any"
 *   hybrid:PATH:PORT   a Unix socket that speaks "CONNECT port\n" -> "OK hostport\n" (the userspace
 *                      vsock device; the same scheme as Firecracker's and Cloud Hypervisor's)
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

enum endpoint_kind { ENDPOINT_UNIX, ENDPOINT_VSOCK, ENDPOINT_HYBRID };

struct endpoint {
	enum endpoint_kind kind;
	char path[108]; /* unix, hybrid */
	uint32_t cid;	/* vsock; UINT32_MAX is any */
	uint32_t port;	/* vsock, hybrid */
};

/* As above. Owned by the caller. */
char *endpoint_format(const struct endpoint *ep);

/* A connected, blocking fd, or -1. deadline_ms > 0 bounds the whole dialling, for hybrid including
 * the handshake, of which not one byte too many is read. */
int sock_connect(const struct endpoint *ep, int deadline_ms, struct error **err);
/* The same, but ERR_CANCELLED once cancel_fd is readable (-1: none), where it is the guest that is
 * waited for. */
int sock_connect_until(
	const struct endpoint *ep, int deadline_ms, int cancel_fd, struct error **err);

/* May this process bind AF_VSOCK ports below 1024 (CAP_NET_BIND_SERVICE)? Then sock_connect() dials
 * guests from one of those, which nobody without the right can. false also where there is no
 * AF_VSOCK. */
bool sock_vsock_privileged(void);

/* A listening fd. unix: makes the socket with this mode; a stale one (nobody listens) is replaced,
 * a live one is ERR_EXISTS. */
int sock_listen(const struct endpoint *ep, int backlog, mode_t mode, struct error **err);

/* Accept one connection within timeout_ms (-1: for ever); ERR_TIMEOUT if none came. */
int sock_accept(int listen_fd, int timeout_ms, struct error **err);

/* The peer of a connected Unix socket. */
int sock_peer_uid(int fd, uid_t *ret_uid, pid_t *ret_pid, struct error **err);
/* The peer of a connected AF_VSOCK socket. */
int sock_peer_cid(int fd, uint32_t *ret_cid, uint32_t *ret_port, struct error **err);
