/* A VM is made in this order, and unmade in the reverse one:
 *
 *   directory and secret -> console socket -> vsock device -> domain -> the worker's announcement
 *
 * The directory becomes QEMU's only when all in it is made: QEMU runs as one user for all VMs, and
 * one that its guest took over must not put a link in the way of what we write, format and give
 * away there as root.
 *
 * The sockets are there before QEMU is, so nothing has to be waited for but the announcement. It
 * comes by the userspace device's ready socket, or on the console; the console also tells of a
 * panic. */
#include "orchestrator/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"
#include "common/worker_proof.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/process.h"
#include "orchestrator/spawn.h"
#include "orchestrator/tsc.h"
#include "orchestrator/vm_private.h"

#define FIRMWARE       "/usr/share/qemu/qboot.rom"
#define CID_TRIES      5
#define LIBVIRT_LOSSES 3 /* in starting one VM */
/* libvirt talks to QEMU for as long as QEMU takes to begin. */
#define LIBVIRT_START_MS 30000
/* For the job's record; a libvirtd that was started again is there at once. */
#define WALL_CONNECT_MS 3000
#define TAIL_IN_ERRORS	400
/* How long the reason for one loss may come after the loss. */
#define SETTLE_MS 10000

static void progress(struct vm *vm, enum job_stage stage)
{
	if (vm->order->on_progress)
		vm->order->on_progress(vm->order->arg, &vm->facts, stage, now_real_usec());
}

void vm_set_state(struct vm *vm, const char *state)
{
	vm->facts.state = state;
	progress(vm, STAGES);
}

const struct vm_facts *vm_facts(const struct vm *vm)
{
	return &vm->facts;
}

const uint8_t *vm_secret(const struct vm *vm)
{
	return vm->secret;
}

int vm_device_pid(const struct vm *vm)
{
	return vsock_device_pid(vm->vsock);
}

int vm_connect(const struct vm *vm, uint32_t port, int timeout_ms, struct error **err)
{
	return vsock_device_connect(vm->vsock, port, timeout_ms, vm->order->cancel_fd, err);
}

/* Making it. -------------------------------------------------------------------------------------
 */

static void name_vm(struct vm *vm)
{
	uint8_t r[16];
	_cleanup_free_ char *hex = NULL;

	random_bytes(r, sizeof(r));
	r[6] = (uint8_t)((r[6] & 0x0f) | 0x40); /* a version 4 UUID */
	r[8] = (uint8_t)((r[8] & 0x3f) | 0x80);
	hex = hex_encode(r, sizeof(r));
	snprintf(vm->facts.uuid, sizeof(vm->facts.uuid), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8,
		hex + 12, hex + 16, hex + 20);
	snprintf(vm->facts.id, sizeof(vm->facts.id), "vm-%.8s", hex);
	host_domain_name(vm->host, vm->facts.id, vm->facts.domain, sizeof(vm->facts.domain));
}

static int open_console_file(const char *path, struct error **err)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600)
		      : memfd_create("console", MFD_CLOEXEC);

	return fd < 0 ? error_errno(err, errno, "%s", path ? path : "a file in memory") : fd;
}

int vm_watch_console(struct vm *vm, int listen_fd, bool reap, struct error **err)
{
	_cleanup_close_ int listening = listen_fd;
	_cleanup_close_ int file = open_console_file(vm->order->console_file, err);
	if (file < 0)
		return -1;
	vm->watch = vm_watch_new(
		vm->host->watcher, steal_fd(listening), steal_fd(file), LIMIT_CONSOLE, reap, err);
	return vm->watch ? 0 : -1;
}

static int make_console(struct vm *vm, struct error **err)
{
	_cleanup_free_ char *path = vm_path(vm, "console.sock");
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	if (strlen(path) >= sizeof(ep.path))
		return error_set(err, ERR_INVALID, "%s: too long for a socket", path);
	strcpy(ep.path, path);
	_cleanup_close_ int listen_fd = sock_listen(&ep, 4, 0600, err);
	if (listen_fd < 0 || vm_give_to_qemu(vm, path, err) < 0)
		return -1;
	return vm_watch_console(vm, steal_fd(listen_fd), virt_is_embedded(vm->host->virt), err);
}

static char *make_xml(const struct vm *vm, struct error **err)
{
	const struct image *image = vm->order->image;
	_cleanup_free_ char *kernel = vm_has_copies(vm) ? vm_path(vm, "kernel") : NULL;
	_cleanup_free_ char *initramfs = vm_has_copies(vm) ? vm_path(vm, "initramfs") : NULL;
	_cleanup_free_ char *console = vm_path(vm, "console.sock");
	_cleanup_free_ char *secret = vm_path(vm, "secret");
	_cleanup_free_ char *scratch = vm->order->disk_bytes ? vm_path(vm, "scratch") : NULL;
	struct domain_spec spec = {
		.name = vm->facts.domain,
		.uuid = vm->facts.uuid,
		.owner = vm->host->owner,
		.vm_id = vm->facts.id,
		.job_id = vm->order->job_id,
		.attempt = vm->order->attempt,
		.kvm = vm->kvm,
		.tsc_khz = vm->kvm ? 0 : tsc_khz(),
		.firmware = access(FIRMWARE, R_OK) == 0 ? FIRMWARE : NULL,
		.cpus = vm->order->cpus,
		.memory_bytes = vm->order->memory_bytes,
		.kernel = kernel ? kernel : image->kernel,
		.initramfs = initramfs ? initramfs : image->initramfs,
		.cmdline = image->cmdline,
		.root = image->root,
		.scratch = scratch,
		.console = console,
		.secret_file = secret,
		.cid = vm->facts.cid,
		.vhost_user = vsock_device_vhost_socket(vm->vsock),
		.bench = vm->order->bench,
		.uid = vm->uid,
		.gid = vm->gid,
	};

	return domain_xml_make(&spec, err);
}

static int start_domain_with_cid(struct vm *vm, struct error **err)
{
	vm->vsock = vsock_device_new(vm->vsock_kind, vm->dir, vm->facts.cid, vm->uid, vm->gid, err);
	if (!vm->vsock || vm_give_to_qemu(vm, vm->dir, err) < 0)
		return -1;
	FAILPOINT("vm.device");
	_cleanup_free_ char *xml = make_xml(vm, err);
	if (!xml)
		return -1;
	FAILPOINT("vm.xml");
	const struct virt_patience patience = {
		.cancel_fd = vm->order->cancel_fd,
		.running_fd = vm_watch_fd(vm->watch),
		.running_ms = MAX(vm->host->config->boot_timeout_ms, LIBVIRT_START_MS),
	};
	_cleanup_error_ struct error *failed = NULL;
	vm->domain = virt_create(vm->host->virt, vm->facts.domain, xml, &patience, &failed);
	if (vm->domain)
		return 0;
	vm->unsure = failed->code == ERR_TIMEOUT || failed->code == ERR_CANCELLED ||
		     !virt_is_connected(vm->host->virt);
	return error_move(err, steal_ptr(failed));
}

/* A CID that somebody else on this host has is no failure: there are two thousand million. Those
 * that were refused are kept until one was not, so that none is tried twice. */
static int start_domain(struct vm *vm, struct error **err)
{
	uint32_t refused[CID_TRIES];
	int n = 0, r = -1;

	while (r < 0) {
		_cleanup_error_ struct error *failed = NULL;

		vm->facts.cid = cid_take(vm->host->cids, now_mono_usec());
		if (!vm->facts.cid && !n)
			error_set(err, ERR_LIMIT,
				"each CID of %s has a VM; widen cids in the configuration",
				vm->host->config->cids);
		if (!vm->facts.cid)
			break;
		error_free(steal_ptr(*err));
		r = start_domain_with_cid(vm, &failed);
		if (r == 0)
			break;
		bool taken = failed->code == ERR_STATE && vm->vsock_kind == VSOCK_DEVICE_KERNEL;
		error_move(err, steal_ptr(failed));
		if (!taken)
			break;
		refused[n++] = vm->facts.cid;
		if (n == CID_TRIES)
			break;
		log_info(vm->facts.id, "CID %u is taken, trying another", vm->facts.cid);
		vsock_device_free(steal_ptr(vm->vsock));
	}
	if (r < 0 && n && (*err)->code == ERR_STATE)
		error_wrap(err,
			"no CID of %s is free, of %d tried: CID %u is taken by another process",
			vm->host->config->cids, n, refused[n - 1]);
	for (int i = 0; i < n; i++)
		cid_release(vm->host->cids, refused[i], now_mono_usec());
	return r;
}

static void on_stop(void *arg, enum virt_stop why)
{
	struct vm *vm = arg;

	log_debug(vm->facts.id, "libvirt: the domain has stopped (%d)", (int)why);
	vm_watch_note_stop(vm->watch);
}

static int start(struct vm *vm, struct error **err)
{
	if (vm_make_dir(vm, err) < 0)
		return -1;
	FAILPOINT("vm.directory");
	if (vm_make_secret(vm, err) < 0 || vm_make_scratch(vm, err) < 0)
		return -1;
	FAILPOINT("vm.disk");
	if (vm_make_copies(vm, err) < 0)
		return -1;
	FAILPOINT("vm.copies");
	if (make_console(vm, err) < 0)
		return -1;
	FAILPOINT("vm.console");
	if (start_domain(vm, err) < 0)
		return -1;
	FAILPOINT("vm.created");
	vm_remove_copies(vm);
	virt_domain_on_stop(vm->domain, on_stop, vm);
	vm->facts.state = "booting";
	vm->facts.vsock_device = vsock_kind_name(vm->vsock_kind);
	progress(vm, STAGE_DOMAIN_CREATED);
	return 0;
}

/* Waiting for it. --------------------------------------------------------------------------------
 */

/* The guest dialled the ready port. What it says there is a hint, and is not believed further. */
static void take_announcement(struct vm *vm, int ready_fd)
{
	_cleanup_close_ int fd = sock_accept(ready_fd, 0, NULL);
	char line[128];
	struct timeval second = {.tv_sec = 1};

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	if (recv(fd, line, sizeof(line), 0) <= 0)
		log_debug(vm->facts.id, "an announcement without words");
}

/* " by signal 9"; nothing where the wait status is not known. To be freed. */
static char *describe_end(int status)
{
	if (status < 0)
		return xstrdup("");
	return WIFSIGNALED(status) ? str_printf(" by signal %d", WTERMSIG(status))
				   : str_printf(" by exit code %d", WEXITSTATUS(status));
}

static int lost_before_ready(struct vm *vm, const struct vm_watch_state *state,
	enum job_outcome *ret_outcome, struct error **err)
{
	_cleanup_free_ char *tail = vm_watch_tail(vm->watch, TAIL_IN_ERRORS);
	_cleanup_free_ char *how = describe_end(state->qemu_status);

	if (state->panicked) {
		*ret_outcome = OUTCOME_GUEST_PANIC;
		return error_set(err, ERR_UNAVAILABLE,
			"the guest's kernel panicked while booting: %s", state->panic);
	}
	*ret_outcome = OUTCOME_BOOT_FAILED;
	return error_set(err, ERR_UNAVAILABLE,
		"QEMU ended%s before the guest's worker was ready; the console's last words: %s",
		how, *tail ? tail : "(none)");
}

/* Wait for the console's and QEMU's last words. */
static void settle(struct vm *vm, int settle_ms, struct vm_watch_state *ret_state)
{
	uint64_t end = now_mono_usec() + (uint64_t)settle_ms * 1000;

	for (;;) {
		struct pollfd pfd = {.fd = vm_watch_fd(vm->watch), .events = POLLIN};
		eventfd_t seen;
		uint64_t now = now_mono_usec();

		vm_watch_get(vm->watch, ret_state);
		if (ret_state->panicked || ret_state->qemu_ended || now >= end)
			return;
		if (poll(&pfd, 1, (int)((end - now) / 1000) + 1) > 0)
			eventfd_read(pfd.fd, &seen);
	}
}

static int device_lost(struct vm *vm, struct error **err)
{
	_cleanup_free_ char *how = describe_end(vsock_device_status(vm->vsock));

	return error_set(err, ERR_UNAVAILABLE, "the VM's vsock device ended%s", how);
}

static int wait_ready(
	struct vm *vm, uint64_t timeout_ms, enum job_outcome *ret_outcome, struct error **err)
{
	uint64_t end = now_mono_usec() + timeout_ms * 1000;
	struct pollfd fds[] = {{.fd = vm->order->cancel_fd, .events = POLLIN},
		{.fd = vm_watch_fd(vm->watch), .events = POLLIN},
		{.fd = vsock_device_ready_fd(vm->vsock), .events = POLLIN},
		{.fd = vsock_device_end_fd(vm->vsock), .events = POLLIN}};

	for (;;) {
		struct vm_watch_state state;
		eventfd_t seen;
		uint64_t now = now_mono_usec();

		if (now >= end) {
			_cleanup_free_ char *tail = vm_watch_tail(vm->watch, TAIL_IN_ERRORS);
			*ret_outcome = OUTCOME_BOOT_FAILED;
			return error_set(err, ERR_TIMEOUT,
				"the guest's worker was not ready after %.0f s; the console's last "
				"words: %s",
				(double)timeout_ms / 1000, *tail ? tail : "(none)");
		}
		if (poll(fds, ARRAY_SIZE(fds), (int)((end - now) / 1000) + 1) < 0 && errno != EINTR)
			return error_errno(err, errno, "poll");
		if (fds[0].revents) {
			*ret_outcome = OUTCOME_CANCELLED;
			return error_set(err, ERR_CANCELLED, "cancelled while the VM booted");
		}
		if (fds[1].revents)
			eventfd_read(fds[1].fd, &seen);
		vm_watch_get(vm->watch, &state);
		vm->facts.pid = state.qemu_pid;
		if (fds[2].revents) {
			take_announcement(vm, fds[2].fd);
			return 0;
		}
		if (state.ready)
			return 0;
		if (state.panicked || state.qemu_ended)
			return lost_before_ready(vm, &state, ret_outcome, err);
		if (fds[3].revents) {
			/* It leaves with QEMU; then QEMU's end is the one to tell. */
			settle(vm, SETTLE_MS, &state);
			if (state.panicked || state.qemu_ended)
				return lost_before_ready(vm, &state, ret_outcome, err);
			*ret_outcome = OUTCOME_INFRA;
			return device_lost(vm, err);
		}
	}
}

/* The whole. -------------------------------------------------------------------------------------
 */

static struct vm *vm_new(struct host *host, const struct vm_order *order)
{
	struct vm *vm = xcalloc(1, sizeof(*vm));

	vm->host = host;
	vm->order = order;
	vm->uid = (uid_t)-1;
	vm->gid = (gid_t)-1;
	name_vm(vm);
	snprintf(vm->facts.image, sizeof(vm->facts.image), "%s", order->image->name);
	snprintf(vm->image_digest, sizeof(vm->image_digest), "%s", order->image->digest);
	vm->facts.pooled = order->pooled;
	vm->facts.state = "creating";
	vm->facts.cpus = order->cpus;
	vm->facts.memory_bytes = order->memory_bytes;
	vm->facts.started_usec = now_real_usec();
	return vm;
}

static enum job_outcome outcome_of_start(const struct error *err)
{
	if (err && err->code == ERR_CANCELLED)
		return OUTCOME_CANCELLED;
	return err && err->code == ERR_LIMIT ? OUTCOME_OOM_HOST : OUTCOME_INFRA;
}

static struct vm *boot_once(struct host *host, const struct vm_order *order, enum accel_use use,
	enum job_outcome *ret_outcome, struct error **err)
{
	struct vm *vm = vm_new(host, order);
	uint64_t timeout = use == ACCEL_USE_TRIAL ? host->config->kvm_probe_timeout_ms
						  : host->config->boot_timeout_ms;

	vm->kvm = use != ACCEL_USE_TCG;
	vm->facts.accelerator = vm->kvm ? "kvm" : "tcg";
	*ret_outcome = OUTCOME_INFRA;
	if (host_vsock(host, &vm->vsock_kind, err) < 0)
		goto failed;
	host_qemu_user(host, order->image->root, &vm->uid, &vm->gid);
	progress(vm, STAGES);
	FAILPOINT("vm.named");
	if (start(vm, err) < 0) {
		*ret_outcome = err ? outcome_of_start(*err) : OUTCOME_INFRA;
		goto failed;
	}
	FAILPOINT("vm.booting");
	if (wait_ready(vm, timeout, ret_outcome, err) < 0)
		goto failed;
	FAILPOINT("vm.ready");
	vm_set_state(vm, "ready");
	return vm;
failed:
	vm_destroy(vm);
	return NULL;
}

struct vm *vm_boot(struct host *host, const struct vm_order *order, enum job_outcome *ret_outcome,
	struct error **err)
{
	struct virt *virt = host_virt(host, order->cancel_fd, err);
	enum accel_use use;
	int losses = 0;

	/* A caller that gets ERR_CANCELLED has cancelled it, and knows. */
	*ret_outcome = OUTCOME_INFRA;
	if (!virt)
		return NULL;
	if (host_check_memory(order->memory_bytes, err) < 0) {
		*ret_outcome = OUTCOME_OOM_HOST;
		return NULL;
	}
	for (;;) {
		_cleanup_error_ struct error *failed = NULL;

		if (accel_begin(host->accel, host_emulator(host), virt_is_system(virt),
			    order->cancel_fd, &use, &failed) < 0) {
			if (failed->code == ERR_CANCELLED)
				*ret_outcome = OUTCOME_CANCELLED;
			error_move(err, steal_ptr(failed));
			return NULL;
		}
		struct vm *vm = boot_once(host, order, use, ret_outcome, &failed);
		bool lost = !vm && *ret_outcome != OUTCOME_CANCELLED && !virt_is_connected(virt);
		/* Neither a cancel nor a host without QEMU tells anything about KVM. */
		bool no_answer = !vm && (*ret_outcome == OUTCOME_CANCELLED ||
						failed->code == ERR_NOT_FOUND || lost);
		accel_report(host->accel, use, vm != NULL, vm || no_answer ? NULL : failed->text);
		if (vm)
			return vm;
		/* No job's failure: a libvirtd that was started again meanwhile. */
		if (lost && ++losses < LIBVIRT_LOSSES) {
			log_info(order->job_id, "libvirt went while it started the VM; again");
			if (!host_virt(host, order->cancel_fd, err))
				return NULL;
			continue;
		}
		/* Nor a trial that failed: again, emulated. */
		if (use != ACCEL_USE_TRIAL || no_answer) {
			error_move(err, steal_ptr(failed));
			return NULL;
		}
	}
}

int vm_take_over(struct vm *vm, const struct vm_order *order, struct error **err)
{
	int fd = open_console_file(order->console_file, err);

	if (fd < 0 || vm_watch_move_file(vm->watch, fd, err) < 0)
		return -1;
	vm->order = order;
	vm_set_state(vm, "ready");
	return 0;
}

bool vm_is_alive(struct vm *vm)
{
	struct vm_watch_state state;

	vm_watch_get(vm->watch, &state);
	return !state.panicked && !state.qemu_ended && !vsock_device_has_ended(vm->vsock);
}

void vm_poll_fds(struct vm *vm, int *ret_watch, int *ret_device)
{
	*ret_watch = vm_watch_fd(vm->watch);
	*ret_device = vsock_device_end_fd(vm->vsock);
}

struct virt_domain *vm_domain_ref(struct vm *vm)
{
	return virt_domain_ref(vm->domain);
}

enum job_outcome vm_why_lost(struct vm *vm, int settle_ms, struct error **err)
{
	struct vm_watch_state state;

	settle(vm, settle_ms, &state);
	if (state.panicked) {
		error_set(err, ERR_UNAVAILABLE, "the guest's kernel panicked: %s", state.panic);
		return OUTCOME_GUEST_PANIC;
	}
	if (state.qemu_ended) {
		_cleanup_free_ char *how = describe_end(state.qemu_status);
		error_set(err, ERR_UNAVAILABLE, "QEMU ended%s%s", how,
			*vm->order->job_id ? " under the job" : "");
		return OUTCOME_INFRA;
	}
	if (vsock_device_has_ended(vm->vsock)) {
		device_lost(vm, err);
		return OUTCOME_INFRA;
	}
	error_wrap(err, "the guest is up, but its worker does not answer");
	return OUTCOME_AGENT_LOST;
}

void vm_fill_note(struct vm *vm, struct vm_note *ret)
{
	struct vm_watch_state state;

	vm_watch_get(vm->watch, &state);
	vm->facts.pid = state.qemu_pid;
	snprintf(ret->id, sizeof(ret->id), "%s", vm->facts.id);
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", vm->facts.uuid);
	snprintf(ret->image, sizeof(ret->image), "%s", vm->facts.image);
	memcpy(ret->image_digest, vm->image_digest, sizeof(ret->image_digest));
	memcpy(ret->secret, vm->secret, sizeof(ret->secret));
	ret->cid = vm->facts.cid;
	ret->vsock_kind = vm->vsock_kind;
	ret->kvm = vm->kvm;
	ret->pooled = vm->facts.pooled;
	ret->uid = vm->uid;
	ret->gid = vm->gid;
	ret->cpus = vm->facts.cpus;
	ret->memory_bytes = vm->facts.memory_bytes;
	ret->started_usec = vm->facts.started_usec;
	ret->device = vsock_device_pid(vm->vsock);
	ret->device_start = process_start_time(ret->device);
	ret->qemu = vm->facts.pid;
	ret->qemu_start = process_start_time(ret->qemu);
}

int vm_fill_wall(struct vm *vm, struct job_wall *wall, struct error **err)
{
	struct virt *virt = host_virt_within(vm->host, WALL_CONNECT_MS, err);

	if (!virt)
		return -1;
	/* One that was taken up without libvirt. */
	if (!vm->domain)
		vm->domain = virt_find(virt, vm->facts.domain, vm->host->owner, err);
	if (!vm->domain)
		return -1;
	vm->unsure = false;
	_cleanup_free_ char *xml = virt_domain_xml(vm->domain, err);
	if (!xml)
		return -1;
	wall->accelerator = xstrdup(vm->facts.accelerator);
	wall->vsock_device = xstrdup(vm->facts.vsock_device);
	wall->cid = vm->facts.cid;
	wall->libvirt_uri = xstrdup(virt_uri(virt));
	wall->image_digest = xstrdup(vm->image_digest);
	return domain_xml_devices(
		xml, &wall->devices, &wall->n_devices, &wall->network_interface, err);
}

void vm_fill_wall_again(struct vm *vm, struct job_wall *wall)
{
	if (!wall->accelerator && virt_is_connected(vm->host->virt))
		vm_fill_wall(vm, wall, NULL);
}
