/* What vm.c (a VM from its beginning to its end), vm_files.c (its directory) and vm_adopt.c (from
 * its middle) share. */
#pragma once

#include "orchestrator/host_private.h"
#include "orchestrator/vm.h"

struct vm {
	struct host *host;	      /* borrowed */
	const struct vm_order *order; /* borrowed */
	struct vm_facts facts;
	char *dir; /* owned */
	uid_t uid;
	gid_t gid;
	uint8_t secret[PROOF_SECRET_BYTES];
	enum vsock_kind vsock_kind;
	bool kvm;
	struct vm_watch *watch;
	struct vsock_device *vsock;
	struct virt_domain *domain;
	bool unsure; /* libvirt may have a domain of it beside, or without, what domain says */
	char image_digest[96];
	bool ended; /* vm_end() */
};

/* Listen to the console, whose socket listens already (taken). */
int vm_watch_console(struct vm *vm, int listen_fd, bool reap, struct error **err);

/* The directory, in the order in which it is filled. */
int vm_make_dir(struct vm *vm, struct error **err);
int vm_make_secret(struct vm *vm, struct error **err);
/* The job's own disk, if it asked for one. */
int vm_make_scratch(struct vm *vm, struct error **err);
/* Of kernel and initramfs, where QEMU runs as a user of its own (vm_has_copies). */
int vm_make_copies(const struct vm *vm, struct error **err);
bool vm_has_copies(const struct vm *vm);
void vm_remove_copies(const struct vm *vm);
/* A path in the directory; to be freed. */
char *vm_path(const struct vm *vm, const char *name);
/* A file of this VM's that QEMU must read or write. */
int vm_give_to_qemu(const struct vm *vm, const char *path, struct error **err);
