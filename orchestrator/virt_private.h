/* What virt_connect.c (the connection), virt_op.c (calls with a deadline) and virt.c (domains)
 * share.
 *
 * No call of libvirt has a deadline: one waits for as long as libvirtd stands still, or the QEMU
 * that libvirtd talks to. So each is made on a thread that can be left to itself (bounded.h).
 *
 * Each call has a connection to libvirtd of its own as long as it lasts. libvirt's client (seen
 * with 9.0) may crash, in virNetClientIOEventFD(), when a second thread or its keepalive uses a
 * connection on which a call waits, and that keepalive may not notice the silence. One more, on
 * which nothing is called, tells of events and of libvirtd's end or silence. The driver in our own
 * process has neither problem, and one connection. */
#pragma once

#include <libvirt/libvirt.h>
#include <pthread.h>

#include "orchestrator/bounded.h"
#include "orchestrator/virt.h"

#define VIRT_IDLE_MAX 8

struct virt {
	char *real; /* owned; the URI that libvirt gets */
	char *uri;  /* owned; as a person would give it */
	char *root; /* owned; of the driver in this process */
	bool embedded;
	bool system;

	pthread_mutex_t lock;		   /* below: */
	virConnectPtr conn;		   /* own reference; for events */
	bool lost;			   /* conn is of no more use */
	int event_id;			   /* libvirt's callback on conn; -1: none */
	unsigned generation;		   /* of conn; one more at each */
	virConnectPtr idle[VIRT_IDLE_MAX]; /* owned; of this generation, for calls */
	unsigned n_idle;
	unsigned ops; /* that use this */

	pthread_mutex_t domains_lock; /* held while an on_stop is called; below: */
	struct virt_domain *domains;  /* borrowed; all that there are */
};

/* Set *err from libvirt's last error. Returns -1. */
int virt_fail(struct error **err, const char *doing);

/* virt_connect.c: a connection for one call, to be given back, both on a thread that may block;
 * NULL with ERR_UNAVAILABLE if libvirt is lost. */
virConnectPtr virt_take_conn(struct virt *virt, unsigned *ret_generation, struct error **err);
void virt_give_conn(struct virt *virt, virConnectPtr conn, unsigned generation);

/* virt.c: what libvirt tells of a domain. */
void virt_note_event(struct virt *virt, const char *name, int event, int detail);

/* One call of libvirt, or some that belong together, with all that its thread needs. */
struct virt_op {
	struct virt *virt;		  /* borrowed: virt_close() spares it while there are ops */
	const char *call;		  /* libvirt's name for it; static */
	void (*run)(struct virt_op *op);  /* on the thread; sets err or what comes of it */
	void (*undo)(struct virt_op *op); /* on the thread; nobody wants what came of it; or NULL */
	struct bounded *bounded;
	uint64_t begun_usec;

	char *name;	    /* owned; of the domain */
	char *text, *owner; /* owned; what is given */

	virConnectPtr conn; /* while run or undo is called, unless it is NULL */
	unsigned generation;

	struct error *err; /* owned; what comes of it */
	bool active;
	char *answer; /* owned */
	struct virt_listed {
		char *name, *xml; /* owned */
	} * listed;
	int n_listed;
};

struct virt_op *virt_op_new(struct virt *virt, const char *call, void (*run)(struct virt_op *op));
void virt_op_free(struct virt_op *op);
static inline void virt_op_freep(struct virt_op **op)
{
	virt_op_free(*op);
}
#define _cleanup_op_ __attribute__((cleanup(virt_op_freep)))

int virt_op_start(struct virt_op *op, struct error **err);
/* As bounded_wait(); BOUNDED_TIMEOUT also as soon as libvirt is lost. */
enum bounded_answer virt_op_wait(
	struct virt_op *op, uint64_t end_usec, int cancel_fd, int progress_fd);
/* It has returned: its error, if it has one, goes to *err. */
int virt_op_end(struct virt_op *op, struct error **err);
/* Stop waiting: -1 with ERR_TIMEOUT, and *op is NULL; or as virt_op_end(), if it has just returned.
 */
int virt_op_leave(struct virt_op **op, struct error **err);
/* Start it, wait at most so long, and end or leave it. */
int virt_op_call(struct virt_op **op, unsigned timeout_ms, struct error **err);
