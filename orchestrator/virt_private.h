/* What virt_connect.c (the connection) and virt.c (domains) share. */
#pragma once

#include <libvirt/libvirt.h>
#include <pthread.h>

#include "orchestrator/virt.h"

struct virt {
	char *real; /* owned; the URI that libvirt gets */
	char *uri;  /* owned; as a person would give it */
	bool embedded;
	bool system;

	pthread_mutex_t lock; /* below: */
	virConnectPtr conn;   /* own reference */
	bool lost;	      /* conn is of no more use */
};

/* A reference to the connection as it is now, to be closed; NULL with ERR_UNAVAILABLE if it is
 * lost. */
virConnectPtr virt_conn(struct virt *virt, struct error **err);

/* Set *err from libvirt's last error. Returns -1. */
int virt_fail(struct error **err, const char *doing);
