/* What vm.c (a VM from its beginning to its end) and vm_adopt.c (from its middle) share. */
#pragma once

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
	char image_digest[96];
};

/* Listen to the console, whose socket listens already (taken). */
int vm_watch_console(struct vm *vm, int listen_fd, bool reap, struct error **err);
