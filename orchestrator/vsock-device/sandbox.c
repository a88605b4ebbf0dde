#include "orchestrator/vsock-device/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"

#define LOG_BYTES_MAX (16u << 20)

void sandbox_close_fds(const int *keep, unsigned n)
{
	unsigned from = 3;

	for (;;) {
		unsigned next = ~0u; /* the lowest one to keep from here on */
		for (unsigned i = 0; i < n; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from)
				next = MIN(next, (unsigned)keep[i]);
		if (next > from)
			close_range(from, next == ~0u ? ~0u : next - 1, 0);
		if (next == ~0u)
			return;
		from = next + 1;
	}
}

static void limit(int what, rlim_t value)
{
	struct rlimit now;

	if (getrlimit(what, &now) < 0)
		return;
	now.rlim_max = MIN(now.rlim_max, value);
	now.rlim_cur = now.rlim_max;
	setrlimit(what, &now);
}

unsigned sandbox_limit(unsigned max_fds)
{
	struct rlimit fds = {max_fds, max_fds};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NPROC, 0);
	limit(RLIMIT_FSIZE, LOG_BYTES_MAX);
	limit(RLIMIT_NOFILE, max_fds);
	getrlimit(RLIMIT_NOFILE, &fds);
	return (unsigned)fds.rlim_cur;
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {{0}};

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int cap = 0; cap < 64; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	syscall(SYS_capset, &header, none);
}

static int become_owner(const char *dir, struct error **err)
{
	struct stat st;

	if (stat(dir, &st) < 0)
		return error_errno(err, errno, "%s", dir);
	if (st.st_uid == 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(st.st_gid, st.st_gid, st.st_gid) < 0 ||
		setresuid(st.st_uid, st.st_uid, st.st_uid) < 0)
		return error_errno(err, errno, "becoming user %u", st.st_uid);
	return 0;
}

int sandbox_confine(const char *dir, bool *ret_rooted, struct error **err)
{
	bool root = geteuid() == 0;
	int flags = CLONE_NEWNET | CLONE_NEWIPC;

	/* An ordinary user has the right to chroot only in a user namespace of its own. No ids are
	 * mapped there, and none are needed: permissions go by the real ones. */
	if (unshare(root ? flags : flags | CLONE_NEWUSER) < 0)
		log_debug("vsock-device", "no namespaces of its own: error %d", errno);
	if (root && become_owner(dir, err) < 0) /* before chroot: dir is a name outside */
		return -1;
	/* Capabilities are gone with uid 0, if it was given up; then the namespace gives them. */
	if (root && geteuid() != 0 && unshare(CLONE_NEWUSER) < 0)
		log_debug("vsock-device", "no user namespace: error %d", errno);
	*ret_rooted = chroot(dir) == 0;
	if (!*ret_rooted)
		log_debug("vsock-device", "no root directory of its own: error %d", errno);
	if (chdir("/") < 0)
		return error_errno(err, errno, "chdir");
	drop_capabilities();
	return 0;
}

#ifdef __SANITIZE_ADDRESS__
/* The sanitizers' run time needs more than a list could say. */
int sandbox_seal(struct error **err)
{
	(void)err;
	return 0;
}
#else
/* Allowed whatever the arguments are. */
static const int calls[] = {
	/* the loop */
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(poll), /* for QEMU's connection */
	SCMP_SYS(ppoll),
	SCMP_SYS(read),	 /* the signalfd */
	SCMP_SYS(write), /* eventfds, the log */
	/* sockets */
	SCMP_SYS(accept4),
	SCMP_SYS(connect), /* to PATH_port */
	SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(sendmsg),
	SCMP_SYS(readv),
	SCMP_SYS(shutdown),
	SCMP_SYS(close),
	/* memory; mmap and mprotect below */
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(fstat), /* the guest's memory files */
	SCMP_SYS(newfstatat),
	/* the rest */
	SCMP_SYS(unlinkat), /* our sockets */
	SCMP_SYS(clock_gettime),
	SCMP_SYS(getrandom),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	/* abort(), which is better seen as what it is */
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(tgkill),
};

static int add_rules(scmp_filter_ctx filter)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(calls) && r == 0; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	/* Of sockets, Unix ones; of memory, none to execute; of fcntl, O_NONBLOCK. */
	if (r == 0)
		r = seccomp_rule_add(
			filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(
			filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL));
	if (r == 0)
		r = seccomp_rule_add(
			filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_SETFL));
	/* A library that looks for a file (a locale, a time zone) does without. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
	return r;
}

int sandbox_seal(struct error **err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);

	if (!filter)
		return error_set(err, ERR_UNSUPPORTED, "seccomp is not there");
	int r = add_rules(filter);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r == 0 ? 0 : error_errno(err, -r, "seccomp");
}
#endif
