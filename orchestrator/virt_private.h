/* What virt_connect.c (the connection), virt_op.c (calls with a deadline) and virt.c (domains)
 * share.
 *
 * No call of libvirt has a deadline: a libvirtd that stands still is noticed by the connection's
 * keepalive, but one whose thread waits for a QEMU that stands still is not, nor is the driver in
 * our own process. So each call that may wait for somebody is made on a thread that can be left to
 * itself. */
#pragma once

#include <libvirt/libvirt.h>
#include <pthread.h>

#include "orchestrator/bounded.h"
#include "orchestrator/virt.h"

struct virt {
	char *real; /* owned; the URI that libvirt gets */
	char *uri;  /* owned; as a person would give it */
	char *root; /* owned; of the driver in this process */
	bool embedded;
	bool system;

	pthread_mutex_t lock; /* below: */
	virConnectPtr conn;   /* own reference */
	bool lost;	      /* conn is of no more use */
	unsigned ops;	      /* that use this */
};

/* A reference to the connection as it is now, to be closed; NULL with ERR_UNAVAILABLE if it is
 * lost. */
virConnectPtr virt_conn(struct virt *virt, struct error **err);

/* Set *err from libvirt's last error. Returns -1. */
int virt_fail(struct error **err, const char *doing);

struct virt_listed {
	struct virt_domain *domain; /* a reference */
	char *xml;		    /* owned */
};

/* One call of libvirt, or some that belong together, with all that its thread needs. */
struct virt_op {
	struct virt *virt;		  /* borrowed: virt_close() spares it while there are ops */
	const char *call;		  /* libvirt's name for it; static */
	void (*run)(struct virt_op *op);  /* on the thread; sets err or what comes of it */
	void (*undo)(struct virt_op *op); /* on the thread; nobody wants what came of it; or NULL */
	struct bounded *bounded;
	uint64_t begun_usec;

	struct virt_domain *domain; /* a reference, or NULL */
	virConnectPtr conn;	    /* a reference, or NULL */
	virDomainPtr dom;	    /* a reference, or NULL */
	int callback_id;
	char *text, *owner; /* owned; what is given */

	struct error *err; /* owned; what comes of it */
	struct virt_domain *found;
	char *answer; /* owned */
	struct virt_listed *listed;
	int n_listed;
};

struct virt_op *virt_op_new(struct virt *virt, const char *call, void (*run)(struct virt_op *op));
/* With the references that are still in it. */
void virt_op_free(struct virt_op *op);
static inline void virt_op_freep(struct virt_op **op)
{
	virt_op_free(*op);
}
#define _cleanup_op_ __attribute__((cleanup(virt_op_freep)))

int virt_op_start(struct virt_op *op, struct error **err);
/* As bounded_wait(). BOUNDED_TIMEOUT also, and sooner, where the connection is given up: by its
 * keepalive, or because libvirt answers nothing else on it either. */
enum bounded_answer virt_op_wait(
	struct virt_op *op, uint64_t end_usec, int cancel_fd, int progress_fd);
/* It has returned: its error, if it has one, goes to *err. */
int virt_op_end(struct virt_op *op, struct error **err);
/* Stop waiting: -1 with ERR_TIMEOUT, and *op is NULL; or as virt_op_end(), if it has just returned.
 */
int virt_op_leave(struct virt_op **op, struct error **err);
/* Start it, wait at most so long, and end or leave it. */
int virt_op_call(struct virt_op **op, unsigned timeout_ms, struct error **err);
/* Start it, and wait for nothing. Takes op. */
void virt_op_leave_alone(struct virt_op *op);

/* Give references back (taken; dom may be NULL, callback_id -1), without waiting. */
void virt_release(struct virt *virt, virConnectPtr conn, virDomainPtr dom, int callback_id);
/* virt_connect.c: nothing is answered on this connection. */
void virt_give_up(struct virt *virt, virConnectPtr conn);

/* virt.c: stop watching it, and give a reference back. */
void virt_domain_drop(struct virt_domain *domain);
