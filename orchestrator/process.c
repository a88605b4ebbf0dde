#include "orchestrator/process.h"

#include <ctype.h>
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"

#define KILL_WAIT_MS 5000
#define CMDLINE_CAP  (256 * KIB)

uint64_t process_start_time(pid_t pid)
{
	char path[40];
	unsigned long long start = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_free_ char *text = pid > 0 ? read_file(path, 4 * KIB, NULL, NULL) : NULL;
	/* The name, which may hold anything, ends with the last parenthesis; the start is field 22.
	 */
	const char *p = text ? strrchr(text, ')') : NULL;
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p && sscanf(p, " %llu", &start) == 1 ? start : 0;
}

int process_open(pid_t pid, uint64_t start_time)
{
	_cleanup_close_ int fd = -1;

	if (pid <= 1 || !start_time)
		return -1;
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	/* Asked after it was opened: then the number cannot become another's in between. */
	if (fd < 0 || process_start_time(pid) != start_time)
		return -1;
	return steal_fd(fd);
}

static bool wait_end(int pidfd, int timeout_ms)
{
	struct pollfd pfd = {.fd = pidfd, .events = POLLIN};

	return poll(&pfd, 1, timeout_ms) == 1;
}

void process_end(int pidfd, int grace_ms)
{
	if (pidfd < 0 || wait_end(pidfd, grace_ms))
		return;
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	wait_end(pidfd, KILL_WAIT_MS);
}

/* The VM whose file is named in a command line, or "". */
static void vm_of(const char *cmdline, size_t size, const char *vms, char ret_id[32])
{
	const char *p = memmem(cmdline, size, vms, strlen(vms));

	ret_id[0] = 0;
	if (!p)
		return;
	p += strlen(vms);
	size_t n = strcspn(p, "/,"); /* ends with the argument's NUL */
	if (n < 32 && p[n] == '/' && str_starts(p, "vm-"))
		snprintf(ret_id, 32, "%.*s", (int)n, p);
}

static bool is_ours(const char *cmdline)
{
	const char *base = strrchr(cmdline, '/');

	base = base ? base + 1 : cmdline;
	return str_starts(base, "qemu-system-") || str_eq(base, "vsock-device");
}

/* The words of a process that runs a program of ours, NUL between them; NULL: it is another's. */
static char *our_cmdline(pid_t pid, size_t *ret_size)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	_cleanup_free_ char *cmdline = read_file(path, CMDLINE_CAP, ret_size, NULL);
	return cmdline && is_ours(cmdline) ? steal_ptr(cmdline) : NULL;
}

/* Of the VM named only, if one is; else of all but those in keep. */
struct wanted {
	const char *below; /* "/.../vms/" */
	const char *only;
	const char *const *keep;
	size_t n_keep;
};

static void end_of_vm(pid_t pid, const void *arg)
{
	const struct wanted *wanted = arg;
	uint64_t start = process_start_time(pid);
	char id[32];
	size_t size = 0;

	_cleanup_free_ char *cmdline = our_cmdline(pid, &size);
	if (!cmdline)
		return;
	vm_of(cmdline, size, wanted->below, id);
	for (size_t i = 0; i < wanted->n_keep; i++)
		if (str_eq(id, wanted->keep[i]))
			return;
	if (!id[0] || (wanted->only && !str_eq(id, wanted->only)))
		return;
	_cleanup_close_ int fd = process_open(pid, start);
	if (fd < 0)
		return;
	log_info("host", "ending process %d of %s, left behind by a %s that is gone", (int)pid, id,
		wanted->only ? "libvirtd" : "daemon");
	process_end(fd, 0);
}

static void for_each_process(void (*look)(pid_t pid, const void *arg), const void *arg)
{
	DIR *dir = opendir("/proc");
	const struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]))
			look((pid_t)atoi(entry->d_name), arg);
	closedir(dir);
}

void process_kill_orphans(const char *vms, const char *const *keep, size_t n_keep)
{
	_cleanup_free_ char *below = str_printf("%s/", vms);
	struct wanted wanted = {.below = below, .keep = keep, .n_keep = n_keep};

	for_each_process(end_of_vm, &wanted);
}

void process_kill_vm(const char *vms, const char *vm_id)
{
	_cleanup_free_ char *below = str_printf("%s/", vms);
	struct wanted wanted = {.below = below, .only = vm_id};

	for_each_process(end_of_vm, &wanted);
}

static void end_that_names(pid_t pid, const void *arg)
{
	const char *prefix = arg;
	uint64_t start = process_start_time(pid);
	size_t size = 0;

	_cleanup_free_ char *cmdline = our_cmdline(pid, &size);
	if (!cmdline || !memmem(cmdline, size, prefix, strlen(prefix)))
		return;
	_cleanup_close_ int fd = process_open(pid, start);
	process_end(fd, 0);
}

void process_kill_naming(const char *prefix)
{
	for_each_process(end_that_names, prefix);
}
