#include "guest-worker/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

#include "common/log.h"
#include "common/util.h"

#define MOUNT_POINT "/sys/fs/cgroup"

/* Of what is available when a job starts: for what worker and kernel need besides while it runs. */
#define RESERVE (12 * MIB)
/* Of what is free: by so much less, and the limit is set anew. */
#define HARDLY_LESS MIB

struct cgroup_tree {
	int fd;
};

struct cgroup {
	int tree_fd; /* borrowed */
	int fd;
	char *name;
	uint64_t memory_free; /* in the machine, when the limit was set */
};

static int write_value(int dir_fd, const char *file, const char *value)
{
	_cleanup_close_ int fd = openat(dir_fd, file, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	return write(fd, value, strlen(value)) < 0 ? -1 : 0;
}

static int write_number(int dir_fd, const char *file, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_value(dir_fd, file, text);
}

/* The directory of our own cgroup, by the "0::" line; NULL if there is none. */
static char *own_path(void)
{
	_cleanup_free_ char *all = read_file("/proc/self/cgroup", 64 * KIB, NULL, NULL);
	char *rest = all;

	for (char *line; rest && (line = strsep(&rest, "\n"));) {
		if (str_starts(line, "0::/"))
			return str_printf(MOUNT_POINT "%s", line + 3);
	}
	return NULL;
}

uint64_t machine_oom_kills(void)
{
	_cleanup_free_ char *all = read_file("/proc/vmstat", 64 * KIB, NULL, NULL);
	const char *line = all ? strstr(all, "\noom_kill ") : NULL;

	return line ? strtoull(line + strlen("\noom_kill "), NULL, 10) : 0;
}

struct cgroup_tree *cgroup_tree_open(bool init)
{
	_cleanup_free_ char *path = init ? xstrdup(MOUNT_POINT) : own_path();
	struct statfs fs;

	if (!path)
		return NULL;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC ||
		faccessat(fd, ".", W_OK, AT_EACCESS) < 0)
		return NULL;

	/* One by one: a kernel may have only some of them. */
	static const char *const controllers[] = {"+memory", "+pids", "+cpu"};
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		if (write_value(fd, "cgroup.subtree_control", controllers[i]) < 0)
			log_debug("cgroup", "%s: %s", controllers[i], strerror(errno));
	}
	struct cgroup_tree *tree = xcalloc(1, sizeof(*tree));
	tree->fd = steal_fd(fd);
	return tree;
}

void cgroup_tree_free(struct cgroup_tree *tree)
{
	if (!tree)
		return;
	close(tree->fd);
	free(tree);
}

/* So that a job meets its own ceiling, and is told so, before the machine is out of memory and the
 * kernel picks a process. */
static uint64_t memory_for_jobs(void)
{
	_cleanup_free_ char *all = read_file("/proc/meminfo", 64 * KIB, NULL, NULL);
	const char *line = all ? strstr(all, "MemAvailable:") : NULL;

	if (!line)
		return UINT64_MAX;
	uint64_t available = strtoull(line + strlen("MemAvailable:"), NULL, 10) * KIB;
	return available > 2 * RESERVE ? available - RESERVE : available / 2;
}

/* Where a controller is not there, its file is not either. */
static void set_limits(int fd, const struct cgroup_limits *limits)
{
	write_number(fd, "memory.swap.max", 0);
	write_number(fd, "memory.oom.group", 1);
	if (limits->pids)
		write_number(fd, "pids.max", limits->pids);
}

static uint64_t memory_free(void)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 ? 0 : (uint64_t)info.freeram * info.mem_unit;
}

static void set_memory(struct cgroup *cgroup, uint64_t memory)
{
	uint64_t most = memory_for_jobs();

	cgroup->memory_free = memory_free();
	write_number(cgroup->fd, "memory.max", memory ? MIN(memory, most) : most);
}

void cgroup_renew_memory(struct cgroup *cgroup, uint64_t memory)
{
	/* To ask the kernel what is available takes some time. */
	if (cgroup && (memory || memory_free() + HARDLY_LESS < cgroup->memory_free))
		set_memory(cgroup, memory);
}

struct cgroup *cgroup_new(
	struct cgroup_tree *tree, const char *name, const struct cgroup_limits *limits)
{
	if (!tree)
		return NULL;
	if (mkdirat(tree->fd, name, 0755) < 0) {
		log_warn("cgroup", "%s: %s", name, strerror(errno));
		return NULL;
	}
	_cleanup_close_ int fd = openat(tree->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		log_warn("cgroup", "%s: %s", name, strerror(errno));
		unlinkat(tree->fd, name, AT_REMOVEDIR);
		return NULL;
	}
	set_limits(fd, limits);

	struct cgroup *cgroup = xcalloc(1, sizeof(*cgroup));
	cgroup->tree_fd = tree->fd;
	cgroup->fd = steal_fd(fd);
	cgroup->name = xstrdup(name);
	set_memory(cgroup, limits->memory);
	return cgroup;
}

int cgroup_fd(const struct cgroup *cgroup)
{
	return cgroup ? cgroup->fd : -1;
}

void cgroup_kill(struct cgroup *cgroup)
{
	if (cgroup)
		write_value(cgroup->fd, "cgroup.kill", "1");
}

bool cgroup_oom_killed(const struct cgroup *cgroup)
{
	char buf[512];
	char *rest = buf;

	if (!cgroup)
		return false;
	_cleanup_close_ int fd = openat(cgroup->fd, "memory.events", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (n < 0)
		return false;
	buf[n] = 0;
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (str_starts(line, "oom_kill "))
			return !str_eq(line + strlen("oom_kill "), "0");
	}
	return false;
}

void cgroup_free(struct cgroup *cgroup)
{
	if (!cgroup)
		return;
	/* The last process has been reaped, but may not be uncharged yet. */
	for (int i = 0; i < 100; i++) {
		if (unlinkat(cgroup->tree_fd, cgroup->name, AT_REMOVEDIR) == 0 || errno != EBUSY)
			break;
		cgroup_kill(cgroup);
		sleep_ms(5);
	}
	close(cgroup->fd);
	free(cgroup->name);
	free(cgroup);
}
