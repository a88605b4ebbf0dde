/* The end of a VM, in the reverse order of its making (vm.c). libvirt may have gone meanwhile, or
 * not answer: then QEMU is ended without it, and what libvirt may still believe, or do late, is put
 * right when it is back. */
#include <string.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/embed_left.h"
#include "orchestrator/process.h"
#include "orchestrator/vm_private.h"

#define QEMU_END_MS 10000
#define KILL_END_MS 5000
/* Three seconds of it before QEMU is killed. */
#define DESTROY_MS 8000

/* Nothing in it is worth saving. */
static void kill_qemu(const struct vm *vm)
{
	_cleanup_free_ char *vms = host_vm_dir(vm->host, NULL);

	if (vm->watch) {
		vm_watch_kill(vm->watch);
		vm_watch_wait_end(vm->watch, KILL_END_MS);
	}
	/* One that was only just started has not told its pid. */
	if (vm->unsure)
		process_kill_vm(vms, vm->facts.id);
}

static void kill_slow(void *arg)
{
	const struct vm *vm = arg;

	log_info(vm->facts.id, "libvirt is slow to end QEMU: it is killed");
	kill_qemu(vm);
}

static void end_domain(struct vm *vm)
{
	_cleanup_error_ struct error *err = NULL;
	struct virt *virt = vm->host->virt;

	/* libvirt sends SIGTERM and then looks five times a second whether the pid is gone. Where
	 * QEMU is our descendant we are faster. */
	if (!vm->domain || virt_is_embedded(virt) || !virt_is_connected(virt))
		kill_qemu(vm);
	if (vm->domain && virt_destroy(vm->domain, DESTROY_MS, kill_slow, vm, &err) < 0) {
		log_warn(vm->facts.id, "%s", err->text);
		vm->unsure = true;
		kill_qemu(vm);
	}
	if (vm->watch && vm_watch_wait_end(vm->watch, QEMU_END_MS) < 0)
		log_error(vm->facts.id, "QEMU (pid %d) does not end", vm->facts.pid);
}

void vm_end(struct vm *vm, void (*on_end)(void *arg), void *arg)
{
	vm->ended = true;
	vm_set_state(vm, "stopping");
	FAILPOINT("destroy.begin");
	if (!vm->domain && !vm->unsure)
		return;
	if (vm->watch)
		vm_watch_on_end(vm->watch, on_end, arg);
	end_domain(vm);
	if (vm->watch)
		vm_watch_on_end(vm->watch, NULL, NULL);
	virt_domain_free(steal_ptr(vm->domain));
	FAILPOINT("destroy.domain");
}

static void remove_dir(const struct vm *vm)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *root = host_embed_root(vm->host);

	if (root)
		embed_left_remove_log(root, vm->facts.id);

	/* A directory says to whoever comes after us that there may be a domain. */
	if (vm->unsure)
		host_destroy_later(vm->host, vm->facts.id);
	else if (vm->dir && remove_tree(vm->dir, &err) < 0)
		log_warn(vm->facts.id, "%s", err->text);
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	if (!vm->ended)
		vm_end(vm, NULL, NULL);
	if (vm->vsock)
		vsock_device_free(vm->vsock);
	FAILPOINT("destroy.device");
	vm_watch_free(vm->watch);
	remove_dir(vm);
	FAILPOINT("destroy.directory");
	if (vm->facts.cid)
		cid_release(vm->host->cids, vm->facts.cid, now_mono_usec());
	explicit_bzero(vm->secret, sizeof(vm->secret));
	free(vm->dir);
	free(vm);
}
