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

/* At the end of the process. */
#define CLOSE_MS 2000

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

static int check_embed_root(const char *root, struct error **err)
{
	if (!root[strcspn(root, "?&# %")])
		return 0;
	return error_set(err, ERR_INVALID,
		"%s: libvirt cannot have a root with one of \"?&#%% \" in its path", root);
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

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *opaque)
{
	struct virt *virt = opaque;
	const char *name = virDomainGetName(dom);

	(void)conn;
	if (name)
		virt_note_event(virt, name, event, detail);
	return 0;
}

/* Under the lock. The event of its loss may be on its way still. */
static bool is_connected(const struct virt *virt)
{
	return virt->conn && !virt->lost && virConnectIsAlive(virt->conn) == 1;
}

static virConnectPtr take_idle(struct virt *virt)
{
	pthread_mutex_lock(&virt->lock);
	virConnectPtr conn = virt->n_idle ? virt->idle[--virt->n_idle] : NULL;
	pthread_mutex_unlock(&virt->lock);
	return conn;
}

/* A call failed, and libvirtd with it, before the other connection noticed. */
static void give_up(struct virt *virt, unsigned generation)
{
	pthread_mutex_lock(&virt->lock);
	bool news = generation == virt->generation && !virt->lost;
	virt->lost = virt->lost || news;
	pthread_mutex_unlock(&virt->lock);
	if (news)
		log_warn("libvirt", "the connection to %s is lost: a call failed", virt->uri);
}

virConnectPtr virt_take_conn(struct virt *virt, unsigned *ret_generation, struct error **err)
{
	virConnectPtr conn = NULL;

	pthread_mutex_lock(&virt->lock);
	bool lost = !is_connected(virt);
	*ret_generation = virt->generation;
	if (!lost && virt->embedded) {
		conn = virt->conn;
		virConnectRef(conn);
	}
	pthread_mutex_unlock(&virt->lock);
	if (lost) {
		error_set(err, ERR_UNAVAILABLE, "%s: the connection to libvirt is lost", virt->uri);
		return NULL;
	}
	while (!conn && (conn = take_idle(virt)) && virConnectIsAlive(conn) != 1)
		virConnectClose(steal_ptr(conn));
	if (!conn && !(conn = virConnectOpen(virt->real))) {
		fail_advising(err, "connecting", virt->system);
		error_wrap(err, "%s", virt->uri);
		give_up(virt, *ret_generation);
	}
	return conn;
}

void virt_give_conn(struct virt *virt, virConnectPtr conn, unsigned generation)
{
	bool alive = virConnectIsAlive(conn) == 1;

	if (!alive)
		give_up(virt, generation);
	pthread_mutex_lock(&virt->lock);
	if (alive && !virt->embedded && !virt->lost && generation == virt->generation &&
		virt->n_idle < VIRT_IDLE_MAX)
		virt->idle[virt->n_idle++] = steal_ptr(conn);
	pthread_mutex_unlock(&virt->lock);
	if (conn)
		virConnectClose(conn);
}

/* What a connection leaves behind is given back by calls, which nobody waits for long: the process
 * may be at its end, or libvirtd stand still. */
struct leftover {
	struct virt *virt;
	virConnectPtr conn, idle[VIRT_IDLE_MAX]; /* owned */
	unsigned n_idle;
	int event_id;
};

static void run_close(void *arg)
{
	struct leftover *left = arg;

	for (unsigned i = 0; i < left->n_idle; i++)
		virConnectClose(left->idle[i]);
	/* It has a reference too. */
	if (left->event_id >= 0)
		virConnectDomainEventDeregisterAny(left->conn, left->event_id);
	if (left->conn) {
		virConnectUnregisterCloseCallback(left->conn, on_close);
		virConnectClose(left->conn);
	}
	pthread_mutex_lock(&left->virt->lock);
	left->virt->ops--;
	pthread_mutex_unlock(&left->virt->lock);
}

static void close_leftover(struct leftover *left, unsigned timeout_ms)
{
	struct bounded *bounded = bounded_start(run_close, free, left, NULL);

	/* Without a thread all stays open. */
	if (!bounded)
		return;
	if (bounded_wait(bounded, now_mono_usec() + UINT64_C(1000) * timeout_ms, -1, -1) ==
			BOUNDED_RETURNED ||
		!bounded_leave(bounded))
		free(left);
}

/* Put conn (taken; may be NULL) in the place of the one before, with all that belonged to that. */
static void replace_conn(struct virt *virt, virConnectPtr conn, unsigned timeout_ms)
{
	struct leftover *left = xcalloc(1, sizeof(*left));

	left->virt = virt;
	pthread_mutex_lock(&virt->lock);
	left->conn = virt->conn;
	left->event_id = virt->event_id;
	memcpy(left->idle, virt->idle, sizeof(left->idle));
	left->n_idle = virt->n_idle;
	virt->n_idle = 0;
	virt->conn = conn;
	virt->event_id = -1;
	virt->lost = false;
	virt->generation++;
	virt->ops++;
	pthread_mutex_unlock(&virt->lock);
	/* Under no lock of ours: libvirt holds one of its own while it calls on_close(). */
	close_leftover(left, timeout_ms);
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

/* What has to be there before the first connection of this process. */
static int prepare(const struct virt *virt, struct error **err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	/* What libvirt tells itself goes to a file beside its state: with the driver in our process
	 * it would be our stderr. What concerns us comes by its errors. */
	if (virt->root) {
		_cleanup_free_ char *log = str_printf("3:file:%s/libvirt.log", virt->root);
		if (check_embed_root(virt->root, err) < 0 ||
			write_embed_config(virt->root, err) < 0)
			return -1;
		setenv("LIBVIRT_LOG_OUTPUTS", log, 0);
		need_no_home(virt->root);
	}
	pthread_once(&once, initialize_once);
	if (!initialized)
		return error_set(err, ERR_INTERNAL, "libvirt's event loop does not start");
	return virt->embedded ? adopt_qemu(err) : 0;
}

int virt_connect(struct virt *virt, struct error **err)
{
	if (virt_is_connected(virt))
		return 0;
	if (prepare(virt, err) < 0)
		return -1;
	virConnectPtr conn = virConnectOpen(virt->real);
	if (!conn) {
		fail_advising(err, "connecting", virt->system);
		return error_wrap(err, "%s", virt->uri);
	}
	replace_conn(virt, conn, 0);
	int id = virConnectDomainEventRegisterAny(conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
		VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), virt, NULL);
	pthread_mutex_lock(&virt->lock);
	virt->event_id = id;
	pthread_mutex_unlock(&virt->lock);
	if (!virt->embedded) {
		virConnectRegisterCloseCallback(conn, on_close, virt, NULL);
		/* Last: no call is made on it from here on. */
		virConnectSetKeepAlive(conn, KEEPALIVE_S, KEEPALIVE_COUNT);
	}
	return 0;
}

bool virt_is_connected(struct virt *virt)
{
	pthread_mutex_lock(&virt->lock);
	bool connected = is_connected(virt);
	pthread_mutex_unlock(&virt->lock);
	return connected;
}

struct virt *virt_new(const char *uri, const char *embed_root)
{
	struct virt *virt = xcalloc(1, sizeof(*virt));
	bool ours = str_eq(uri, "embed") || str_eq(uri, "qemu:///embed");

	pthread_mutex_init(&virt->lock, NULL);
	pthread_mutex_init(&virt->domains_lock, NULL);
	virt->event_id = -1;
	virt->root = ours ? xstrdup(embed_root) : NULL;
	virt->real = ours ? str_printf("qemu:///embed?root=%s", embed_root) : xstrdup(uri);
	virt->uri = xstrdup(ours ? "qemu:///embed" : uri);
	virt->embedded = str_starts(virt->real, "qemu:///embed");
	/* Root has no session: libvirt takes him to the system's daemon. */
	virt->system = !virt->embedded && (has_path(uri, "/system") || geteuid() == 0);
	return virt;
}

void virt_close(struct virt *virt)
{
	if (!virt)
		return;
	replace_conn(virt, NULL, CLOSE_MS);
	pthread_mutex_lock(&virt->lock);
	bool used = virt->ops > 0;
	pthread_mutex_unlock(&virt->lock);
	if (used)
		return;
	pthread_mutex_destroy(&virt->lock);
	pthread_mutex_destroy(&virt->domains_lock);
	free(virt->real);
	free(virt->uri);
	free(virt->root);
	free(virt);
}

const char *virt_advice(const struct virt *virt)
{
	if (virt->embedded)
		return "does QEMU stand still?";
	if (virt->system)
		return "does libvirtd, or QEMU, stand still? systemctl restart libvirtd ends no VM";
	return "does libvirtd, or QEMU, stand still? When libvirtd is killed (its pid is in "
	       "$XDG_RUNTIME_DIR/libvirt/libvirtd.pid), VMs go on, and the next use starts it";
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
