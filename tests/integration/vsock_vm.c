#include "tests/integration/vsock_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/util.h"
#include "tests/bench/vsock_guest.h"

static struct vsock_vm *running; /* to be stopped at exit */

static void fatal(const char *what)
{
	perror(what);
	exit(1);
}

static void stop_running(void)
{
	if (running)
		vsock_vm_stop(running);
}

const char *vsock_vm_path(const struct vsock_vm *vm, const char *name)
{
	static char path[108];

	snprintf(path, sizeof(path), "%s/%s", vm->dir, name);
	return path;
}

static int unix_socket(const char *path, bool listens)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (listens && (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 128)))
		fatal(path);
	if (!listens && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		close_fd(&fd);
	return fd;
}

static pid_t spawn(char *const argv[], int keep1, int keep2, const char *output)
{
	pid_t pid = fork();

	if (pid < 0)
		fatal("fork");
	if (pid)
		return pid;
	int out = output ? open(output, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
	int null = open("/dev/null", O_RDONLY);
	dup2(null, 0);
	if (out >= 0) {
		dup2(out, 1);
		dup2(out, 2);
	}
	if (keep1 >= 0)
		fcntl(keep1, F_SETFD, 0);
	if (keep2 >= 0)
		fcntl(keep2, F_SETFD, 0);
	execvp(argv[0], argv);
	perror(argv[0]);
	_exit(127);
}

void vsock_vm_start(struct vsock_vm *vm, const char *program, const char *guest_dir)
{
	char socket_fd[16], uds_fd[16], chardev[128], kernel[512], initrd[512], socket[108],
		uds[108], qmp[128];

	snprintf(vm->dir, sizeof(vm->dir), "/tmp/vsock-vm.XXXXXX");
	if (!mkdtemp(vm->dir))
		fatal("mkdtemp");
	vm->device = vm->qemu = 0;
	if (!running)
		atexit(stop_running);
	running = vm;
	snprintf(socket, sizeof(socket), "%s/vhost", vm->dir);
	snprintf(uds, sizeof(uds), "%s/vsock", vm->dir);
	int s = unix_socket(socket, true), u = unix_socket(uds, true);
	vm->ready = vsock_vm_listen(vm, GUEST_READY);

	snprintf(socket_fd, sizeof(socket_fd), "%d", s);
	snprintf(uds_fd, sizeof(uds_fd), "%d", u);
	const char *const device[] = {program, "--socket", socket, "--uds", uds, "--cid", "42",
		"--socket-fd", socket_fd, "--uds-fd", uds_fd, NULL};
	vm->device = spawn((char *const *)(uintptr_t)device, s, u, vsock_vm_path(vm, "device.log"));
	close(s);
	close(u);

	snprintf(qmp, sizeof(qmp), "unix:%s/qmp,server=on,wait=off", vm->dir);
	snprintf(chardev, sizeof(chardev), "socket,id=vs,path=%s", socket);
	snprintf(kernel, sizeof(kernel), "%s/kernel", guest_dir);
	snprintf(initrd, sizeof(initrd), "%s/initramfs", guest_dir);
	const char *const qemu[] = {"qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi",
		"-cpu", "max,-erms,-fsrm", "-object",
		"memory-backend-memfd,id=mem,size=256M,share=on", "-numa", "node,memdev=mem", "-m",
		"256M", "-chardev", chardev, "-device", "vhost-user-vsock-pci,chardev=vs",
		"-nodefaults", "-display", "none", "-qmp", qmp, "-serial", "stdio", "-kernel",
		kernel, "-initrd", initrd, "-append",
		"console=ttyS0 quiet reboot=t panic=1 tsc=unstable mitigations=off", NULL};
	vm->qemu = spawn((char *const *)(uintptr_t)qemu, -1, -1, vsock_vm_path(vm, "console.log"));
}

int vsock_vm_wait_ready(struct vsock_vm *vm, int timeout_ms)
{
	uint64_t end = now_mono_usec() + (uint64_t)timeout_ms * 1000;

	/* In short waits, to notice it when one of them has died. */
	while (now_mono_usec() < end) {
		_cleanup_close_ int fd = vsock_accept(vm->ready, 200);
		if (fd >= 0)
			return 0;
		siginfo_t info = {0};
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
			return -1;
	}
	return -1;
}

int wait_pid(pid_t pid, int timeout_ms)
{
	uint64_t end = now_mono_usec() + (uint64_t)timeout_ms * 1000;
	int status;

	/* No pidfd here: one call more than this poll is worth. */
	for (;;) {
		pid_t r = waitpid(pid, &status, WNOHANG);
		if (r == pid)
			return status;
		if (r < 0 || now_mono_usec() > end)
			return -1;
		sleep_ms(5);
	}
}

static void end(pid_t *pid, int sig)
{
	if (*pid <= 0)
		return;
	kill(*pid, sig);
	if (wait_pid(*pid, 5000) < 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

void vsock_vm_stop(struct vsock_vm *vm)
{
	end(&vm->qemu, SIGKILL);
	end(&vm->device, SIGTERM);
	close_fd(&vm->ready);
	remove_tree(vm->dir, NULL);
	running = NULL;
}

int vsock_vm_listen(const struct vsock_vm *vm, unsigned port)
{
	char name[32];

	snprintf(name, sizeof(name), "vsock_%u", port);
	unlink(vsock_vm_path(vm, name));
	return unix_socket(vsock_vm_path(vm, name), true);
}

int vsock_accept(int listen_fd, int timeout_ms)
{
	struct pollfd p = {listen_fd, POLLIN, 0};

	return poll(&p, 1, timeout_ms) > 0 ? accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
}

int vsock_vm_unix(const char *path)
{
	return unix_socket(path, false);
}

int vsock_vm_ask(const struct vsock_vm *vm, unsigned port)
{
	char line[32];
	int fd = unix_socket(vsock_vm_path(vm, "vsock"), false);
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	if (fd >= 0 && send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
		close_fd(&fd);
	return fd;
}

int vsock_vm_dial(const struct vsock_vm *vm, unsigned port)
{
	int fd = vsock_vm_ask(vm, port);
	char c = 0, line[3] = "";

	for (int i = 0; fd >= 0 && c != '\n'; i++) {
		if (recv(fd, &c, 1, 0) != 1 || i > 30) {
			close_fd(&fd);
			break;
		}
		if (i < 2)
			line[i] = c;
	}
	if (fd >= 0 && !str_eq(line, "OK"))
		close_fd(&fd);
	return fd;
}

long rss_kib(pid_t pid, const char *field)
{
	char path[64], line[256];
	size_t n = strlen(field);
	long kib = -1;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, n) && line[n] == ':')
			kib = strtol(line + n + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}
