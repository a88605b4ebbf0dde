#include "orchestrator/virt.h"

#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/virt_private.h"

/* One reference is the owner's, one each call's that is under way; libvirt's event callback holds
 * another until it is deregistered. */
struct virt_domain {
	struct virt *virt; /* borrowed */
	char name[64];
	pthread_mutex_t lock; /* below: */
	virConnectPtr conn;   /* own reference; the one that dom was found on */
	virDomainPtr dom;     /* own reference */
	int callback_id;
	void (*on_stop)(void *arg, enum virt_stop why);
	void *arg;
	enum virt_stop stopped;
	unsigned refs;
};

#define CREATE_MS 240000
/* A start that is cancelled is nearly done, mostly. */
#define CANCEL_MS	2000
#define FIND_MS		30000
#define LIST_MS		25000
#define DESTROY_MS	20000
#define DESTROY_SLOW_MS 3000
#define XML_MS		5000
#define LABEL_MS	5000
#define FORGET_MS	2000

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

void virt_domain_unref(struct virt_domain *domain)
{
	pthread_mutex_lock(&domain->lock);
	unsigned left = --domain->refs;
	pthread_mutex_unlock(&domain->lock);
	if (left)
		return;
	virt_release(domain->virt, domain->conn, domain->dom, -1);
	pthread_mutex_destroy(&domain->lock);
	free(domain);
}

static void unref_opaque(void *opaque)
{
	virt_domain_unref(opaque);
}

struct virt_domain *virt_domain_ref(struct virt_domain *domain)
{
	pthread_mutex_lock(&domain->lock);
	domain->refs++;
	pthread_mutex_unlock(&domain->lock);
	return domain;
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

/* On the threads of calls. -----------------------------------------------------------------------
 */

/* Takes conn and dom. */
static struct virt_domain *domain_wrap(struct virt *virt, virConnectPtr conn, virDomainPtr dom)
{
	struct virt_domain *domain = xcalloc(1, sizeof(*domain));
	const char *name = virDomainGetName(dom);

	domain->virt = virt;
	snprintf(domain->name, sizeof(domain->name), "%s", name ? name : "");
	domain->conn = conn;
	domain->dom = dom;
	domain->callback_id = -1;
	domain->refs = 1;
	pthread_mutex_init(&domain->lock, NULL);
	return domain;
}

/* conn and dom are the caller's own references. */
static void register_events(struct virt_domain *domain, virConnectPtr conn, virDomainPtr dom)
{
	int id = virConnectDomainEventRegisterAny(conn, dom, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
		VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), virt_domain_ref(domain), unref_opaque);

	if (id < 0)
		virt_domain_unref(domain);
	pthread_mutex_lock(&domain->lock);
	domain->callback_id = id;
	pthread_mutex_unlock(&domain->lock);
}

/* Takes conn and dom. */
static struct virt_domain *domain_watch(struct virt *virt, virConnectPtr conn, virDomainPtr dom)
{
	struct virt_domain *domain = domain_wrap(virt, conn, dom);

	register_events(domain, conn, dom);
	/* Events are hints: one may have passed before this one was asked for. */
	if (virDomainIsActive(dom) == 0)
		on_lifecycle(conn, dom, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED,
			domain);
	return domain;
}

void virt_domain_drop(struct virt_domain *domain)
{
	pthread_mutex_lock(&domain->lock);
	int id = domain->callback_id;
	virConnectPtr conn = domain->conn;
	domain->callback_id = -1;
	virConnectRef(conn);
	pthread_mutex_unlock(&domain->lock);
	if (id >= 0)
		virConnectDomainEventDeregisterAny(conn, id);
	virConnectClose(conn);
	virt_domain_unref(domain);
}

/* ERR_NOT_FOUND is libvirt's word that there is none. */
static virDomainPtr find(virConnectPtr conn, const char *name, struct error **err)
{
	virDomainPtr dom = virDomainLookupByName(conn, name);

	if (!dom && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN)
		error_set(err, ERR_NOT_FOUND, "the domain of the VM is gone");
	else if (!dom)
		virt_fail(err, "looking for the domain");
	return dom;
}

/* Takes conn and dom in the place of what the domain had, if no other call was faster. */
static void move_to(struct virt_domain *domain, virConnectPtr conn, virDomainPtr dom)
{
	pthread_mutex_lock(&domain->lock);
	bool faster = domain->conn == conn;
	virConnectPtr old_conn = faster ? conn : domain->conn;
	virDomainPtr old_dom = faster ? dom : domain->dom;
	int old_id = faster ? -1 : domain->callback_id;
	if (!faster) {
		domain->conn = conn;
		domain->dom = dom;
		domain->callback_id = -1;
		virConnectRef(conn);
		virDomainRef(dom);
	}
	pthread_mutex_unlock(&domain->lock);
	virt_release(domain->virt, old_conn, old_dom, old_id);
	if (faster)
		return;
	register_events(domain, conn, dom);
	virDomainFree(dom);
	virConnectClose(conn);
}

/* A reference to it on the connection as it is now: the one that it was found on may have been
 * lost. */
static virDomainPtr current(struct virt_domain *domain, struct error **err)
{
	virDomainPtr dom = NULL;
	virConnectPtr conn = virt_conn(domain->virt, err);

	if (!conn)
		return NULL;
	pthread_mutex_lock(&domain->lock);
	if (conn == domain->conn) {
		dom = domain->dom;
		virDomainRef(dom);
	}
	pthread_mutex_unlock(&domain->lock);
	if (!dom && (dom = find(conn, domain->name, err))) {
		virDomainRef(dom);
		move_to(domain, conn, dom);
		return dom;
	}
	virConnectClose(conn);
	return dom;
}

static void run_create(struct virt_op *op)
{
	virConnectPtr conn = virt_conn(op->virt, &op->err);
	virDomainPtr dom = conn ? virDomainCreateXML(conn, op->text, 0) : NULL;

	if (dom) {
		op->found = domain_watch(op->virt, conn, dom);
	} else if (conn) {
		virt_fail(&op->err, "starting the domain");
		virConnectClose(conn);
	}
}

static void undo_create(struct virt_op *op)
{
	if (!op->found)
		return;
	log_info("libvirt", "%s was started after all, when nobody waited for it any more",
		op->found->name);
	virDomainDestroyFlags(op->found->dom, VIR_DOMAIN_DESTROY_DEFAULT);
}

static void run_find(struct virt_op *op)
{
	virConnectPtr conn = virt_conn(op->virt, &op->err);
	virDomainPtr dom = conn ? find(conn, op->text, &op->err) : NULL;
	_cleanup_free_ char *xml = dom ? virDomainGetXMLDesc(dom, 0) : NULL;
	_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;

	if (dom && !xml && virGetLastErrorCode() != VIR_ERR_NO_DOMAIN) {
		virt_fail(&op->err, "looking at the domain");
	} else if (dom && str_eq(found, op->owner) && virDomainIsActive(dom) == 1) {
		op->found = domain_watch(op->virt, conn, dom);
		return;
	} else if (dom) {
		error_set(&op->err, ERR_NOT_FOUND, "the domain of the VM is gone");
	}
	if (dom)
		virDomainFree(dom);
	if (conn)
		virConnectClose(conn);
}

static void run_destroy(struct virt_op *op)
{
	virDomainPtr dom = current(op->domain, &op->err);

	if (!dom) {
		if (op->err->code == ERR_NOT_FOUND)
			error_free(steal_ptr(op->err));
		return;
	}
	if (virDomainDestroyFlags(dom, VIR_DOMAIN_DESTROY_DEFAULT) < 0) {
		int code = virGetLastErrorCode();
		if (code != VIR_ERR_NO_DOMAIN && code != VIR_ERR_OPERATION_INVALID)
			virt_fail(&op->err, "destroying the domain");
	}
	virDomainFree(dom);
}

static void run_label(struct virt_op *op)
{
	virDomainPtr dom = current(op->domain, &op->err);

	if (dom && virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, op->text,
			   DOMAIN_NAMESPACE_PREFIX, DOMAIN_NAMESPACE, VIR_DOMAIN_AFFECT_LIVE) < 0)
		virt_fail(&op->err, "changing the domain's metadata");
	if (dom)
		virDomainFree(dom);
}

static void run_xml(struct virt_op *op)
{
	virDomainPtr dom = current(op->domain, &op->err);

	op->answer = dom ? virDomainGetXMLDesc(dom, 0) : NULL;
	if (dom && !op->answer)
		virt_fail(&op->err, "reading the domain's XML");
	if (dom)
		virDomainFree(dom);
}

static void run_forget(struct virt_op *op)
{
	virt_domain_drop(steal_ptr(op->domain));
}

static void run_list(struct virt_op *op)
{
	virConnectPtr conn = virt_conn(op->virt, &op->err);
	virDomainPtr *all = NULL;

	if (!conn)
		return;
	int n = virConnectListAllDomains(conn, &all, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
	if (n < 0)
		virt_fail(&op->err, "listing domains");
	op->listed = xcalloc((size_t)MAX(n, 0) + 1, sizeof(*op->listed));
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *xml = virDomainGetXMLDesc(all[i], 0);
		_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;
		virConnectRef(conn);
		struct virt_domain *domain = domain_wrap(op->virt, conn, all[i]);
		if (str_eq(found, op->owner))
			op->listed[op->n_listed++] = (struct virt_listed){domain, steal_ptr(xml)};
		else
			virt_domain_unref(domain);
	}
	free(all);
	virConnectClose(conn);
}

/* On the callers'. -------------------------------------------------------------------------------
 */

static struct virt_op *domain_op(
	struct virt_domain *domain, const char *call, void (*run)(struct virt_op *op))
{
	struct virt_op *op = virt_op_new(domain->virt, call, run);

	op->domain = virt_domain_ref(domain);
	return op;
}

/* Until it has returned, or nobody waits any more. */
static enum bounded_answer wait_created(
	struct virt_op *op, const struct virt_patience *patience, bool *ret_cancelled)
{
	int cancel_fd = patience->cancel_fd, running_fd = patience->running_fd;
	uint64_t end = now_mono_usec() + UINT64_C(1000) * CREATE_MS;

	for (;;) {
		enum bounded_answer answer = virt_op_wait(op, end, cancel_fd, running_fd);
		uint64_t now = now_mono_usec();

		if (answer == BOUNDED_CANCELLED) {
			*ret_cancelled = true;
			cancel_fd = -1;
			end = MIN(end, now + UINT64_C(1000) * CANCEL_MS);
		} else if (answer == BOUNDED_PROGRESS) {
			running_fd = -1;
			end = MIN(end, now + UINT64_C(1000) * patience->running_ms);
		} else {
			return answer;
		}
	}
}

struct virt_domain *virt_create(struct virt *virt, const char *xml,
	const struct virt_patience *patience, struct error **err)
{
	_cleanup_op_ struct virt_op *op = virt_op_new(virt, "virDomainCreateXML", run_create);
	_cleanup_error_ struct error *failed = NULL;
	bool cancelled = false;

	op->text = xstrdup(xml);
	op->undo = undo_create;
	if (virt_op_start(op, err) < 0)
		return NULL;
	int r = wait_created(op, patience, &cancelled) == BOUNDED_RETURNED
			? virt_op_end(op, &failed)
			: virt_op_leave(&op, &failed);
	if (r == 0)
		return steal_ptr(op->found);
	if (cancelled)
		error_set(err, ERR_CANCELLED, "cancelled while libvirt started the domain");
	else
		error_move(err, steal_ptr(failed));
	return NULL;
}

struct virt_domain *virt_find(
	struct virt *virt, const char *name, const char *owner, struct error **err)
{
	_cleanup_op_ struct virt_op *op = virt_op_new(virt, "virDomainLookupByName", run_find);

	op->text = xstrdup(name);
	op->owner = xstrdup(owner);
	return virt_op_call(&op, FIND_MS, err) == 0 ? steal_ptr(op->found) : NULL;
}

int virt_destroy(struct virt_domain *domain, void (*slow)(void *arg), void *arg, struct error **err)
{
	_cleanup_op_ struct virt_op *op = domain_op(domain, "virDomainDestroy", run_destroy);

	if (virt_op_start(op, err) < 0)
		return -1;
	uint64_t slow_end = op->begun_usec + UINT64_C(1000) * DESTROY_SLOW_MS;
	enum bounded_answer answer = virt_op_wait(op, slow_end, -1, -1);
	if (answer != BOUNDED_RETURNED) {
		if (slow)
			slow(arg);
		uint64_t end = slow ? now_mono_usec() + UINT64_C(1000) * DESTROY_SLOW_MS
				    : op->begun_usec + UINT64_C(1000) * DESTROY_MS;
		answer = virt_op_wait(op, end, -1, -1);
	}
	return answer == BOUNDED_RETURNED ? virt_op_end(op, err) : virt_op_leave(&op, err);
}

int virt_domain_label(struct virt_domain *domain, const char *metadata, struct error **err)
{
	_cleanup_op_ struct virt_op *op = domain_op(domain, "virDomainSetMetadata", run_label);

	op->text = xstrdup(metadata);
	return virt_op_call(&op, LABEL_MS, err);
}

char *virt_domain_xml(struct virt_domain *domain, struct error **err)
{
	_cleanup_op_ struct virt_op *op = domain_op(domain, "virDomainGetXMLDesc", run_xml);

	return virt_op_call(&op, XML_MS, err) == 0 ? steal_ptr(op->answer) : NULL;
}

void virt_domain_free(struct virt_domain *domain)
{
	if (!domain)
		return;
	virt_domain_on_stop(domain, NULL, NULL);
	_cleanup_op_ struct virt_op *op =
		domain_op(domain, "virConnectDomainEventDeregisterAny", run_forget);
	/* It has a reference; the owner's is not the last one. */
	virt_domain_unref(domain);
	virt_op_call(&op, FORGET_MS, NULL);
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

int virt_each_ours(struct virt *virt, const char *owner,
	void (*each)(void *arg, struct virt_domain *domain, const char *name, const char *xml),
	void *arg, struct error **err)
{
	_cleanup_op_ struct virt_op *op = virt_op_new(virt, "virConnectListAllDomains", run_list);

	op->owner = xstrdup(owner);
	if (virt_op_call(&op, LIST_MS, err) < 0)
		return -1;
	for (int i = 0; i < op->n_listed; i++) {
		struct virt_listed *listed = &op->listed[i];
		each(arg, listed->domain, listed->domain->name, listed->xml);
	}
	return op->n_listed;
}
