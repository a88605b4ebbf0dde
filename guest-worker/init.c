#include "guest-worker/init.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "common/worker_proof.h"
#include "guest-worker/fw_cfg.h"

#define HOST_NAME "sandbox"
#define MODULES	  "/modules"

static const struct {
	const char *type, *at, *options;
	unsigned long flags;
	bool needed;
} mounts[] = {
	{"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
	{"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
	{"devtmpfs", "/dev", "mode=0755", MS_NOSUID | MS_NOEXEC, true},
	{"cgroup2", "/sys/fs/cgroup", "nsdelegate", MS_NOSUID | MS_NODEV | MS_NOEXEC, false},
};

static int mount_kernel_filesystems(struct error **err)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		mkdir(mounts[i].at, 0755);
		if (mount(mounts[i].type, mounts[i].at, mounts[i].type, mounts[i].flags,
			    mounts[i].options) == 0 ||
			errno == EBUSY)
			continue;
		if (mounts[i].needed)
			return error_errno(err, errno, "mounting %s", mounts[i].at);
		log_warn("init", "mounting %s: %s", mounts[i].at, strerror(errno));
	}
	return 0;
}

/* An initramfs without /dev/console leaves PID 1 without its first three fds, and the next files
 * that it opens would become its stderr. */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++) {
		if (fcntl(i, F_GETFD) < 0)
			dup2(fd, i);
	}
	if (fd > 2)
		close(fd);
}

static void write_setting(const char *path, const char *value)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	/* Not every kernel has every setting. */
	if (fd >= 0 && write(fd, value, strlen(value)) < 0)
		log_debug("init", "%s: %s", path, strerror(errno));
}

static void write_settings(void)
{
	static const struct {
		const char *path, *value;
	} settings[] = {
		{"/proc/self/oom_score_adj", "-1000"},
		{"/proc/sys/kernel/core_pattern", "core"},
		{"/proc/sys/kernel/dmesg_restrict", "1"},
		{"/proc/sys/kernel/kptr_restrict", "2"},
		{"/proc/sys/kernel/perf_event_paranoid", "3"},
		{"/proc/sys/kernel/unprivileged_bpf_disabled", "1"},
		{"/proc/sys/kernel/sysrq", "0"},
		{"/proc/sys/vm/unprivileged_userfaultfd", "0"},
		{"/proc/sys/fs/protected_symlinks", "1"},
		{"/proc/sys/fs/protected_hardlinks", "1"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		write_setting(settings[i].path, settings[i].value);
}

static void load_module(const char *name)
{
	_cleanup_free_ char *path = str_printf(MODULES "/%s", name);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		log_warn("init", "module %s: %s", name, strerror(errno));
	unlink(path); /* the initramfs is memory */
}

/* The kernel of a distribution has its drivers in modules; the image lists them in their order. */
static void load_modules(void)
{
	_cleanup_free_ char *list = read_file(MODULES "/order", 64 * KIB, NULL, NULL);
	char *rest = list;

	for (char *name; rest && (name = strsep(&rest, "\n"));) {
		if (*name && *name != '#')
			load_module(name);
	}
}

static void bring_loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		log_debug("init", "loopback: %s", strerror(errno));
}

int init_machine(struct error **err)
{
	umask(022);
	if (mount_kernel_filesystems(err) < 0)
		return -1;
	open_console();
	reboot(RB_DISABLE_CAD);
	load_modules();
	write_settings();
	if (sethostname(HOST_NAME, strlen(HOST_NAME)) < 0)
		return error_errno(err, errno, "setting the host name");
	bring_loopback_up();
	return 0;
}

void init_power_off(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	/* Only without the capability: then the kernel panics on our end, which ends it too. */
	_exit(0);
}

int init_read_secret(unsigned char *ret, bool *ret_privileged, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;
	size_t size = 0;
	_cleanup_free_ char *hex = fw_cfg_read(PROOF_FW_CFG_NAME, 4 * KIB, &size, &why);

	if (why)
		return error_move(err, steal_ptr(why));
	if (!hex)
		return 0;
	char *rest = hex;
	strsep(&rest, "\n");
	*ret_privileged = rest && str_eq(rest, PROOF_PRIVILEGED_LINE "\n");
	int r = hex_decode(hex, ret, PROOF_SECRET_BYTES);
	explicit_bzero(hex, size);
	return r < 0 ? error_set(err, ERR_INVALID, "the secret in fw_cfg is not %d bytes in hex",
			       PROOF_SECRET_BYTES)
		     : 1;
}

void init_say(const char *line)
{
	_cleanup_close_ int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	_cleanup_free_ char *text = str_printf("%s\n", line);

	if (fd >= 0 && write_all(fd, text, strlen(text)) < 0)
		return;
}
