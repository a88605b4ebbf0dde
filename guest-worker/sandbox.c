#include "guest-worker/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"

/* Refused with EPERM whatever the arguments are. Most would fail for want of a capability; the
 * filter keeps the code behind them out of a job's reach. */
static const char *const refused_calls[] = {
	/* mounts */
	"mount",
	"umount",
	"umount2",
	"pivot_root",
	"move_mount",
	"open_tree",
	"fsopen",
	"fsconfig",
	"fsmount",
	"fspick",
	"mount_setattr",
	"setns",
	"quotactl",
	"quotactl_fd",
	"swapon",
	"swapoff",
	/* kernel machinery with a history of holes */
	"bpf",
	"perf_event_open",
	"userfaultfd",
	"keyctl",
	"add_key",
	"request_key",
	"open_by_handle_at",
	"lookup_dcookie",
	"nfsservctl",
	"vhangup",
	"acct",
	/* the kernel itself */
	"kexec_load",
	"kexec_file_load",
	"init_module",
	"finit_module",
	"delete_module",
	"reboot",
	"syslog",
	"iopl",
	"ioperm",
	"settimeofday",
	"clock_settime",
	/* other processes' memory */
	"process_vm_readv",
	"process_vm_writev",
	"pidfd_getfd",
	"kcmp",
	"process_madvise",
};

/* As if the kernel had none, so that libraries take their other way. clone3 is among them because a
 * filter cannot see its flags. */
static const char *const absent_calls[] = {
	"io_uring_setup",
	"io_uring_enter",
	"io_uring_register",
	"clone3",
};

static int refuse(scmp_filter_ctx ctx, const char *name, uint32_t action)
{
	int nr = seccomp_syscall_resolve_name(name);

	/* Not known to this library or architecture: then the kernel's own checks must do. */
	return nr < 0 ? 0 : seccomp_rule_add(ctx, action, nr, 0);
}

static int add_rules(scmp_filter_ctx ctx)
{
	const uint32_t denied = SCMP_ACT_ERRNO(EPERM);
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(refused_calls) && !r; i++)
		r = refuse(ctx, refused_calls[i], denied);
	for (size_t i = 0; i < ARRAY_SIZE(absent_calls) && !r; i++)
		r = refuse(ctx, absent_calls[i], SCMP_ACT_ERRNO(ENOSYS));
	if (r)
		return r;
	/* The way to the host. The kernel takes the family's low 32 bits only. */
	r = seccomp_rule_add(ctx, denied, SCMP_SYS(socket), 1,
		SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, AF_VSOCK));
	/* A job may debug its own children, by PTRACE_TRACEME. */
	if (!r)
		r = seccomp_rule_add(ctx, denied, SCMP_SYS(ptrace), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)PTRACE_ATTACH));
	if (!r)
		r = seccomp_rule_add(ctx, denied, SCMP_SYS(ptrace), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)PTRACE_SEIZE));
	/* A user namespace would give capabilities over the rest of the kernel's surface. */
	if (!r)
		r = seccomp_rule_add(ctx, denied, SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
	if (!r)
		r = seccomp_rule_add(ctx, denied, SCMP_SYS(unshare), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
	return r;
}

/* libseccomp gives the program by an fd only. */
static int export_filter(scmp_filter_ctx ctx, struct sock_fprog *ret)
{
	_cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
	struct stat st;
	int r;

	if (fd < 0)
		return -errno;
	r = seccomp_export_bpf(ctx, fd);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	size_t size = (size_t)st.st_size;
	if (size == 0 || size % sizeof(struct sock_filter) != 0 ||
		size / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return -EINVAL;
	_cleanup_free_ struct sock_filter *filter = xmalloc(size);
	if (pread(fd, filter, size, 0) != (ssize_t)size)
		return -EIO;
	ret->len = (unsigned short)(size / sizeof(struct sock_filter));
	ret->filter = steal_ptr(filter);
	return 0;
}

static int make_filter(struct sock_fprog *ret)
{
	/* A call by another architecture's table (i386, x32) would pass by these rules: killed. */
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int r;

	if (!ctx)
		return -ENOMEM;
	r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (!r)
		r = add_rules(ctx);
	if (!r)
		r = export_filter(ctx, ret);
	seccomp_release(ctx);
	return r;
}

static const struct {
	unsigned flag;
	const char *name;
} namespaces[] = {
	{CLONE_NEWPID, "pid"},
	{CLONE_NEWNS, "mount"},
	{CLONE_NEWIPC, "ipc"},
	{CLONE_NEWUTS, "uts"},
	{CLONE_NEWNET, "net"},
};

/* Can a process be made in this namespace? A mount namespace is only of use if its mounts can be
 * kept from the machine's. */
static bool namespace_works(unsigned flag)
{
	int status;
	long pid = syscall(SYS_clone, (unsigned long)flag | SIGCHLD, NULL, NULL, NULL, 0UL);

	if (pid == 0)
		_exit(0);
	if (pid < 0)
		return false;
	while (waitpid((pid_t)pid, &status, 0) < 0)
		if (errno != EINTR)
			return true; /* reaped by another thread: it was made */
	return true;
}

static unsigned find_namespaces(bool init)
{
	char missing[64] = "";
	unsigned flags = 0;

	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
		if (init || namespace_works(namespaces[i].flag)) {
			flags |= namespaces[i].flag;
		} else {
			strcat(missing, " ");
			strcat(missing, namespaces[i].name);
		}
	}
	if (missing[0])
		log_warn("sandbox", "jobs have no namespace of their own for:%s", missing);
	return flags;
}

int sandbox_prepare(bool init, struct sandbox *ret, struct error **err)
{
	int r;

	memset(ret, 0, sizeof(*ret));
	r = make_filter(&ret->filter);
	if (r < 0)
		return error_errno(err, -r, "making the system call filter");
	while (prctl(PR_CAPBSET_READ, ret->last_cap + 1) >= 0)
		ret->last_cap++;
	ret->namespaces = find_namespaces(init);
	return 0;
}

void sandbox_destroy(struct sandbox *sandbox)
{
	free(sandbox->filter.filter);
	sandbox->filter.filter = NULL;
}

/* From here on: in the forked process. ----------------------------------------------------------
 */

static int set_limits(void)
{
	static const struct {
		int resource;
		struct rlimit value;
	} limits[] = {
		{RLIMIT_CORE, {0, 0}},
		{RLIMIT_NOFILE, {1024, 65536}},
		{RLIMIT_MEMLOCK, {8 * MIB, 8 * MIB}},
		{RLIMIT_MSGQUEUE, {0, 0}},
		{RLIMIT_RTPRIO, {0, 0}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit now, value = limits[i].value;
		if (getrlimit((__rlimit_resource_t)limits[i].resource, &now) < 0)
			return -1;
		if (setrlimit((__rlimit_resource_t)limits[i].resource, &value) == 0)
			continue;
		/* Without the capability a limit can only go down. */
		value.rlim_max = MIN(value.rlim_max, now.rlim_max);
		value.rlim_cur = MIN(value.rlim_cur, value.rlim_max);
		if (setrlimit((__rlimit_resource_t)limits[i].resource, &value) < 0)
			return -1;
	}
	return 0;
}

static int drop_bounding_set(int last_cap)
{
	for (int cap = 0; cap <= last_cap; cap++) {
		if (prctl(PR_CAPBSET_READ, cap) == 1 && prctl(PR_CAPBSET_DROP, cap) < 0)
			return -1;
	}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return 0;
}

static int drop_caps(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	return (int)syscall(SYS_capset, &header, none);
}

/* By system calls: libc's functions would signal threads that this process does not have. */
static int become(const struct job_user *user)
{
	if (syscall(SYS_setgroups, user->n_groups, user->groups) < 0 ||
		syscall(SYS_setresgid, user->gid, user->gid, user->gid) < 0 ||
		syscall(SYS_setresuid, user->uid, user->uid, user->uid) < 0)
		return -1;
	return 0;
}

enum sandbox_step sandbox_confine(const struct sandbox *sandbox, bool self)
{
	if (set_limits() < 0)
		return SANDBOX_LIMITS;
	if (!self && drop_bounding_set(sandbox->last_cap) < 0)
		return SANDBOX_CAPS;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &sandbox->filter) < 0)
		return SANDBOX_FILTER;
	return SANDBOX_OK;
}

enum sandbox_step sandbox_enter(const struct job_user *user, const char *workdir)
{
	if (!user->self && become(user) < 0)
		return SANDBOX_USER;
	if (drop_caps() < 0)
		return SANDBOX_CAPS;
	/* Changing the uid clears it. Nothing of a job outlives the process that watches it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return chdir(workdir) < 0 ? SANDBOX_WORKDIR : SANDBOX_OK;
}
