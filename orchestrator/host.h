/* What all VMs of this daemon share: the libvirt connection, the watcher, CIDs, the accelerator's
 * answer, and where their files are. The functions for the daemon are in attempt.h. */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "orchestrator/accel.h"
#include "orchestrator/attempt.h"
#include "orchestrator/cid.h"
#include "orchestrator/virt.h"
#include "orchestrator/vsock.h"
#include "orchestrator/vm_watch.h"

#define DOMAIN_PREFIX "orchestrator-"

struct host {
	const struct config *config; /* borrowed */
	struct vm_watcher *watcher;
	struct cid_pool *cids;
	struct accel *accel;
	char *owner; /* names this state directory in our domains' metadata */

	pthread_mutex_t lock; /* below: */
	struct virt *virt;    /* NULL until the first VM */
	char *emulator;	      /* owned */
	bool vsock_known;
	enum vsock_kind vsock;
};

/* The connection, made at the first call. */
struct virt *host_virt(struct host *host, struct error **err);
/* QEMU's path, as libvirt says; NULL if it does not. After host_virt(). */
const char *host_emulator(const struct host *host);
int host_vsock(struct host *host, enum vsock_kind *ret_kind, struct error **err);
/* RUNTIME_DIR/vm, or RUNTIME_DIR/vm/ID. */
char *host_vm_dir(const struct host *host, const char *vm_id);

/* Who QEMU shall run as, to read the image and to reach RUNTIME_DIR: libvirt's own unprivileged
 * user where we are root and it can; ourselves where the system's libvirtd starts it for us, with
 * the group that its directories want; (uid_t)-1 where that is not ours to say. */
void host_qemu_user(const struct host *host, const char *image_dir, uid_t *ret_uid, gid_t *ret_gid);

/* Is there memory for one more VM of this size? */
int host_check_memory(uint64_t bytes, struct error **err);
