#include "orchestrator/virt.h"

#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/virt_private.h"

/* One reference is the owner's. What libvirt knows of it is looked up for each call, by its name:
 * connections come and go. */
struct virt_domain {
	struct virt *virt; /* borrowed */
	char name[64];
	struct virt_domain *next, **prev; /* under virt->domains_lock, like all below: */
	unsigned refs;
	void (*on_stop)(void *arg, enum virt_stop why);
	void *arg;
	enum virt_stop stopped;
};

#define CREATE_MS 240000
/* A start that is cancelled is nearly done, mostly. */
#define CANCEL_MS	2000
#define FIND_MS		30000
#define LIST_MS		25000
#define DESTROY_SLOW_MS 3000
#define XML_MS		5000
#define LABEL_MS	5000

/* Not by virConnectGetVersion(): that has libvirt ask every emulator there is, which takes seconds.
 */
char *virt_emulator(struct virt *virt)
{
	unsigned generation;
	virConnectPtr conn = virt_take_conn(virt, &generation, NULL);
	_cleanup_free_ char *can =
		conn ? virConnectGetDomainCapabilities(conn, NULL, "x86_64", "q35", NULL, 0) : NULL;
	const char *start = can ? strstr(can, "<path>") : NULL;
	const char *end = start ? strstr(start, "</path>") : NULL;

	if (conn)
		virt_give_conn(virt, conn, generation);
	return end ? xstrndup(start + 6, (size_t)(end - start - 6)) : NULL;
}

static struct virt_domain *domain_new(struct virt *virt, const char *name)
{
	struct virt_domain *domain = xcalloc(1, sizeof(*domain));

	domain->virt = virt;
	snprintf(domain->name, sizeof(domain->name), "%s", name);
	domain->refs = 1;
	pthread_mutex_lock(&virt->domains_lock);
	domain->next = virt->domains;
	domain->prev = &virt->domains;
	if (domain->next)
		domain->next->prev = &domain->next;
	virt->domains = domain;
	pthread_mutex_unlock(&virt->domains_lock);
	return domain;
}

struct virt_domain *virt_domain_ref(struct virt_domain *domain)
{
	pthread_mutex_lock(&domain->virt->domains_lock);
	domain->refs++;
	pthread_mutex_unlock(&domain->virt->domains_lock);
	return domain;
}

void virt_domain_unref(struct virt_domain *domain)
{
	struct virt *virt = domain->virt;

	pthread_mutex_lock(&virt->domains_lock);
	unsigned left = --domain->refs;
	if (!left) {
		*domain->prev = domain->next;
		if (domain->next)
			domain->next->prev = domain->prev;
	}
	pthread_mutex_unlock(&virt->domains_lock);
	if (!left)
		free(domain);
}

void virt_domain_free(struct virt_domain *domain)
{
	if (!domain)
		return;
	virt_domain_on_stop(domain, NULL, NULL);
	virt_domain_unref(domain);
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

/* Under domains_lock, so that virt_domain_on_stop(NULL) waits for a call under way. */
static void note_stop(struct virt_domain *domain, enum virt_stop why)
{
	if (domain->stopped != VIRT_RUNNING)
		return;
	domain->stopped = why;
	if (domain->on_stop)
		domain->on_stop(domain->arg, why);
}

void virt_note_event(struct virt *virt, const char *name, int event, int detail)
{
	enum virt_stop why;

	if (event == VIR_DOMAIN_EVENT_CRASHED)
		why = VIRT_CRASHED;
	else if (event == VIR_DOMAIN_EVENT_STOPPED)
		why = why_stopped(detail);
	else
		return;
	pthread_mutex_lock(&virt->domains_lock);
	for (struct virt_domain *domain = virt->domains; domain; domain = domain->next)
		if (str_eq(domain->name, name))
			note_stop(domain, why);
	pthread_mutex_unlock(&virt->domains_lock);
}

void virt_domain_on_stop(
	struct virt_domain *domain, void (*on_stop)(void *arg, enum virt_stop why), void *arg)
{
	pthread_mutex_lock(&domain->virt->domains_lock);
	domain->on_stop = on_stop;
	domain->arg = arg;
	enum virt_stop stopped = domain->stopped;
	pthread_mutex_unlock(&domain->virt->domains_lock);
	if (on_stop && stopped != VIRT_RUNNING)
		on_stop(arg, stopped);
}

/* On the threads of calls. -----------------------------------------------------------------------
 */

/* ERR_NOT_FOUND is libvirt's word that there is none. */
static virDomainPtr find(struct virt_op *op)
{
	virDomainPtr dom = virDomainLookupByName(op->conn, op->name);

	if (!dom && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN)
		error_set(&op->err, ERR_NOT_FOUND, "the domain of the VM is gone");
	else if (!dom)
		virt_fail(&op->err, "looking for the domain");
	return dom;
}

static void run_create(struct virt_op *op)
{
	virDomainPtr dom = virDomainCreateXML(op->conn, op->text, 0);

	if (!dom) {
		virt_fail(&op->err, "starting the domain");
		return;
	}
	/* Events are hints: one may have passed before anybody listens. */
	op->active = virDomainIsActive(dom) != 0;
	virDomainFree(dom);
}

static void undo_create(struct virt_op *op)
{
	virDomainPtr dom = op->err ? NULL : find(op);

	if (!dom)
		return;
	log_info("libvirt", "%s was started after all, when nobody waited for it any more",
		op->name);
	virDomainDestroyFlags(dom, VIR_DOMAIN_DESTROY_DEFAULT);
	virDomainFree(dom);
}

static void run_find(struct virt_op *op)
{
	virDomainPtr dom = find(op);
	_cleanup_free_ char *xml = dom ? virDomainGetXMLDesc(dom, 0) : NULL;
	_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;

	if (!dom)
		return;
	if (!xml && virGetLastErrorCode() != VIR_ERR_NO_DOMAIN)
		virt_fail(&op->err, "looking at the domain");
	else if (!str_eq(found, op->owner) || virDomainIsActive(dom) != 1)
		error_set(&op->err, ERR_NOT_FOUND, "the domain of the VM is gone");
	virDomainFree(dom);
}

static void run_destroy(struct virt_op *op)
{
	virDomainPtr dom = find(op);

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
	virDomainPtr dom = find(op);

	if (!dom)
		return;
	if (virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, op->text,
		    DOMAIN_NAMESPACE_PREFIX, DOMAIN_NAMESPACE, VIR_DOMAIN_AFFECT_LIVE) < 0)
		virt_fail(&op->err, "changing the domain's metadata");
	virDomainFree(dom);
}

static void run_xml(struct virt_op *op)
{
	virDomainPtr dom = find(op);

	if (!dom)
		return;
	op->answer = virDomainGetXMLDesc(dom, 0);
	if (!op->answer)
		virt_fail(&op->err, "reading the domain's XML");
	virDomainFree(dom);
}

static void run_list(struct virt_op *op)
{
	virDomainPtr *all = NULL;
	int n = virConnectListAllDomains(op->conn, &all, VIR_CONNECT_LIST_DOMAINS_ACTIVE);

	if (n < 0)
		virt_fail(&op->err, "listing domains");
	op->listed = xcalloc((size_t)MAX(n, 0) + 1, sizeof(*op->listed));
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *xml = virDomainGetXMLDesc(all[i], 0);
		_cleanup_free_ char *found = xml ? domain_xml_owner(xml, NULL) : NULL;

		if (str_eq(found, op->owner))
			op->listed[op->n_listed++] = (struct virt_listed){
				xstrdup(virDomainGetName(all[i])), steal_ptr(xml)};
		virDomainFree(all[i]);
	}
	free(all);
}

/* On the callers'. -------------------------------------------------------------------------------
 */

static struct virt_op *domain_op(
	const struct virt_domain *domain, const char *call, void (*run)(struct virt_op *op))
{
	struct virt_op *op = virt_op_new(domain->virt, call, run);

	op->name = xstrdup(domain->name);
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

struct virt_domain *virt_create(struct virt *virt, const char *name, const char *xml,
	const struct virt_patience *patience, struct error **err)
{
	_cleanup_op_ struct virt_op *op = virt_op_new(virt, "virDomainCreateXML", run_create);
	_cleanup_error_ struct error *failed = NULL;
	bool cancelled = false;

	op->name = xstrdup(name);
	op->text = xstrdup(xml);
	op->undo = undo_create;
	/* Before it can stop. */
	struct virt_domain *domain = domain_new(virt, name);
	int r = virt_op_start(op, &failed);
	if (r == 0)
		r = wait_created(op, patience, &cancelled) == BOUNDED_RETURNED
			    ? virt_op_end(op, &failed)
			    : virt_op_leave(&op, &failed);
	if (r == 0) {
		if (!op->active)
			virt_note_event(virt, name, VIR_DOMAIN_EVENT_STOPPED,
				VIR_DOMAIN_EVENT_STOPPED_FAILED);
		return domain;
	}
	virt_domain_free(domain);
	/* Only where it was left. */
	if (cancelled && !op)
		error_set(err, ERR_CANCELLED, "cancelled while libvirt started the domain");
	else
		error_move(err, steal_ptr(failed));
	return NULL;
}

struct virt_domain *virt_find(
	struct virt *virt, const char *name, const char *owner, struct error **err)
{
	_cleanup_op_ struct virt_op *op = virt_op_new(virt, "virDomainLookupByName", run_find);

	op->name = xstrdup(name);
	op->owner = xstrdup(owner);
	return virt_op_call(&op, FIND_MS, err) == 0 ? domain_new(virt, name) : NULL;
}

int virt_destroy(struct virt_domain *domain, unsigned timeout_ms, void (*slow)(void *arg),
	void *arg, struct error **err)
{
	_cleanup_op_ struct virt_op *op = domain_op(domain, "virDomainDestroy", run_destroy);

	if (virt_op_start(op, err) < 0)
		return -1;
	uint64_t end = op->begun_usec + UINT64_C(1000) * timeout_ms;
	uint64_t slow_end = op->begun_usec + UINT64_C(1000) * DESTROY_SLOW_MS;
	enum bounded_answer answer = virt_op_wait(op, MIN(slow_end, end), -1, -1);
	if (answer != BOUNDED_RETURNED) {
		if (slow)
			slow(arg);
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

int virt_each_ours(struct virt *virt, const char *owner,
	void (*each)(void *arg, struct virt_domain *domain, const char *name, const char *xml),
	void *arg, struct error **err)
{
	_cleanup_op_ struct virt_op *op = virt_op_new(virt, "virConnectListAllDomains", run_list);

	op->owner = xstrdup(owner);
	if (virt_op_call(&op, LIST_MS, err) < 0)
		return -1;
	for (int i = 0; i < op->n_listed; i++) {
		struct virt_domain *domain = domain_new(virt, op->listed[i].name);

		each(arg, domain, op->listed[i].name, op->listed[i].xml);
		virt_domain_unref(domain);
	}
	return op->n_listed;
}
