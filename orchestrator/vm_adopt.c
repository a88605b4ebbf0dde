/* A VM from its middle: its domain, its device's process and its directory are there, made by a
 * daemon that has gone. QEMU dials the console's socket again by itself (domain_xml.c: reconnect).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/process.h"
#include "orchestrator/vm_private.h"

#define CONNECT_MS 5000

static struct vm *vm_from_note(
	struct host *host, const struct vm_order *order, const struct vm_note *note)
{
	struct vm *vm = xcalloc(1, sizeof(*vm));

	vm->host = host;
	vm->order = order;
	vm->uid = note->uid;
	vm->gid = note->gid;
	vm->kvm = note->kvm;
	vm->vsock_kind = note->vsock_kind;
	memcpy(vm->secret, note->secret, sizeof(vm->secret));
	memcpy(vm->image_digest, note->image_digest, sizeof(vm->image_digest));
	snprintf(vm->facts.id, sizeof(vm->facts.id), "%s", note->id);
	snprintf(vm->facts.uuid, sizeof(vm->facts.uuid), "%.36s", note->uuid);
	host_domain_name(host, note->id, vm->facts.domain, sizeof(vm->facts.domain));
	snprintf(vm->facts.image, sizeof(vm->facts.image), "%s", note->image);
	vm->facts.accelerator = note->kvm ? "kvm" : "tcg";
	vm->facts.vsock_device = vsock_kind_name(note->vsock_kind);
	vm->facts.state = "running";
	vm->facts.pooled = note->pooled;
	vm->facts.cid = note->cid;
	vm->facts.cpus = note->cpus;
	vm->facts.memory_bytes = note->memory_bytes;
	vm->facts.started_usec = note->started_usec;
	vm->facts.pid = note->qemu;
	vm->dir = host_vm_dir(host, note->id);
	return vm;
}

/* The VM's directory belongs to QEMU's user, who is not to be trusted with paths that we change: so
 * the socket is made in a directory of ours and moved there, over what is there. */
static int listen_console(const struct vm *vm, struct error **err)
{
	_cleanup_free_ char *ours = str_printf("%s.console", vm->dir);
	_cleanup_free_ char *path = str_printf("%s/console.sock", vm->dir);
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	if (strlen(ours) >= sizeof(ep.path))
		return error_set(err, ERR_INVALID, "%s: too long for a socket", ours);
	strcpy(ep.path, ours);
	unlink(ours);
	_cleanup_close_ int fd = sock_listen(&ep, 4, 0600, err);
	if (fd < 0)
		return -1;
	int r = vm_give_to_qemu(vm, ours, err);
	if (r == 0 && rename(ours, path) < 0)
		r = error_errno(err, errno, "%s", path);
	if (r < 0) {
		unlink(ours);
		return -1;
	}
	return steal_fd(fd);
}

/* The VM does not need libvirt to go on, nor do we to follow it: without an answer it is ended by
 * its pid, and its domain is destroyed when there is one. */
static int find_domain(struct vm *vm, pid_t qemu, uint64_t qemu_start, struct error **err)
{
	_cleanup_error_ struct error *failed = NULL;
	struct virt *virt = host_virt_within(vm->host, CONNECT_MS, &failed);

	vm->domain = virt ? virt_find(virt, vm->facts.domain, vm->host->owner, &failed) : NULL;
	vm->unsure = !vm->domain;
	if (vm->domain)
		return 0;
	_cleanup_close_ int fd = process_open(qemu, qemu_start);
	if (failed->code != ERR_NOT_FOUND && fd >= 0) {
		log_warn(vm->facts.id, "taken up without libvirt: %s", failed->text);
		return 0;
	}
	return error_move(err, steal_ptr(failed));
}

static int take_up(struct vm *vm, const struct vm_note *note, struct error **err)
{
	cid_hold(vm->host->cids, note->cid);
	vm->vsock = vsock_device_adopt(note->vsock_kind, vm->dir, note->cid,
		process_open(note->device, note->device_start));
	if (find_domain(vm, note->qemu, note->qemu_start, err) < 0)
		return -1;
	FAILPOINT("adopt.domain");
	int listen_fd = listen_console(vm, err);
	FAILPOINT("adopt.console");
	/* Not ours to reap: it is the child of whoever takes up orphans here. */
	if (listen_fd < 0 || vm_watch_console(vm, listen_fd, false, err) < 0)
		return -1;
	if (note->qemu)
		vm_watch_adopt(vm->watch, note->qemu, process_open(note->qemu, note->qemu_start));
	return 0;
}

struct vm *vm_adopt(struct host *host, const struct vm_order *order, const struct vm_note *note,
	struct error **err)
{
	struct vm *vm = vm_from_note(host, order, note);

	if (order->on_progress)
		order->on_progress(order->arg, &vm->facts, STAGES, now_real_usec());
	FAILPOINT("adopt.begin");
	if (take_up(vm, note, err) < 0) {
		error_wrap(err, "taking up %s", note->id);
		vm_destroy(vm);
		return NULL;
	}
	return vm;
}
