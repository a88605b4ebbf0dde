/* The tree that jobs see: the image's root, read-only, from the disk that all VMs share; above it
 * what this VM writes, on a disk of its own or in its memory. The worker itself stays in the
 * initramfs, so nothing in the image is needed to run it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "guest-worker/init.h"
#include "guest-worker/job_user.h"

#define LOWER	       "/lower"
#define UPPER	       "/upper"
#define ROOT_SERIAL    "root"
#define SCRATCH_SERIAL "scratch"
#define ROOT_FALLBACK  "vda"
/* A driver that was just loaded finds its disks a moment later. */
#define DISK_WAIT_MS 10000

/* Is this block device's serial the given one? */
static bool has_serial(const char *device, const char *serial)
{
	_cleanup_free_ char *path = str_printf("/sys/block/%s/serial", device);
	_cleanup_free_ char *text = read_file(path, 256, NULL, NULL);

	if (text)
		text[strcspn(text, " \n")] = 0;
	return str_eq(text, serial);
}

/* The name of the virtio disk with that serial; NULL if there is none. */
static char *find_disk(const char *serial)
{
	DIR *dir = opendir("/sys/block");
	char *found = NULL;

	if (!dir)
		return NULL;
	for (const struct dirent *entry; !found && (entry = readdir(dir));) {
		if (str_starts(entry->d_name, "vd") && has_serial(entry->d_name, serial))
			found = xstrdup(entry->d_name);
	}
	closedir(dir);
	return found;
}

static char *wait_for_root(struct error **err)
{
	uint64_t until = now_mono_usec() + DISK_WAIT_MS * 1000;

	for (;;) {
		char *disk = find_disk(ROOT_SERIAL);
		if (disk)
			return disk;
		if (access("/sys/block/" ROOT_FALLBACK, F_OK) == 0 &&
			!has_serial(ROOT_FALLBACK, SCRATCH_SERIAL))
			return xstrdup(ROOT_FALLBACK);
		if (now_mono_usec() > until) {
			error_set(err, ERR_NOT_FOUND,
				"no root disk: neither a virtio disk with the serial \"" ROOT_SERIAL
				"\" nor /dev/" ROOT_FALLBACK);
			return NULL;
		}
		sleep_ms(5);
	}
}

static int mount_lower(struct error **err)
{
	static const char *const types[] = {"erofs", "squashfs", "ext4"};
	_cleanup_free_ char *disk = wait_for_root(err);
	int why = ENODEV;

	if (!disk)
		return -1;
	_cleanup_free_ char *device = str_printf("/dev/%s", disk);
	mkdir(LOWER, 0755);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (mount(device, LOWER, types[i], MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == 0)
			return 0;
		/* ENODEV: not in this kernel; EINVAL: another file system. */
		if (errno != ENODEV)
			why = errno;
	}
	return error_errno(
		err, why, "mounting the root disk %s as erofs, squashfs or ext4", device);
}

/* Each inode takes about a KiB of the kernel's memory: bounded as the bytes are. */
static char *tmpfs_options(unsigned percent, const char *mode)
{
	struct sysinfo info = {0};

	sysinfo(&info);
	uint64_t total = (uint64_t)info.totalram * info.mem_unit;
	return str_printf("size=%u%%,nr_inodes=%llu,mode=%s", percent,
		(unsigned long long)MAX(total / (16 * KIB), UINT64_C(1024)), mode);
}

static int mount_tmpfs(const char *at, unsigned percent, const char *mode, struct error **err)
{
	_cleanup_free_ char *options = tmpfs_options(percent, mode);

	mkdir(at, 0755);
	if (mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0)
		return error_errno(err, errno, "mounting a tmpfs at %s", at);
	return 0;
}

static int mount_upper(bool *ret_on_disk, struct error **err)
{
	_cleanup_free_ char *disk = find_disk(SCRATCH_SERIAL);

	*ret_on_disk = disk != NULL;
	if (!disk)
		return mount_tmpfs(UPPER, 50, "0755", err);
	_cleanup_free_ char *device = str_printf("/dev/%s", disk);
	mkdir(UPPER, 0755);
	/* Nothing on it is worth anything after a crash of this VM. */
	if (mount(device, UPPER, "ext4", MS_NOSUID | MS_NODEV | MS_NOATIME, "nobarrier") < 0)
		return error_errno(err, errno, "mounting the scratch disk %s", device);
	/* What another job left there is not for this one. */
	if (access(UPPER "/data", F_OK) == 0)
		return error_set(err, ERR_STATE, "the scratch disk %s was used before", device);
	return 0;
}

static int mount_overlay(struct error **err)
{
	const char options[] = "lowerdir=" LOWER ",upperdir=" UPPER "/data,workdir=" UPPER "/work";
	struct stat st;

	if (mkdir(UPPER "/data", 0755) < 0 || mkdir(UPPER "/work", 0755) < 0)
		return error_errno(err, errno, "preparing the overlay");
	if (stat(LOWER, &st) == 0 && chmod(UPPER "/data", st.st_mode & 07777) < 0)
		return error_errno(err, errno, "preparing the overlay");
	mkdir(INIT_JOB_ROOT, 0755);
	/* volatile: a job's fsync() need not reach anything that outlives the VM. */
	_cleanup_free_ char *fast = str_printf("%s,volatile", options);
	if (mount("overlay", INIT_JOB_ROOT, "overlay", MS_NOSUID | MS_NODEV, fast) < 0 &&
		mount("overlay", INIT_JOB_ROOT, "overlay", MS_NOSUID | MS_NODEV, options) < 0)
		return error_errno(err, errno, "mounting the overlay");
	return 0;
}

/* What a program may expect in /dev, and nothing else. In its own mount, since the rest of the root
 * is mounted without devices. */
static int make_dev(struct error **err)
{
	static const struct {
		const char *name;
		unsigned major, minor;
	} devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8},
		{"urandom", 1, 9}, {"tty", 5, 0}};
	static const struct {
		const char *name, *to;
	} links[] = {{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"}};
	const char dev[] = INIT_JOB_ROOT "/dev";

	mkdir(dev, 0755);
	if (mount("dev", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,nr_inodes=64,mode=0755") <
		0)
		return error_errno(err, errno, "mounting %s", dev);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dev, devices[i].name);
		if (mknod(path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) < 0 ||
			chmod(path, 0666) < 0)
			return error_errno(err, errno, "%s", path);
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dev, links[i].name);
		if (symlink(links[i].to, path) < 0)
			return error_errno(err, errno, "%s", path);
	}
	if (mkdir(INIT_JOB_ROOT "/dev/pts", 0755) < 0 ||
		mount("devpts", INIT_JOB_ROOT "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			"newinstance,ptmxmode=0666,mode=0620,max=256") < 0)
		log_warn("init", "no pseudo-terminals: %s", strerror(errno));
	return mount_tmpfs(INIT_JOB_ROOT "/dev/shm", 50, "1777", err);
}

/* The default user has a name and a directory, whatever the image has. */
static int make_default_user(struct error **err)
{
	static const char entry[] = "job:x:1000:1000:job:" INIT_JOB_DIR ":/bin/sh\n";
	struct job_root root;
	struct job_user user;

	if (make_dirs(INIT_JOB_ROOT INIT_JOB_DIR, 0755, err) < 0 ||
		job_root_init(INIT_JOB_ROOT, INIT_JOB_DIR, &root, err) < 0)
		return -1;
	_cleanup_close_ int root_fd = root.fd;
	if (job_user_find(&root, JOB_USER_DEFAULT, &user, NULL) < 0) {
		mkdir(INIT_JOB_ROOT "/etc", 0755);
		_cleanup_close_ int fd =
			job_root_open(&root, "/etc/passwd", O_WRONLY | O_APPEND | O_CREAT, 0644);
		if (fd < 0 || write_all(fd, entry, strlen(entry)) < 0)
			log_warn("init", "no entry for user job: %s", strerror(errno));
		user.uid = user.gid = JOB_USER_ID;
	}
	/* The directory where jobs begin is for every user that a job may name: a root without
	 * capabilities obeys permissions too. */
	if (chown(INIT_JOB_ROOT INIT_JOB_DIR, user.uid, user.gid) < 0 ||
		chmod(INIT_JOB_ROOT INIT_JOB_DIR, 0777) < 0)
		return error_errno(err, errno, "%s", INIT_JOB_DIR);
	return 0;
}

int init_job_root(struct error **err)
{
	bool on_disk;

	if (mount_lower(err) < 0 || mount_upper(&on_disk, err) < 0 || mount_overlay(err) < 0 ||
		make_dev(err) < 0)
		return -1;
	mkdir(INIT_JOB_ROOT "/proc", 0755); /* mounted anew for each job */
	/* With a disk for what jobs write, /tmp is a part of it. */
	if (on_disk) {
		mkdir(INIT_JOB_ROOT "/tmp", 01777);
		chmod(INIT_JOB_ROOT "/tmp", 01777);
	} else if (mount_tmpfs(INIT_JOB_ROOT "/tmp", 50, "1777", err) < 0) {
		return -1;
	}
	if (mount_tmpfs(INIT_JOB_ROOT "/run", 20, "0755", err) < 0)
		return -1;
	return make_default_user(err);
}
