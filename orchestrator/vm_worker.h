/* From a VM that is up to the worker in it. */
#pragma once

#include "orchestrator/guest.h"
#include "orchestrator/vm.h"

/* Connect to the worker of the VM, and let both sides prove themselves to each other. Blocks, until
 * the VM is cancelled or, from reachable() on, until guest_interrupt().
 *
 * reachable() is called on this thread when there is a connection, before anything is waited for;
 * the guest is its owner's from then on, also when this fails afterwards.
 *
 * ERR_UNAUTHENTICATED, ERR_STATE: what answers is not a worker of ours (guest_hello()). */
int vm_reach_worker(const struct vm *vm, void (*reachable)(void *arg, struct guest *guest),
	void *arg, struct guest_hello *ret_hello, struct error **err);
