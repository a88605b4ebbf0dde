/* The connections between one guest's vsock ports and Unix sockets on the host.
 *
 * Nothing here knows of rings or QEMU: packets come in as scattered memory, packets go out into
 * buffers that the caller offers, the host's sides are fds in the caller's epoll set, and time is
 * passed in (microseconds of the monotonic clock).
 *
 * A connection begins on either side:
 *
 *   host:   accepted from PATH, "CONNECT port\n" read --REQUEST--> guest, RESPONSE --> "OK port\n"
 *   guest:  REQUEST --> connect to "PATH_port" --RESPONSE--> guest; RST if nobody listens
 *
 * and then each direction flows until its sender ends it. What bounds it:
 *
 *   guest to host  The guest may have `buf_alloc` bytes under way that the host's socket has not
 *                  taken; what the socket does not take at once waits in a buffer of that size. A
 *                  guest that sends more is reset. The buffers come out of one budget.
 *   host to guest  Bytes stay in the host's socket until the guest's credit and its receive
 *                  buffers allow for them, then go there directly.
 *   both           A number of connections, of which the guest can use up three quarters; each
 *                  state that waits for a guest to answer has a deadline.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "orchestrator/vsock-device/vring.h"

#define CONNS_MAX	    1024
#define CONN_BUFFER_MOST    (256u * 1024)   /* of one connection; as a Linux guest's */
#define CONN_BUFFER_LEAST   (16u * 1024)    /* however many there are */
#define CONN_BUFFER_BUDGET  (16u << 20)	    /* of all; exceeded only by CONN_BUFFER_LEAST each */
#define CONN_TURN_BYTES	    (64u * 1024)    /* to the guest, before the next one's turn */
#define CONN_HANDSHAKE_USEC (2u * 1000000)  /* for the host's "CONNECT port\n" */
#define CONN_CONNECT_USEC   (4u * 1000000)  /* for the guest's RESPONSE; emulated guests are slow */
#define CONN_DIAL_USEC	    (2u * 1000000)  /* while PATH_port's backlog is full */
#define CONN_STALL_USEC	    (60u * 1000000) /* host gone, and the guest takes none of what it left */
#define CONN_CLOSE_USEC	    (8u * 1000000)  /* for the guest to let go, as long as Linux waits */

struct conn;
struct conns;

/* epoll_fd is borrowed; a conn's fds are added to it with the conn's address as data.u64.
 * path: what "_port" is appended to. */
struct conns *conns_new(int epoll_fd, const char *path, uint64_t guest_cid, unsigned max);
void conns_free(struct conns *conns);

/* While the guest's driver is not there, the host's connections are refused. */
void conns_set_live(struct conns *conns, bool live);
/* The guest has forgotten all connections: end them here too. Bytes that were received go on to
 * the host. */
void conns_reset(struct conns *conns);

/* A connection accepted on PATH; takes fd. */
void conns_accept(struct conns *conns, int fd, uint64_t now);
/* epoll says this of a conn. A conn that has ended meanwhile takes it too, until conns_bury(). */
void conns_event(struct conn *conn, uint32_t events, uint64_t now);

/* False: too many answers wait for the guest's receive buffers, take no more packets from it. */
bool conns_may_receive(const struct conns *conns);
/* One packet, header and payload, in the guest's memory. */
void conns_receive(struct conns *conns, const struct iovec *iov, size_t n, uint64_t now);

/* Is there something for the guest? */
bool conns_want(const struct conns *conns);
/* Write packets into the n buffers, in order, each larger than a header; ret_written gets the bytes
 * of each. Returns how many were used. */
unsigned conns_fill(struct conns *conns, const struct vring_chain *buffers, unsigned n,
	uint32_t *ret_written, uint64_t now);

/* What deadlines ask for. Returns the time of the next one, UINT64_MAX: none. */
uint64_t conns_expire(struct conns *conns, uint64_t now);
/* Free the conns that have ended. Not between epoll_wait() and the last conns_event(). */
void conns_bury(struct conns *conns);

/* Connections of any kind; those that only have bytes left for the host. */
unsigned conns_count(const struct conns *conns);
unsigned conns_draining(const struct conns *conns);
