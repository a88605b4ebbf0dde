/* libvirt, and the only files that know it: connect, create, watch and destroy our domains.
 *
 * All functions block and may be called from any thread; none but virt_connect() and
 * virt_emulator() blocks longer than it says here, or a few seconds: what libvirt does not answer
 * to fails with ERR_TIMEOUT, and its answer is dealt with when it comes. libvirt's own message,
 * code and domain reach the caller in the error's text. Domains that are not ours (no orchestrator
 * metadata of this state directory) are never listed, changed or destroyed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct virt;
struct virt_domain;

/* "embed" means the QEMU driver inside this process, rooted at embed_root. Not connected yet. */
struct virt *virt_new(const char *uri, const char *embed_root);
/* Where a call has no answer yet, all stays as it is: for the process's end only. */
void virt_close(struct virt *virt);
/* Wait, at most so long, for calls that were left to themselves (see bounded.h), with what undoes
 * them. */
void virt_settle(struct virt *virt, unsigned timeout_ms);
/* Is there still somebody at its other end, as far as we know? */
bool virt_is_connected(struct virt *virt);
/* The first connection, or a new one in the place of one that was lost; nothing to do where there
 * is one. Has no deadline. Not to be called twice at a time. Domains go over to it by themselves.
 * The first one of a process starts libvirt's event loop on a thread of its own. */
int virt_connect(struct virt *virt, struct error **err);
/* What a person can do when libvirt does not answer. */
const char *virt_advice(const struct virt *virt);
/* The URI connected to, as a person would give it. */
const char *virt_uri(const struct virt *virt);
/* The driver runs in this process, so QEMU is our descendant. */
bool virt_is_embedded(const struct virt *virt);
/* QEMU is started by the system's libvirtd, with other rights than ours. */
bool virt_is_system(const struct virt *virt);
/* The emulator that libvirt uses, a path; NULL if it cannot say. To be freed. */
char *virt_emulator(struct virt *virt);

/* How long virt_create() waits. */
struct virt_patience {
	int cancel_fd;	     /* readable: it gives up two seconds later; -1: none */
	int running_fd;	     /* readable: QEMU runs, and */
	unsigned running_ms; /* shall answer libvirt within this time. Until then libvirt may be
				finding out what QEMU can do, for four minutes */
};
/* Start a transient domain, whose XML has that name. What the error's code means: ERR_STATE the
 * vsock CID is taken (pick another); ERR_LIMIT no memory; ERR_NOT_FOUND the emulator is missing;
 * ERR_TIMEOUT and ERR_CANCELLED: it may still come to be, and is destroyed then; where the
 * connection was lost too, by nobody (virt_find()); else ERR_UNAVAILABLE. */
struct virt_domain *virt_create(struct virt *virt, const char *name, const char *xml,
	const struct virt_patience *patience, struct error **err);
/* A domain that runs, with that owner in its metadata; ERR_NOT_FOUND: libvirt has none. 30 seconds
 * at most. */
struct virt_domain *virt_find(
	struct virt *virt, const char *name, const char *owner, struct error **err);
/* End it at once. A domain that is gone already is success. If libvirt has not done so after three
 * seconds, slow(arg) is called (NULL: nobody), which may help. */
int virt_destroy(struct virt_domain *domain, unsigned timeout_ms, void (*slow)(void *arg),
	void *arg, struct error **err);
void virt_domain_free(struct virt_domain *domain);

/* Why a domain stopped; VIRT_RUNNING while it has not. */
enum virt_stop { VIRT_RUNNING, VIRT_SHUTDOWN, VIRT_CRASHED, VIRT_DESTROYED, VIRT_FAILED };
/* on_stop is called once, on libvirt's event thread, when the domain stops for whatever reason; set
 * it right after creation (a stop before that is reported at once). */
void virt_domain_on_stop(
	struct virt_domain *domain, void (*on_stop)(void *arg, enum virt_stop why), void *arg);
/* Put these metadata (domain_xml_metadata) in the place of ours. */
int virt_domain_label(struct virt_domain *domain, const char *metadata, struct error **err);
/* A reference more, for virt_domain_label() beside the owner; to be given back. */
struct virt_domain *virt_domain_ref(struct virt_domain *domain);
void virt_domain_unref(struct virt_domain *domain);
/* The live XML; to be freed. Somebody waits for it: five seconds at most. */
char *virt_domain_xml(struct virt_domain *domain, struct error **err);

/* Call each(arg, name, xml) for every domain whose metadata names owner (virt_metadata in
 * domain_xml.h). Returns how many, or -1. 25 seconds at most, and what each() takes. */
int virt_each_ours(struct virt *virt, const char *owner,
	void (*each)(void *arg, struct virt_domain *domain, const char *name, const char *xml),
	void *arg, struct error **err);
