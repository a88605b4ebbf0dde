#include "orchestrator/virt.h"

#include <libvirt/virterror.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/virt_private.h"

/* One reference is the owner's; libvirt's event callback holds another until it is deregistered. */
struct virt_domain {
	struct virt *virt;  /* borrowed */
	virConnectPtr conn; /* own reference; the one that dom was found on */
	virDomainPtr dom;
	int callback_id;
	pthread_mutex_t lock; /* below: */
	void (*on_stop)(void *arg, enum virt_stop why);
	void *arg;
	enum virt_stop stopped;
	unsigned refs;
};

/* Not by virConnectGetVersion(): that has libvirt ask every emulator there is, which takes seconds.
 */
char *virt_emulator(struct virt *virt)
{
	virConnectPtr conn = virt_conn(virt, NULL);
	_cleanup_free_ char *can =
		conn ? virConnectGetDomainCapabilities(conn, NULL, "x86_64", "q35", NULL, 0) : NULL;
	const char *start = can ? strstr(can, "<path>") : NULL;
	const char *end = start ? strstr(start, "</path>") : NULL;

	if (conn)
		virConnectClose(conn);
	return end ? xstrndup(start + 6, (size_t)(end - start - 6)) : NULL;
}

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

/* Takes conn and dom. */
static struct virt_domain *domain_wrap(struct virt *virt, virConnectPtr conn, virDomainPtr dom)
{
	struct virt_domain *domain = xcalloc(1, sizeof(*domain));

	domain->virt = virt;
	domain->conn = conn;
	domain->dom = dom;
	domain->callback_id = -1;
	domain->refs = 1;
	pthread_mutex_init(&domain->lock, NULL);
	return domain;
}

static void register_events(struct virt_domain *domain)
{
	domain->refs++;
	domain->callback_id = virConnectDomainEventRegisterAny(domain->conn, domain->dom,
		VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), domain,
		domain_unref);
	if (domain->callback_id < 0)
		domain->refs--;
}

/* Takes conn and dom. */
static struct virt_domain *domain_watch(struct virt *virt, virConnectPtr conn, virDomainPtr dom)
{
	struct virt_domain *domain = domain_wrap(virt, conn, dom);

	register_events(domain);
	/* Events are hints: one may have passed before this one was asked for. */
	if (virDomainIsActive(dom) == 0)
		on_lifecycle(conn, dom, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED,
			domain);
	return domain;
}

struct virt_domain *virt_create(struct virt *virt, const char *xml, struct error **err)
{
	virConnectPtr conn = virt_conn(virt, err);
	virDomainPtr dom = conn ? virDomainCreateXML(conn, xml, 0) : NULL;

	if (dom)
		return domain_watch(virt, conn, dom);
	if (conn) {
		virt_fail(err, "starting the domain");
		virConnectClose(conn);
	}
	return NULL;
}

/* ERR_NOT_FOUND is libvirt's word that there is none. */
static virDomainPtr find(virConnectPtr conn, const char *uuid, struct error **err)
{
	virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);

	if (!dom && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN)
		error_set(err, ERR_NOT_FOUND, "the domain of the VM is gone");
	else if (!dom)
		virt_fail(err, "looking for the domain");
	return dom;
}

struct virt_domain *virt_find(
	struct virt *virt, const char *uuid, const char *owner, struct error **err)
{
	virConnectPtr conn = virt_conn(virt, err);
	virDomainPtr dom = conn ? find(conn, uuid, err) : NULL;
	_cleanup_free_ char *xml = dom ? virDomainGetXMLDesc(dom, 0) : NULL;
	_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;

	if (dom && str_eq(found, owner) && virDomainIsActive(dom) == 1)
		return domain_watch(virt, conn, dom);
	if (dom) {
		virDomainFree(dom);
		error_set(err, ERR_NOT_FOUND, "the domain of the VM is gone");
	}
	if (conn)
		virConnectClose(conn);
	return NULL;
}

static void forget_events(struct virt_domain *domain)
{
	if (domain->callback_id >= 0)
		virConnectDomainEventDeregisterAny(domain->conn, domain->callback_id);
	domain->callback_id = -1;
}

/* On the connection as it is now: the one that the domain was found on may have been lost. */
static int refresh(struct virt_domain *domain, struct error **err)
{
	char uuid[VIR_UUID_STRING_BUFLEN];
	virConnectPtr conn = virt_conn(domain->virt, err);

	if (!conn)
		return -1;
	if (conn == domain->conn) {
		virConnectClose(conn);
		return 0;
	}
	virDomainPtr dom =
		virDomainGetUUIDString(domain->dom, uuid) == 0 ? find(conn, uuid, err) : NULL;
	if (!dom) {
		virConnectClose(conn);
		return -1;
	}
	forget_events(domain);
	virDomainFree(domain->dom);
	virConnectClose(domain->conn);
	domain->conn = conn;
	domain->dom = dom;
	register_events(domain);
	return 0;
}

int virt_destroy(struct virt_domain *domain, struct error **err)
{
	_cleanup_error_ struct error *failed = NULL;

	if (refresh(domain, &failed) < 0)
		return failed->code == ERR_NOT_FOUND ? 0 : error_move(err, steal_ptr(failed));
	if (virDomainDestroyFlags(domain->dom, VIR_DOMAIN_DESTROY_DEFAULT) == 0)
		return 0;
	const virError *e = virGetLastError();
	if (e && (e->code == VIR_ERR_NO_DOMAIN || e->code == VIR_ERR_OPERATION_INVALID))
		return 0;
	return virt_fail(err, "destroying the domain");
}

struct virt_domain *virt_domain_ref(struct virt_domain *domain)
{
	pthread_mutex_lock(&domain->lock);
	domain->refs++;
	pthread_mutex_unlock(&domain->lock);
	return domain;
}

void virt_domain_unref(struct virt_domain *domain)
{
	domain_unref(domain);
}

int virt_domain_label(struct virt_domain *domain, const char *metadata, struct error **err)
{
	if (virDomainSetMetadata(domain->dom, VIR_DOMAIN_METADATA_ELEMENT, metadata,
		    DOMAIN_NAMESPACE_PREFIX, DOMAIN_NAMESPACE, VIR_DOMAIN_AFFECT_LIVE) < 0)
		return virt_fail(err, "changing the domain's metadata");
	return 0;
}

void virt_domain_free(struct virt_domain *domain)
{
	if (!domain)
		return;
	virt_domain_on_stop(domain, NULL, NULL);
	forget_events(domain);
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
	if (refresh(domain, err) < 0)
		return NULL;
	char *xml = virDomainGetXMLDesc(domain->dom, 0);
	if (!xml)
		virt_fail(err, "reading the domain's XML");
	return xml;
}

int virt_each_ours(struct virt *virt, const char *owner,
	void (*each)(void *arg, struct virt_domain *domain, const char *name, const char *xml),
	void *arg, struct error **err)
{
	virConnectPtr conn = virt_conn(virt, err);
	virDomainPtr *all = NULL;

	if (!conn)
		return -1;
	int n = virConnectListAllDomains(conn, &all, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
	int ours = 0;

	if (n < 0)
		virt_fail(err, "listing domains");
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *xml = virDomainGetXMLDesc(all[i], 0);
		_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;
		virConnectRef(conn);
		struct virt_domain *domain = domain_wrap(virt, conn, all[i]);
		if (str_eq(found, owner)) {
			each(arg, domain, virDomainGetName(all[i]), xml);
			ours++;
		}
		domain_unref(domain);
	}
	free(all);
	virConnectClose(conn);
	return n < 0 ? -1 : ours;
}
