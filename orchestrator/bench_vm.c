#include "orchestrator/bench_vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "common/log.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/host_private.h"
#include "orchestrator/spawn.h"
#include "orchestrator/vm_worker.h"

#define DIAL_MS	   20000
#define IO_SECONDS 30
#define PORT_TRIES 3
#define GUEST_CPUS 1
#define SETTLE_MS  1000
#define VERSION_MS 10000

struct bench_vm {
	const struct config *config;   /* borrowed */
	char *state_dir, *runtime_dir; /* owned; removed at the end */
	int lock;
	struct host *host;
	struct image *image;
	char *console; /* owned */
	struct domain_bench ports;
	struct vm_order order;
	struct vm *vm;
	struct guest *guest; /* the first connection: it proves that the worker is ours */
	struct guest_hello hello;
};

/* A place of its own. ----------------------------------------------------------------------------
 */

static int take_lock(struct bench_vm *vm, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/lock", vm->state_dir);

	vm->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (vm->lock < 0)
		return error_errno(err, errno, "%s", path);
	if (flock(vm->lock, LOCK_EX | LOCK_NB) < 0) {
		close_fd(&vm->lock);
		return error_set(err, ERR_EXISTS, "another benchmark runs in %s", vm->state_dir);
	}
	return 0;
}

/* What the daemon found out about KVM on this machine need not be found out again. */
static void take_accel_answer(const struct bench_vm *vm, const char *from)
{
	_cleanup_free_ char *old = str_printf("%s/accel.json", from);
	_cleanup_free_ char *new = str_printf("%s/accel.json", vm->state_dir);
	size_t n;
	_cleanup_free_ char *text = read_file(old, 64 * KIB, &n, NULL);

	if (text && write_file(new, text, n, 0600, false, NULL) < 0)
		log_debug("bench", "%s could not be written", new);
}

static int move_in(struct bench_vm *vm, struct config *config, struct error **err)
{
	vm->state_dir = str_printf("%s/bench", config->state_dir);
	vm->runtime_dir = str_printf("%s/bench", config->runtime_dir);
	if (make_dirs(config->state_dir, config_dir_mode(), err) < 0 ||
		make_dirs(config->runtime_dir, config_dir_mode(), err) < 0 ||
		make_dirs(vm->state_dir, config_dir_mode(), err) < 0 || take_lock(vm, err) < 0 ||
		make_dirs(vm->runtime_dir, config_dir_mode(), err) < 0)
		return -1;
	take_accel_answer(vm, config->state_dir);
	free(config->state_dir);
	free(config->runtime_dir);
	config->state_dir = xstrdup(vm->state_dir);
	config->runtime_dir = xstrdup(vm->runtime_dir);
	vm->config = config;
	return 0;
}

static void remove_quietly(const char *dir)
{
	_cleanup_error_ struct error *err = NULL;

	if (dir && remove_tree(dir, &err) < 0)
		log_warn("bench", "%s", err->text);
}

static void move_out(struct bench_vm *vm)
{
	if (vm->lock >= 0) {
		remove_quietly(vm->runtime_dir);
		remove_quietly(vm->state_dir);
	}
	close_fd(&vm->lock);
	free(vm->state_dir);
	free(vm->runtime_dir);
}

/* The VM. ----------------------------------------------------------------------------------------
 */

/* A port of 127.0.0.1 that is free now. QEMU takes it a moment later; if somebody else was faster,
 * the domain does not start, and two others are tried. */
static int free_port(uint16_t *ret, struct error **err)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 ||
		getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		return error_errno(err, errno, "a TCP port of 127.0.0.1");
	*ret = ntohs(address.sin_port);
	return 0;
}

static int boot(struct bench_vm *vm, int cancel_fd, struct error **err)
{
	enum job_outcome outcome;

	vm->console = str_printf("%s/console.log", vm->state_dir);
	vm->order = (struct vm_order){
		.image = vm->image,
		.job_id = "bench",
		.attempt = 1,
		.cpus = GUEST_CPUS,
		.memory_bytes = DEFAULT_MEMORY,
		.console_file = vm->console,
		.bench = &vm->ports,
		.cancel_fd = cancel_fd,
	};
	for (int i = 0; i < PORT_TRIES && !vm->vm; i++) {
		_cleanup_error_ struct error *failed = NULL;
		if (free_port(&vm->ports.rpc_port, err) < 0 ||
			free_port(&vm->ports.raw_port, err) < 0)
			return -1;
		vm->vm = vm_boot(vm->host, &vm->order, &outcome, &failed);
		if (!vm->vm && (i == PORT_TRIES - 1 || !strstr(failed->text, "host forwarding")))
			return error_move(err, steal_ptr(failed));
	}
	return 0;
}

/* Debian's kernel has virtio-net as a module, which is not in the initramfs: better said now than
 * when TCP has waited for an answer. */
static int check_kernel(const struct image *image, struct error **err)
{
	if (!str_eq(image->kernel_kind, "stock"))
		return 0;
	return error_set(err, ERR_UNSUPPORTED,
		"image %s has the distribution's kernel, in which there is no virtio-net to "
		"compare with: \"make kernel\" builds the project's own, then build the image "
		"again (orchestrator image build %s)",
		image->name, image->name);
}

static void keep_guest(void *arg, struct guest *guest)
{
	struct bench_vm *vm = arg;

	vm->guest = guest;
}

struct bench_vm *bench_vm_new(
	struct config *config, const char *image_name, int cancel_fd, struct error **err)
{
	struct bench_vm *vm = xcalloc(1, sizeof(*vm));

	vm->lock = -1;
	vm->image = image_find(config, image_name, err);
	if (!vm->image || check_kernel(vm->image, err) < 0 || move_in(vm, config, err) < 0)
		goto failed;
	vm->host = host_new(config, err);
	if (!vm->host || host_sweep(vm->host, NULL, 0, err) < 0 || boot(vm, cancel_fd, err) < 0)
		goto failed;
	if (vm_reach_worker(vm->vm, keep_guest, vm, &vm->hello, err) < 0)
		goto failed;
	return vm;
failed:
	bench_vm_free(vm);
	return NULL;
}

void bench_vm_free(struct bench_vm *vm)
{
	if (!vm)
		return;
	guest_free(vm->guest);
	vm_destroy(vm->vm);
	host_free(vm->host);
	image_free(vm->image);
	free(vm->console);
	move_out(vm);
	free(vm);
}

/* Connections. -----------------------------------------------------------------------------------
 */

static int dial_tcp(uint16_t port, struct error **err)
{
	const struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	/* QEMU listens there, so this does not wait for the guest. */
	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
		return error_errno(err, errno, "127.0.0.1:%u", port);
	return steal_fd(fd);
}

int bench_vm_dial(const struct bench_vm *vm, enum bench_layer layer, enum bench_transport transport,
	struct error **err)
{
	const struct timeval limit = {.tv_sec = IO_SECONDS};
	bool raw = layer == BENCH_RAW;
	int fd;

	if (transport == BENCH_TCP)
		fd = dial_tcp(raw ? vm->ports.raw_port : vm->ports.rpc_port, err);
	else
		fd = vm_connect(vm->vm, raw ? BENCH_RAW_PORT : WORKER_PORT, DIAL_MS, err);
	if (fd >= 0 && raw) {
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	}
	return fd;
}

struct guest *bench_vm_greet(
	const struct bench_vm *vm, int fd, enum bench_transport transport, struct error **err)
{
	struct guest_hello hello;
	struct guest *guest =
		guest_new(fd, transport == BENCH_TCP ? "worker by TCP" : "worker by vsock", err);

	if (guest && guest_hello(guest, vm_secret(vm->vm), &hello, err) == 0)
		return guest;
	guest_free(guest);
	if (transport == BENCH_TCP)
		error_wrap(err,
			"the guest does not answer by TCP (a kernel without virtio-net, or an "
			"image from before `bench`: orchestrator image build %s)",
			vm->image->name);
	return NULL;
}

void bench_vm_explain(const struct bench_vm *vm, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;

	if ((*err)->code != ERR_UNAVAILABLE && (*err)->code != ERR_TIMEOUT)
		return;
	error_set(&why, (*err)->code, "%s", (*err)->text);
	/* Of a guest that is up the call's own words say more. */
	if (vm_why_lost(vm->vm, SETTLE_MS, &why) != OUTCOME_AGENT_LOST)
		error_move(err, steal_ptr(why));
}

/* Where. -----------------------------------------------------------------------------------------
 */

/* utime and stime, behind the name, which may hold anything. */
static double cpu_of(int pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/stat", pid);
	_cleanup_free_ char *text = pid > 0 ? read_file(path, 4 * KIB, NULL, NULL) : NULL;
	const char *p = text ? strrchr(text, ')') : NULL;
	unsigned long user, system;

	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
			  &system) != 2)
		return 0;
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

void bench_vm_cpu(const struct bench_vm *vm, double ret[BENCH_PROCESSES])
{
	ret[BENCH_QEMU] = cpu_of(vm_facts(vm->vm)->pid);
	ret[BENCH_DEVICE] = cpu_of(vm_device_pid(vm->vm));
	ret[BENCH_SELF] = cpu_of(getpid());
}

/* The first line of `QEMU --version`; NULL if it does not say. */
static char *qemu_version(const char *emulator)
{
	_cleanup_free_ char *program = xstrdup(emulator);
	_cleanup_close_ int said = memfd_create("version", MFD_CLOEXEC);
	const struct spawn_fd fds[] = {{said, 1}, {said, 2}};
	char option[] = "--version", line[200];
	char *argv[] = {program, option, NULL};
	int status;

	if (!program || said < 0)
		return NULL;
	pid_t pid = spawn_process(argv, fds, ARRAY_SIZE(fds), NULL);
	if (pid < 0)
		return NULL;
	if (spawn_wait(pid, VERSION_MS, &status) < 0) {
		kill(pid, SIGKILL);
		spawn_wait(pid, -1, &status);
		return NULL;
	}
	ssize_t n = pread(said, line, sizeof(line), 0);
	const char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
	if (status || !end)
		return NULL;
	static const char prefix[] = "QEMU emulator version ";
	size_t skip = str_starts(line, prefix) ? strlen(prefix) : 0;
	return str_escape(line + skip, (size_t)(end - line) - skip, false);
}

int bench_vm_conditions(const struct bench_vm *vm, struct bench_conditions *ret, struct error **err)
{
	struct job_result got = {0};
	struct utsname name;
	cpu_set_t set;

	if (vm_fill_wall(vm->vm, &got.wall, err) < 0)
		return -1;
	ret->accelerator = steal_ptr(got.wall.accelerator);
	ret->vsock_device = steal_ptr(got.wall.vsock_device);
	ret->devices = steal_ptr(got.wall.devices);
	ret->n_devices = got.wall.n_devices;
	got.wall.n_devices = 0;
	job_result_clear(&got);
	for (size_t i = 0; i < ret->n_devices; i++)
		ret->network_interfaces += strstr(ret->devices[i], "net") != NULL ||
					   str_starts(ret->devices[i], "interface");
	ret->image = xstrdup(vm->image->name);
	ret->guest_kernel = xstrdup(vm->hello.kernel);
	ret->host_kernel = xstrdup(uname(&name) == 0 ? name.release : "unknown");
	ret->qemu = qemu_version(host_emulator(vm->host));
	ret->host_cpus =
		sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 0;
	ret->guest_cpus = GUEST_CPUS;
	return 0;
}
