/* libvirt's event loop, its errors in our words, and the connection: made, lost, made again. */
#include <errno.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/virt_private.h"

/* A libvirtd that takes calls and says nothing is given up after four times this. */
#define KEEPALIVE_S	5
#define KEEPALIVE_COUNT 3

/* libvirt's event loop. --------------------------------------------------------------------------
 */

static void *event_loop(void *arg)
{
	(void)arg;
	for (;;)
		if (virEventRunDefaultImpl() < 0)
			sleep_ms(100); /* no way to report it from here, and no reason to spin */
	return NULL;
}

/* libvirt prints each error to stderr unless it has somewhere else to put it; ours come back to the
 * caller of the function that failed. */
static void quiet(void *arg, virErrorPtr e)
{
	(void)arg;
	log_debug("libvirt", "%s", e && e->message ? e->message : "?");
}

static int initialized;

static void initialize_once(void)
{
	pthread_t thread;
	pthread_attr_t attr;

	virSetErrorFunc(NULL, quiet);
	if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	/* Before the connection: its keepalive and its domains' monitors live on this loop. */
	if (pthread_create(&thread, &attr, event_loop, NULL) == 0)
		initialized = 1;
	pthread_attr_destroy(&attr);
}

/* Errors. ----------------------------------------------------------------------------------------
 */

static enum err_code classify(const virError *e)
{
	const char *text = e->message ? e->message : "";

	if (strstr(text, "guest cid") || strstr(text, "guest-cid"))
		return ERR_STATE;
	if (e->code == VIR_ERR_NO_MEMORY || strstr(text, "Cannot allocate memory") ||
		strstr(text, "cannot set up guest memory"))
		return ERR_LIMIT;
	if (strstr(text, "No emulator found") || strstr(text, "is not executable") ||
		strstr(text, "Cannot check QEMU binary"))
		return ERR_NOT_FOUND;
	if (e->code == VIR_ERR_AUTH_FAILED || e->code == VIR_ERR_AUTH_UNAVAILABLE ||
		e->code == VIR_ERR_AUTH_CANCELLED || e->code == VIR_ERR_ACCESS_DENIED ||
		strstr(text, "Permission denied"))
		return ERR_DENIED;
	return ERR_UNAVAILABLE;
}

/* What the user can do about an error of this kind, or "". */
static const char *advice(enum err_code code, bool connecting_to_system)
{
	if (code == ERR_NOT_FOUND)
		return "; is QEMU there? apt-get install qemu-system-x86";
	if (!connecting_to_system)
		return "";
	if (code == ERR_DENIED)
		return "; be in the group libvirt, or use libvirt_uri: embed";
	return "; is libvirtd running? systemctl start libvirtd, or use libvirt_uri: embed";
}

static int fail_advising(struct error **err, const char *doing, bool connecting_to_system)
{
	const virError *e = virGetLastError();

	if (!e)
		return error_set(err, ERR_INTERNAL, "%s: libvirt gives no reason", doing);
	/* QEMU's stderr comes with line breaks; an error is one line. */
	_cleanup_free_ char *text = xstrdup(e->message ? e->message : "no message");
	for (char *p = text; *p; p++)
		if (*p == '\n' || *p == '\r')
			*p = p[1] ? ';' : 0;
	enum err_code code = classify(e);
	return error_set(err, code, "%s: libvirt: %s (libvirt error %d)%s", doing, text, e->code,
		advice(code, connecting_to_system));
}

int virt_fail(struct error **err, const char *doing)
{
	return fail_advising(err, doing, false);
}

/* Connection. ------------------------------------------------------------------------------------
 */

/* The driver in our own process reads ROOT/etc/qemu.conf. What it switches off needs a system
 * service around it (cgroups by machined, AppArmor profiles, virtlogd) or privileges we do not
 * have. */
static int write_embed_config(const char *root, struct error **err)
{
	static const char text[] = "security_driver = \"none\"\n"
				   "cgroup_controllers = []\n"
				   "namespaces = []\n"
				   "stdio_handler = \"file\"\n"
				   "seccomp_sandbox = 1\n";
	/* libvirt asks whether KVM is usable as the one user it starts QEMU as, to tell what QEMU
	 * can do; where only root may open /dev/kvm, another user gives answers that contradict
	 * each other and are never cached. Each domain names its own, unprivileged user
	 * (domain_xml.h). */
	static const char as_root[] = "user = \"root\"\n"
				      "group = \"root\"\n"
				      "dynamic_ownership = 1\n"
				      "remember_owner = 0\n";
	_cleanup_free_ char *dir = str_printf("%s/etc", root);
	_cleanup_free_ char *path = str_printf("%s/qemu.conf", dir);
	_cleanup_free_ char *all = str_printf("%s%s", text, geteuid() == 0 ? as_root : "");

	if (make_dirs(dir, 0711, err) < 0)
		return -1;
	return write_file(path, all, strlen(all), 0644, false, err);
}

static char *embed_uri(const char *root, struct error **err)
{
	if (root[strcspn(root, "?&# %")]) {
		error_set(err, ERR_INVALID,
			"%s: libvirt cannot have a root with one of \"?&#%% \" in its path", root);
		return NULL;
	}
	if (write_embed_config(root, err) < 0)
		return NULL;
	return str_printf("qemu:///embed?root=%s", root);
}

/* The driver in this process starts QEMU detached. As a subreaper we become its parent, so that the
 * end of a VM is ours to collect, at once, wherever PID 1 is slow to or does not; vm_watch does
 * that. But libvirt also starts QEMU to ask what it can do, and one that fails to start is nobody's
 * VM yet: it waits, for up to 40 seconds, until such a pid is gone. This thread collects what
 * nobody else does. */
#define COLLECT_AFTER_MS 30

/* Direct children of ours are libvirt's to wait for, which may take it a while on a loaded host. A
 * detached one has a session of its own; so has the child that libvirt forks to start it, but that
 * one never becomes another program, and has our name. */
static bool is_detached(pid_t pid)
{
	char ours[17] = "";
	_cleanup_free_ char *path = str_printf("/proc/%d/stat", pid);
	_cleanup_free_ char *text = read_file(path, 4 * KIB, NULL, NULL);
	const char *name = text ? strchr(text, '(') : NULL;
	const char *after_name = name ? strrchr(name, ')') : NULL;
	int session;

	if (!after_name || prctl(PR_GET_NAME, ours) < 0)
		return false;
	size_t n = (size_t)(after_name - name - 1);
	if (n == strlen(ours) && memcmp(name + 1, ours, n) == 0)
		return false;
	return sscanf(after_name, ") %*c %*d %*d %d", &session) == 1 && session != getsid(0);
}

static void *collect(void *arg)
{
	pid_t last = 0;

	(void)arg;
	for (;;) {
		siginfo_t info = {0};
		/* Without a zombie there is nothing to do here: this sleeps in the kernel. */
		if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT) < 0) {
			sleep_ms(1000); /* no children at all */
			continue;
		}
		/* Who waits for a pid takes it at once; what is still there later is left over. */
		if (info.si_pid == last && is_detached(last))
			waitpid(last, NULL, WNOHANG);
		last = info.si_pid;
		sleep_ms(COLLECT_AFTER_MS);
	}
	return NULL;
}

static int adopt_qemu(struct error **err)
{
	static bool adopting; /* once per process; under no lock: connecting is under the host's */
	pthread_attr_t attr;
	pthread_t thread;

	if (adopting)
		return 0;
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return error_errno(err, errno, "becoming a subreaper");
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 64 * KIB);
	int e = pthread_create(&thread, &attr, collect, NULL);
	pthread_attr_destroy(&attr);
	if (e)
		return error_errno(err, e, "starting a thread");
	adopting = true;
	return 0;
}

/* The path of a URI without its query: qemu:///system?x, qemu+unix:///system. */
static bool has_path(const char *uri, const char *path)
{
	const char *p = strstr(uri, "://");

	p = p ? strchr(p + 3, '/') : NULL;
	return p && str_starts(p, path) && (p[strlen(path)] == 0 || p[strlen(path)] == '?');
}

static void on_close(virConnectPtr conn, int reason, void *opaque)
{
	static const char *const why[] = {"an error", "its end", "it does not answer", "us"};
	struct virt *virt = opaque;

	pthread_mutex_lock(&virt->lock);
	bool ours = conn == virt->conn;
	virt->lost = virt->lost || ours;
	pthread_mutex_unlock(&virt->lock);
	if (ours)
		log_warn("libvirt", "the connection to %s is lost: %s", virt->uri,
			reason >= 0 && (size_t)reason < ARRAY_SIZE(why) ? why[reason] : "?");
}

static void close_conn(virConnectPtr conn)
{
	if (!conn)
		return;
	/* Domains have references of their own; the last one closes it. */
	virConnectUnregisterCloseCallback(conn, on_close);
	virConnectClose(conn);
}

int virt_reconnect(struct virt *virt, struct error **err)
{
	if (virt_is_connected(virt))
		return 0;
	virConnectPtr conn = virConnectOpen(virt->real);
	if (!conn) {
		fail_advising(err, "connecting", virt->system);
		return error_wrap(err, "%s", virt->uri);
	}
	pthread_mutex_lock(&virt->lock);
	virConnectPtr old = virt->conn;
	virt->conn = conn;
	virt->lost = false;
	pthread_mutex_unlock(&virt->lock);
	/* Under no lock of ours: libvirt holds one of its own while it calls on_close(). */
	close_conn(old);
	if (!virt->embedded) {
		virConnectRegisterCloseCallback(conn, on_close, virt, NULL);
		virConnectSetKeepAlive(conn, KEEPALIVE_S, KEEPALIVE_COUNT);
	}
	return 0;
}

bool virt_is_connected(struct virt *virt)
{
	virConnectPtr conn = virt_conn(virt, NULL);

	if (conn)
		virConnectClose(conn);
	return conn != NULL;
}

virConnectPtr virt_conn(struct virt *virt, struct error **err)
{
	virConnectPtr conn = NULL;

	pthread_mutex_lock(&virt->lock);
	/* The event may be on its way still. */
	if (virt->conn && !virt->lost && virConnectIsAlive(virt->conn) == 1) {
		conn = virt->conn;
		virConnectRef(conn);
	}
	pthread_mutex_unlock(&virt->lock);
	if (!conn)
		error_set(err, ERR_UNAVAILABLE, "%s: the connection to libvirt is lost", virt->uri);
	return conn;
}

static bool may_write(const char *dir)
{
	return dir && access(dir, W_OK | X_OK) == 0;
}

/* libvirt makes something below the user's runtime directory or home whatever the driver's root is.
 * A service's user may have no home, and after su or sudo the variable may name another user's. */
static void need_no_home(const char *root)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");

	if (geteuid() != 0 && !may_write(runtime) && (runtime || !may_write(getenv("HOME"))))
		setenv("XDG_RUNTIME_DIR", root, 1);
}

struct virt *virt_open(const char *uri, const char *embed_root, struct error **err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	bool embedded = str_eq(uri, "embed") || str_eq(uri, "qemu:///embed");
	_cleanup_free_ char *real = embedded ? embed_uri(embed_root, err) : xstrdup(uri);

	if (!real)
		return NULL;
	/* What libvirt tells itself goes to a file beside its state: with the driver in our process
	 * it would be our stderr. What concerns us comes by its errors. */
	if (embedded) {
		_cleanup_free_ char *log = str_printf("3:file:%s/libvirt.log", embed_root);
		setenv("LIBVIRT_LOG_OUTPUTS", log, 0);
		need_no_home(embed_root);
	}
	pthread_once(&once, initialize_once);
	if (!initialized) {
		error_set(err, ERR_INTERNAL, "libvirt's event loop does not start");
		return NULL;
	}
	if (str_starts(real, "qemu:///embed") && adopt_qemu(err) < 0)
		return NULL;
	struct virt *virt = xcalloc(1, sizeof(*virt));
	pthread_mutex_init(&virt->lock, NULL);
	virt->uri = xstrdup(embedded ? "qemu:///embed" : uri);
	virt->embedded = embedded || str_starts(uri, "qemu:///embed");
	/* Root has no session: libvirt takes him to the system's daemon. */
	virt->system = !virt->embedded && (has_path(uri, "/system") || geteuid() == 0);
	virt->real = steal_ptr(real);
	if (virt_reconnect(virt, err) == 0)
		return virt;
	virt_close(virt);
	return NULL;
}

void virt_close(struct virt *virt)
{
	if (!virt)
		return;
	close_conn(virt->conn);
	pthread_mutex_destroy(&virt->lock);
	free(virt->real);
	free(virt->uri);
	free(virt);
}

const char *virt_uri(const struct virt *virt)
{
	return virt->uri;
}

bool virt_is_embedded(const struct virt *virt)
{
	return virt->embedded;
}

bool virt_is_system(const struct virt *virt)
{
	return virt->system;
}
