#include "orchestrator/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/process.h"
#include "orchestrator/spawn.h"

#define VHOST_VSOCK "/dev/vhost-vsock"
/* libvirt may find out first what QEMU can do: longer than virt_create() waits. */
#define ACCEPT_TIMEOUT "5m"

struct vsock_device {
	enum vsock_kind kind;
	uint32_t cid;
	char *vhost_path, *uds_path; /* owned; user */
	int ready_fd;
	pid_t pid;    /* our child; 0: none, or collected */
	int end_fd;   /* pidfd of its process; -1: none */
	int status;   /* once collected; -1: not known */
	bool adopted; /* an earlier daemon started it: no child of ours */
};

const char *vsock_kind_name(enum vsock_kind kind)
{
	return kind == VSOCK_DEVICE_KERNEL ? "kernel" : "user";
}

static int kernel_usable(struct error **err)
{
	struct stat st;

	if (stat(VHOST_VSOCK, &st) < 0)
		return error_set(err, ERR_UNSUPPORTED,
			"%s is not there: load the module (modprobe vhost_vsock)", VHOST_VSOCK);
	_cleanup_close_ int fd = open(VHOST_VSOCK, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return 0;
	if (errno != EACCES && errno != EPERM)
		return error_errno(err, errno, "%s", VHOST_VSOCK);
	const struct group *group = getgrgid(st.st_gid);
	return error_set(err, ERR_DENIED, "no permission for %s: be in the group %s", VHOST_VSOCK,
		group ? group->gr_name : "that owns it");
}

int vsock_choose(
	enum config_vsock wanted, bool remote, enum vsock_kind *ret_kind, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;

	*ret_kind = VSOCK_DEVICE_USER;
	if (wanted == VSOCK_USER)
		return 0;
	if (remote ? access(VHOST_VSOCK, F_OK) == 0 : kernel_usable(&why) == 0) {
		*ret_kind = VSOCK_DEVICE_KERNEL;
		return 0;
	}
	if (wanted == VSOCK_AUTO)
		return 0;
	if (!why)
		kernel_usable(&why);
	error_move(err, steal_ptr(why));
	return error_wrap(err, "vsock is kernel, but");
}

static int listen_at(const char *path, uid_t uid, gid_t gid, struct error **err)
{
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	if (strlen(path) >= sizeof(ep.path))
		return error_set(err, ERR_INVALID, "%s: too long for a socket", path);
	strcpy(ep.path, path);
	_cleanup_close_ int fd = sock_listen(&ep, 16, 0600, err);
	if (fd >= 0 && uid != (uid_t)-1 && uid != geteuid() && lchown(path, uid, gid) < 0)
		return error_errno(err, errno, "%s", path);
	return steal_fd(fd);
}

enum { CHILD_VHOST_FD = 3, CHILD_UDS_FD = 4 };

static struct vsock_device *device_new(enum vsock_kind kind, const char *dir, uint32_t cid)
{
	struct vsock_device *device = xcalloc(1, sizeof(*device));

	device->kind = kind;
	device->cid = cid;
	device->ready_fd = device->end_fd = -1;
	if (kind == VSOCK_DEVICE_USER) {
		device->vhost_path = str_printf("%s/vhost.sock", dir);
		device->uds_path = str_printf("%s/vsock.sock", dir);
	}
	return device;
}

/* Said here, because of the device's own end QEMU would only say that nobody takes its call. */
static int check_open_files(struct error **err)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_max > VSOCK_DEVICE_FILES)
		return 0;
	return error_set(err, ERR_UNSUPPORTED,
		"only %llu open files are allowed, and it needs more than %d: raise the limit "
		"(ulimit -Hn, or LimitNOFILE of the service)",
		(unsigned long long)files.rlim_max, VSOCK_DEVICE_FILES);
}

static int start_process(
	struct vsock_device *device, const char *dir, uid_t uid, gid_t gid, struct error **err)
{
	_cleanup_free_ char *prefix = install_prefix();
	_cleanup_free_ char *program = str_printf("%s/libexec/orchestrator/vsock-device", prefix);
	_cleanup_free_ char *cid = str_printf("%u", device->cid);
	_cleanup_close_ int vhost = listen_at(device->vhost_path, uid, gid, err);
	_cleanup_close_ int uds = vhost < 0 ? -1 : listen_at(device->uds_path, uid, gid, err);

	if (uds < 0 || check_open_files(err) < 0)
		return -1;
	/* Started by root, it becomes the owner of the directory: QEMU's user. Nothing is made
	 * there by path from here on. */
	if (uid != (uid_t)-1 && lchown(dir, uid, gid) < 0)
		return error_errno(err, errno, "%s", dir);
	char *argv[] = {program, "--socket", device->vhost_path, "--uds", device->uds_path, "--cid",
		cid, "--socket-fd", "3", "--uds-fd", "4", "--accept-timeout", ACCEPT_TIMEOUT, NULL};
	struct spawn_fd fds[] = {{vhost, CHILD_VHOST_FD}, {uds, CHILD_UDS_FD}};
	device->pid = spawn_process(argv, fds, ARRAY_SIZE(fds), err);
	if (device->pid < 0) {
		device->pid = 0;
		return -1;
	}
	device->end_fd = (int)syscall(SYS_pidfd_open, device->pid, 0);
	if (device->end_fd < 0)
		return error_errno(err, errno, "watching %s", program);
	return 0;
}

struct vsock_device *vsock_device_new(enum vsock_kind kind, const char *dir, uint32_t cid,
	uid_t uid, gid_t gid, struct error **err)
{
	struct vsock_device *device = device_new(kind, dir, cid);

	if (kind == VSOCK_DEVICE_KERNEL)
		return device;
	_cleanup_free_ char *ready = str_printf("%s_%u", device->uds_path, READY_PORT);
	device->ready_fd = listen_at(ready, uid, gid, err);
	if (device->ready_fd < 0 || start_process(device, dir, uid, gid, err) < 0) {
		error_wrap(err, "userspace vsock device");
		vsock_device_free(device);
		return NULL;
	}
	return device;
}

struct vsock_device *vsock_device_adopt(
	enum vsock_kind kind, const char *dir, uint32_t cid, int pidfd)
{
	struct vsock_device *device = device_new(kind, dir, cid);

	device->end_fd = pidfd;
	device->adopted = true;
	device->status = -1;
	return device;
}

const char *vsock_device_vhost_socket(const struct vsock_device *device)
{
	return device->vhost_path;
}

int vsock_device_ready_fd(const struct vsock_device *device)
{
	return device->ready_fd;
}

int vsock_device_connect(const struct vsock_device *device, uint32_t port, int timeout_ms,
	int cancel_fd, struct error **err)
{
	struct endpoint ep = {.kind = ENDPOINT_VSOCK, .cid = device->cid, .port = port};

	if (device->kind == VSOCK_DEVICE_USER) {
		ep.kind = ENDPOINT_HYBRID;
		snprintf(ep.path, sizeof(ep.path), "%s", device->uds_path);
	}
	return sock_connect_until(&ep, timeout_ms, cancel_fd, err);
}

int vsock_device_end_fd(const struct vsock_device *device)
{
	return device->end_fd;
}

bool vsock_device_has_ended(struct vsock_device *device)
{
	struct pollfd end = {.fd = device->end_fd, .events = POLLIN};

	if (device->kind == VSOCK_DEVICE_KERNEL)
		return false;
	/* Not there any more when it was looked for, or gone since. */
	if (device->adopted)
		return device->end_fd < 0 || poll(&end, 1, 0) == 1;
	if (device->pid > 0 && spawn_wait(device->pid, 0, &device->status) == 0)
		device->pid = 0;
	return device->end_fd >= 0 && device->pid == 0;
}

int vsock_device_status(struct vsock_device *device)
{
	return vsock_device_has_ended(device) ? device->status : 0;
}

pid_t vsock_device_pid(const struct vsock_device *device)
{
	return device->pid;
}

void vsock_device_free(struct vsock_device *device)
{
	int status;

	if (!device)
		return;
	/* It leaves when QEMU closes its end; half a second is for a loaded machine. */
	if (device->pid > 0 && spawn_wait(device->pid, 500, &status) < 0) {
		kill(device->pid, SIGKILL);
		waitpid(device->pid, &status, 0);
	} else if (device->pid > 0 && status != 0) {
		log_warn("vsock-device", "ended with wait status 0x%x", status);
	}
	if (device->adopted)
		process_end(device->end_fd, 500);
	close_fd(&device->ready_fd);
	close_fd(&device->end_fd);
	free(device->vhost_path);
	free(device->uds_path);
	free(device);
}
