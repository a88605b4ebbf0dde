#include "orchestrator/virt.h"

#include <errno.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/domain_xml.h"

struct virt {
	virConnectPtr conn;
	char *uri; /* owned */
	bool embedded;
};

/* One reference is the owner's; libvirt's event callback holds another until it is deregistered. */
struct virt_domain {
	virConnectPtr conn; /* own reference */
	virDomainPtr dom;
	int callback_id;
	pthread_mutex_t lock; /* below: */
	void (*on_stop)(void *arg, enum virt_stop why);
	void *arg;
	enum virt_stop stopped;
	unsigned refs;
};

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

static int fail(struct error **err, const char *doing)
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
	}
	pthread_once(&once, initialize_once);
	if (!initialized) {
		error_set(err, ERR_INTERNAL, "libvirt's event loop does not start");
		return NULL;
	}
	if (str_starts(real, "qemu:///embed") && adopt_qemu(err) < 0)
		return NULL;
	virConnectPtr conn = virConnectOpen(real);
	if (!conn) {
		fail_advising(err, "connecting", str_starts(real, "qemu:///system"));
		error_wrap(err, "%s", uri);
		return NULL;
	}
	struct virt *virt = xcalloc(1, sizeof(*virt));
	virt->conn = conn;
	virt->uri = embedded ? xstrdup("qemu:///embed") : steal_ptr(real);
	virt->embedded = embedded || str_starts(uri, "qemu:///embed");
	if (!virt->embedded)
		virConnectSetKeepAlive(conn, 5, 3);
	return virt;
}

void virt_close(struct virt *virt)
{
	if (!virt)
		return;
	virConnectClose(virt->conn);
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

/* Not by virConnectGetVersion(): that has libvirt ask every emulator there is, which takes seconds.
 */
char *virt_emulator(struct virt *virt)
{
	_cleanup_free_ char *can =
		virConnectGetDomainCapabilities(virt->conn, NULL, "x86_64", "q35", NULL, 0);
	const char *start = can ? strstr(can, "<path>") : NULL;
	const char *end = start ? strstr(start, "</path>") : NULL;

	return end ? xstrndup(start + 6, (size_t)(end - start - 6)) : NULL;
}

/* Domains. ---------------------------------------------------------------------------------------
 */

static void domain_unref(void *opaque)
{
	struct virt_domain *domain = opaque;

	pthread_mutex_lock(&domain->lock);
	unsigned left = --domain->refs;
	pthread_mutex_unlock(&domain->lock);
	if (left)
		return;
	virDomainFree(domain->dom);
	virConnectClose(domain->conn);
	pthread_mutex_destroy(&domain->lock);
	free(domain);
}

static enum virt_stop why_stopped(int detail)
{
	switch (detail) {
	case VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
		return VIRT_SHUTDOWN;
	case VIR_DOMAIN_EVENT_STOPPED_CRASHED:
		return VIRT_CRASHED;
	case VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
		return VIRT_DESTROYED;
	default:
		return VIRT_FAILED;
	}
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *opaque)
{
	struct virt_domain *domain = opaque;
	enum virt_stop why;

	(void)conn;
	(void)dom;
	if (event == VIR_DOMAIN_EVENT_CRASHED)
		why = VIRT_CRASHED;
	else if (event == VIR_DOMAIN_EVENT_STOPPED)
		why = why_stopped(detail);
	else
		return 0;
	/* Called under the lock, so that virt_domain_on_stop(NULL) waits for a call under way. */
	pthread_mutex_lock(&domain->lock);
	if (domain->stopped == VIRT_RUNNING) {
		domain->stopped = why;
		if (domain->on_stop)
			domain->on_stop(domain->arg, why);
	}
	pthread_mutex_unlock(&domain->lock);
	return 0;
}

static struct virt_domain *domain_wrap(virConnectPtr conn, virDomainPtr dom)
{
	struct virt_domain *domain = xcalloc(1, sizeof(*domain));

	virConnectRef(conn);
	domain->conn = conn;
	domain->dom = dom;
	domain->callback_id = -1;
	domain->refs = 1;
	pthread_mutex_init(&domain->lock, NULL);
	return domain;
}

/* Takes dom. */
static struct virt_domain *domain_watch(virConnectPtr conn, virDomainPtr dom)
{
	struct virt_domain *domain = domain_wrap(conn, dom);

	domain->refs++;
	domain->callback_id =
		virConnectDomainEventRegisterAny(conn, dom, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
			VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), domain, domain_unref);
	if (domain->callback_id < 0)
		domain->refs--;
	/* Events are hints: one may have passed before this one was asked for. */
	if (virDomainIsActive(dom) == 0)
		on_lifecycle(conn, dom, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED,
			domain);
	return domain;
}

struct virt_domain *virt_create(struct virt *virt, const char *xml, struct error **err)
{
	virDomainPtr dom = virDomainCreateXML(virt->conn, xml, 0);

	if (!dom) {
		fail(err, "starting the domain");
		return NULL;
	}
	return domain_watch(virt->conn, dom);
}

struct virt_domain *virt_find(
	struct virt *virt, const char *uuid, const char *owner, struct error **err)
{
	virDomainPtr dom = virDomainLookupByUUIDString(virt->conn, uuid);
	_cleanup_free_ char *xml = dom ? virDomainGetXMLDesc(dom, 0) : NULL;
	_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;

	if (dom && str_eq(found, owner) && virDomainIsActive(dom) == 1)
		return domain_watch(virt->conn, dom);
	if (dom)
		virDomainFree(dom);
	error_set(err, ERR_NOT_FOUND, "the domain of the VM is gone");
	return NULL;
}

int virt_destroy(struct virt_domain *domain, struct error **err)
{
	if (virDomainDestroyFlags(domain->dom, VIR_DOMAIN_DESTROY_DEFAULT) == 0)
		return 0;
	const virError *e = virGetLastError();
	if (e && (e->code == VIR_ERR_NO_DOMAIN || e->code == VIR_ERR_OPERATION_INVALID))
		return 0;
	return fail(err, "destroying the domain");
}

void virt_domain_free(struct virt_domain *domain)
{
	if (!domain)
		return;
	virt_domain_on_stop(domain, NULL, NULL);
	if (domain->callback_id >= 0)
		virConnectDomainEventDeregisterAny(domain->conn, domain->callback_id);
	domain_unref(domain);
}

void virt_domain_on_stop(
	struct virt_domain *domain, void (*on_stop)(void *arg, enum virt_stop why), void *arg)
{
	pthread_mutex_lock(&domain->lock);
	domain->on_stop = on_stop;
	domain->arg = arg;
	enum virt_stop stopped = domain->stopped;
	pthread_mutex_unlock(&domain->lock);
	if (on_stop && stopped != VIRT_RUNNING)
		on_stop(arg, stopped);
}

char *virt_domain_xml(struct virt_domain *domain, struct error **err)
{
	char *xml = virDomainGetXMLDesc(domain->dom, 0);

	if (!xml)
		fail(err, "reading the domain's XML");
	return xml;
}

int virt_each_ours(struct virt *virt, const char *owner,
	void (*each)(void *arg, struct virt_domain *domain, const char *name, const char *xml),
	void *arg, struct error **err)
{
	virDomainPtr *all = NULL;
	int n = virConnectListAllDomains(virt->conn, &all, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
	int ours = 0;

	if (n < 0)
		return fail(err, "listing domains");
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *xml = virDomainGetXMLDesc(all[i], 0);
		_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;
		struct virt_domain *domain = domain_wrap(virt->conn, all[i]);
		if (str_eq(found, owner)) {
			each(arg, domain, virDomainGetName(all[i]), xml);
			ours++;
		}
		domain_unref(domain);
	}
	free(all);
	return ours;
}
