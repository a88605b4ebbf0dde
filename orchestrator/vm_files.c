/* The files of one VM: its private directory, the secret, the job's disk, and the copies that QEMU
 * gets where it runs as a user of its own. All go with the directory when the VM does. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/spawn.h"
#include "orchestrator/vm_private.h"

#define MKE2FS_TIMEOUT 60000

char *vm_path(const struct vm *vm, const char *name)
{
	return str_printf("%s/%s", vm->dir, name);
}

/* A file of this VM's that QEMU must read or write. */
int vm_give_to_qemu(const struct vm *vm, const char *path, struct error **err)
{
	/* What is ours already need not be given, and only root can give. */
	if (vm->uid != (uid_t)-1 && vm->uid != geteuid() && lchown(path, vm->uid, vm->gid) < 0)
		return error_errno(err, errno, "%s", path);
	return 0;
}

int vm_make_dir(struct vm *vm, struct error **err)
{
	vm->dir = host_vm_dir(vm->host, vm->facts.id);
	if (mkdir(vm->dir, 0700) < 0)
		return error_errno(err, errno, "%s", vm->dir);
	return 0;
}

int vm_make_secret(struct vm *vm, struct error **err)
{
	_cleanup_free_ char *path = vm_path(vm, "secret");

	random_bytes(vm->secret, sizeof(vm->secret));
	_cleanup_free_ char *hex = hex_encode(vm->secret, sizeof(vm->secret));
	/* Any user of this host may dial any guest with the kernel's device; where we can dial from
	 * a port that they cannot, the worker need not hear them at all. */
	bool privileged = vm->vsock_kind == VSOCK_DEVICE_KERNEL && sock_vsock_privileged();
	_cleanup_free_ char *text =
		str_printf("%s\n%s", hex, privileged ? PROOF_PRIVILEGED_LINE "\n" : "");
	int r = write_file(path, text, strlen(text), 0600, false, err);
	explicit_bzero(hex, strlen(hex));
	explicit_bzero(text, strlen(text));
	if (r < 0)
		return -1;
	return vm_give_to_qemu(vm, path, err);
}

/* The job's own disk: sparse, so it costs what the job writes, and never more than its size. */
int vm_make_scratch(struct vm *vm, struct error **err)
{
	_cleanup_free_ char *path = vm_path(vm, "scratch");
	char mke2fs[] = "mke2fs", quiet[] = "-q", force[] = "-F", type[] = "-t", ext4[] = "ext4",
	     reserve[] = "-m0", features[] = "-O", list[] = "^has_journal,^resize_inode",
	     extended[] = "-E", lazy[] = "lazy_itable_init=1,nodiscard";
	char *argv[] = {mke2fs, quiet, force, type, ext4, reserve, features, list, extended, lazy,
		path, NULL};

	if (!vm->order->disk_bytes)
		return 0;
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)vm->order->disk_bytes) < 0)
		return error_errno(err, errno, "%s", path);
	if (spawn_run(argv, MKE2FS_TIMEOUT, err) < 0)
		return error_wrap(err, "making the job's disk");
	return vm_give_to_qemu(vm, path, err);
}

/* Where libvirt runs QEMU as a user of its own, it gives that user every file of the domain. The
 * image must stay ours: a guest that took over its QEMU could change it under all others. So QEMU
 * gets copies of what it reads once; the root disk is opened read-only and is readable by everyone.
 */
static int give_copy(const struct vm *vm, const char *from, const char *name, struct error **err)
{
	_cleanup_free_ char *to = vm_path(vm, name);
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	ssize_t n = in < 0 || out < 0 ? -1 : 1;

	while (n > 0)
		n = copy_file_range(in, NULL, out, NULL, 1 * GIB, 0);
	if (n < 0 && errno == EXDEV)
		while ((n = sendfile(out, in, NULL, 1 * GIB)) > 0)
			;
	if (n < 0)
		return error_errno(err, errno, "copying %s to %s", from, to);
	return vm_give_to_qemu(vm, to, err);
}

bool vm_has_copies(const struct vm *vm)
{
	return vm->uid != (uid_t)-1 && vm->uid != 0;
}

int vm_make_copies(const struct vm *vm, struct error **err)
{
	if (!vm_has_copies(vm))
		return 0;
	if (give_copy(vm, vm->order->image->kernel, "kernel", err) < 0)
		return -1;
	return give_copy(vm, vm->order->image->initramfs, "initramfs", err);
}

/* QEMU has read them when it runs. */
void vm_remove_copies(const struct vm *vm)
{
	_cleanup_free_ char *kernel = vm_path(vm, "kernel");
	_cleanup_free_ char *initramfs = vm_path(vm, "initramfs");

	unlink(kernel);
	unlink(initramfs);
}
