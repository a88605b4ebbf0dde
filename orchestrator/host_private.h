/* The host as its VMs see it. */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "orchestrator/accel.h"
#include "orchestrator/cid.h"
#include "orchestrator/host.h"
#include "orchestrator/virt.h"
#include "orchestrator/vsock.h"
#include "orchestrator/vm_watch.h"

#define DOMAIN_PREFIX "orchestrator-" /* where others see it (virsh) */

struct host {
	const struct config *config; /* borrowed */
	struct vm_watcher *watcher;
	struct cid_pool *cids;
	struct accel *accel;
	char *owner; /* names this state directory in our domains' metadata */

	struct virt *virt;

	pthread_mutex_t lock;	    /* never held while something blocks; below: */
	bool known;		    /* it was connected once */
	bool asking;		    /* connected, and libvirt is asked what QEMU can do */
	bool expected;		    /* libvirt is known to work here */
	bool tidying;		    /* a thread destroys those below */
	struct host_doomed *doomed; /* owned; domains to destroy when it is back */
	bool connecting;	    /* a thread is at it */
	int idle_fd;		    /* an eventfd: readable while none is */
	struct error *failed;	    /* owned; why the last one could not */
	char *emulator;		    /* owned */
	bool vsock_known;
	enum vsock_kind vsock;
};

/* The connection, made at the first call, and again when it was lost. The first is tried once, so
 * that a wrong setting is told at once; a libvirt that was there before, or that starts by itself,
 * gets half a minute to come (back). A libvirtd that takes the connection and says nothing costs
 * its caller that half a minute, the first time a minute (ERR_TIMEOUT). All of that ends when
 * cancel_fd (-1: none) becomes readable (ERR_CANCELLED); others who only look at the host do not
 * wait. */
struct virt *host_virt(struct host *host, int cancel_fd, struct error **err);
/* The same by one try, which takes so long at most. */
struct virt *host_virt_within(struct host *host, unsigned timeout_ms, struct error **err);
/* Libvirt worked here for a daemon before us: wait for it as if it had for us. */
void host_expect_libvirt(struct host *host, bool expected);
/* Destroy the domain of this VM of ours, and remove its directory, once libvirt is back or answers;
 * a domain that it makes only then, too. */
void host_destroy_later(struct host *host, const char *vm_id);
/* Is that to be done still? */
bool host_is_doomed(struct host *host, const char *vm_id);
void host_forget_domains(struct host *host);
/* QEMU's path, as libvirt says; NULL if it did not. After host_virt(). */
const char *host_emulator(const struct host *host);
int host_vsock(struct host *host, enum vsock_kind *ret_kind, struct error **err);
/* STATE_DIR/libvirt, where libvirt's embedded driver is used, and is ours; else NULL. To be freed.
 */
char *host_embed_root(const struct host *host);
/* RUNTIME_DIR/vm, or RUNTIME_DIR/vm/ID. */
char *host_vm_dir(const struct host *host, const char *vm_id);
/* What the VM's domain is called: orchestrator-vm-XXXXXXXX, and in the embedded driver, where
 * nobody else looks, vm-XXXXXXXX: libvirt puts it into the name of a socket below STATE_DIR, and
 * each byte of it is one that the state directory's path cannot have. */
void host_domain_name(const struct host *host, const char *vm_id, char *ret, size_t size);

/* Who QEMU shall run as, to read the image and to reach RUNTIME_DIR: libvirt's own unprivileged
 * user where we are root and it can; ourselves where the system's libvirtd starts it for us, with
 * the group that its directories want; (uid_t)-1 where that is not ours to say. */
void host_qemu_user(
	const struct host *host, const char *image_root, uid_t *ret_uid, gid_t *ret_gid);

/* Is there memory for one more VM of this size? */
int host_check_memory(uint64_t bytes, struct error **err);
