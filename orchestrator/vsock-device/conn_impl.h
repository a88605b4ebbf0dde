/* What conn.c, conn_host.c and conn_guest.c share. Nobody else includes this. */
#pragma once

#include <sys/queue.h>
#include <sys/un.h>

#include "orchestrator/vsock-device/conn.h"
#include "orchestrator/vsock-device/packet.h"

#define CONN_BUCKETS 256u /* a power of two */
#define CONN_ORPHANS 256u

/*
 *  host dials:   HANDSHAKE --> REQUESTED --.
 *  guest dials:  DIALLING ------------------+--> OPEN --> CLOSING ----------.
 *                                                  | '--> RESETTING ---------+--> DEAD
 *                                                  '----> DRAINING ---------'
 * Any state may go to RESETTING (the guest knows of the connection) or DEAD (it does not).
 */
enum conn_state {
	CONN_HANDSHAKE, /* the host's CONNECT line is awaited; has no ports, is not in the table */
	CONN_REQUESTED, /* the guest's answer is awaited */
	CONN_DIALLING,	/* the guest's REQUEST waits for room in PATH_port's backlog */
	CONN_OPEN,	/* each direction flows until it is shut */
	CONN_CLOSING,	/* both directions are shut towards the guest, fd closed; its RST is awaited
			 */
	CONN_RESETTING, /* fd closed; a RST waits to be sent, then DEAD */
	CONN_DRAINING,	/* the guest is gone, the buffer goes on to the host; not in the table */
	CONN_DEAD,	/* fd closed; waits for conns_bury() */
};

/* Packets to be sent, in this order; data stands between RESPONSE and SHUTDOWN. */
enum conn_pending {
	PENDING_RST = 1,
	PENDING_REQUEST = 2,
	PENDING_RESPONSE = 4,
	PENDING_SHUTDOWN = 8,
	PENDING_CREDIT = 16,
};

struct conn {
	struct conns *conns; /* borrowed */
	LIST_ENTRY(conn) all, bucket;
	TAILQ_ENTRY(conn) turn;
	enum conn_state state;
	bool in_bucket, in_turn, by_guest;
	uint32_t host_port, guest_port;
	int fd;		   /* owned; -1: closed */
	uint64_t deadline; /* UINT64_MAX: none */
	uint64_t retry;	   /* DIALLING: when to try again */
	unsigned pending;  /* enum conn_pending */

	/* Host to guest. */
	bool readable; /* fd may have something; cleared when it was found empty */
	bool rdhup;    /* no more will come after that */
	bool held;     /* the guest has no credit, and there is more than the end to come */
	bool hup;      /* the host has closed its socket altogether */
	bool eof;      /* all was read */
	uint8_t shut, shut_sent; /* VIRTIO_VSOCK_SHUTDOWN_*: the guest shall know, knows */
	uint32_t sent;		 /* bytes, modulo 2^32, as all counts of the protocol */
	uint32_t guest_buf_alloc, guest_fwd_cnt;

	/* Guest to host. */
	uint8_t guest_shut; /* VIRTIO_VSOCK_SHUTDOWN_*: what the guest has said */
	bool deaf;	    /* the host reads no more: bytes are thrown away */
	bool write_shut;    /* fd's sending side was shut: all is through */
	uint32_t buf_alloc; /* what the guest may have under way; size of the buffer */
	uint32_t received, forwarded, announced; /* announced: forwarded, as the guest knows it */
	uint8_t *buffer;			 /* owned; NULL while the socket takes all */
	uint32_t buffer_start, buffer_used;
};

struct orphan {
	uint32_t host_port, guest_port;
	uint16_t type;
};

LIST_HEAD(conn_list, conn);
TAILQ_HEAD(conn_queue, conn);

struct conns {
	int epoll_fd; /* borrowed */
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	uint64_t guest_cid;
	unsigned max, count, by_guest, draining;
	bool live;
	uint32_t next_port; /* for the host's side */
	uint64_t buffers;   /* sum of buf_alloc */
	uint64_t next_expiry;
	struct conn_list all, dead, buckets[CONN_BUCKETS];
	struct conn_queue turns; /* those with something for the guest */
	/* RSTs for packets that belong to no connection; a ring. */
	struct orphan orphans[CONN_ORPHANS];
	unsigned orphan_first, orphan_count;
};

/* conn.c */
/* fd is taken; NULL (and fd closed) when there are too many. */
struct conn *conn_new(struct conns *conns, int fd, bool by_guest);
struct conn *conn_find(struct conns *conns, uint32_t host_port, uint32_t guest_port);
void conn_enter(struct conn *conn, uint32_t host_port, uint32_t guest_port);
void conn_set_deadline(struct conn *conn, uint64_t at);
void conn_end(struct conn *conn);   /* to DEAD, and nobody is told */
void conn_reset(struct conn *conn); /* to RESETTING */
void conn_gone(struct conn *conn);  /* the guest's side is no more: to DRAINING or DEAD */
void conn_send(struct conn *conn, unsigned pending);
/* Something about the two directions has changed: draw the conclusions. */
void conn_settle(struct conn *conn);
/* Has it something for the guest that may go now? */
bool conn_wants_turn(const struct conn *conn);
uint32_t conn_credit(const struct conn *conn);
/* A RST for a packet of the guest's that belongs to no connection. */
void conns_orphan(struct conns *conns, uint32_t host_port, uint32_t guest_port, uint16_t type);

/* conn_host.c */
/* Connect to PATH_port for a guest's REQUEST. */
void conn_dial(struct conn *conn, uint64_t now);
void conn_tell_ok(struct conn *conn);
/* Take size bytes of the guest's. */
void conn_write(struct conn *conn, const struct iovec *iov, size_t n, size_t size);
