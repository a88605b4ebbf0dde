/* Calls of libvirt with a deadline. */
#include "common/util.h"
#include "orchestrator/virt_private.h"

/* A call that takes so long is slow, or libvirt stands still: another one says which. */
#define SLOW_USEC  UINT64_C(5000000)
#define PROBE_USEC UINT64_C(10000000)
/* What fails sooner has another reason than silence. */
#define SILENT_USEC UINT64_C(10000000)

struct virt_op *virt_op_new(struct virt *virt, const char *call, void (*run)(struct virt_op *op))
{
	struct virt_op *op = xcalloc(1, sizeof(*op));

	op->virt = virt;
	op->call = call;
	op->run = run;
	op->callback_id = -1;
	pthread_mutex_lock(&virt->lock);
	virt->ops++;
	pthread_mutex_unlock(&virt->lock);
	return op;
}

void virt_op_free(struct virt_op *op)
{
	if (!op)
		return;
	for (int i = 0; i < op->n_listed; i++) {
		virt_domain_unref(op->listed[i].domain);
		free(op->listed[i].xml);
	}
	free(op->listed);
	if (op->found)
		virt_domain_drop(op->found);
	if (op->domain)
		virt_domain_unref(op->domain);
	if (op->dom)
		virDomainFree(op->dom);
	if (op->conn)
		virConnectClose(op->conn);
	struct virt *virt = op->virt;
	error_free(op->err);
	free(op->text);
	free(op->owner);
	free(op->answer);
	free(op);
	/* Last: after this, virt may be freed. */
	pthread_mutex_lock(&virt->lock);
	virt->ops--;
	pthread_mutex_unlock(&virt->lock);
}

static void run(void *arg)
{
	struct virt_op *op = arg;

	op->run(op);
}

static void late(void *arg)
{
	struct virt_op *op = arg;

	if (op->undo)
		op->undo(op);
	virt_op_free(op);
}

int virt_op_start(struct virt_op *op, struct error **err)
{
	op->begun_usec = now_mono_usec();
	op->bounded = bounded_start(run, late, op, err);
	return op->bounded ? 0 : error_wrap(err, "%s: libvirt", op->virt->uri);
}

void virt_op_leave_alone(struct virt_op *op)
{
	/* Without a thread the references are lost: better than waiting for ever. */
	if (virt_op_start(op, NULL) == 0 && !bounded_leave(op->bounded))
		virt_op_free(op);
}

/* Something that libvirtd answers at once, on threads that it keeps for that. */
static void run_probe(struct virt_op *op)
{
	unsigned long version;

	virConnectGetLibVersion(op->conn, &version);
}

/* Is anything answered on the connection? Until op returns, or cancel_fd is readable: true. */
static bool is_answered(struct virt_op *op, int cancel_fd)
{
	virConnectPtr conn = virt_conn(op->virt, NULL);

	if (!conn)
		return false;
	struct virt_op *probe = virt_op_new(op->virt, "virConnectGetLibVersion", run_probe);
	probe->conn = conn;
	if (virt_op_start(probe, NULL) < 0) {
		virt_op_free(probe);
		return true;
	}
	enum bounded_answer answer = bounded_wait(
		probe->bounded, now_mono_usec() + PROBE_USEC, cancel_fd, bounded_fd(op->bounded));
	if (answer == BOUNDED_TIMEOUT)
		virt_give_up(op->virt, conn);
	if (answer == BOUNDED_RETURNED || !bounded_leave(probe->bounded))
		virt_op_free(probe);
	return answer != BOUNDED_TIMEOUT;
}

enum bounded_answer virt_op_wait(
	struct virt_op *op, uint64_t end_usec, int cancel_fd, int progress_fd)
{
	for (;;) {
		uint64_t slow = now_mono_usec() + SLOW_USEC;
		enum bounded_answer answer =
			bounded_wait(op->bounded, MIN(slow, end_usec), cancel_fd, progress_fd);

		if (answer != BOUNDED_TIMEOUT || end_usec <= slow || !is_answered(op, cancel_fd))
			return answer;
	}
}

static unsigned seconds_since(uint64_t usec)
{
	return (unsigned)((now_mono_usec() - usec) / 1000000);
}

int virt_op_end(struct virt_op *op, struct error **err)
{
	op->bounded = NULL;
	if (!op->err)
		return 0;
	/* libvirt's words are about a socket then. */
	if (now_mono_usec() - op->begun_usec >= SILENT_USEC && !virt_is_connected(op->virt))
		error_wrap(&op->err, "%s: libvirt did not answer for %u s (%s); %s", op->virt->uri,
			seconds_since(op->begun_usec), op->call, virt_advice(op->virt));
	return error_move(err, steal_ptr(op->err));
}

int virt_op_leave(struct virt_op **op, struct error **err)
{
	struct virt_op *left = *op;
	struct error *failed = NULL;

	/* Before it is the thread's. */
	error_set(&failed, ERR_TIMEOUT, "%s: libvirt has not answered for %u s (%s); %s",
		left->virt->uri, seconds_since(left->begun_usec), left->call,
		virt_advice(left->virt));
	if (!bounded_leave(left->bounded)) {
		error_free(failed);
		return virt_op_end(*op, err);
	}
	*op = NULL;
	return error_move(err, failed);
}

int virt_op_call(struct virt_op **op, unsigned timeout_ms, struct error **err)
{
	if (virt_op_start(*op, err) < 0)
		return -1;
	uint64_t end = (*op)->begun_usec + UINT64_C(1000) * timeout_ms;
	if (virt_op_wait(*op, end, -1, -1) == BOUNDED_RETURNED)
		return virt_op_end(*op, err);
	return virt_op_leave(op, err);
}

static void run_release(struct virt_op *op)
{
	if (op->callback_id >= 0)
		virConnectDomainEventDeregisterAny(op->conn, op->callback_id);
	if (op->dom)
		virDomainFree(steal_ptr(op->dom));
	virConnectClose(steal_ptr(op->conn));
}

void virt_release(struct virt *virt, virConnectPtr conn, virDomainPtr dom, int callback_id)
{
	struct virt_op *op = virt_op_new(virt, "virConnectClose", run_release);
	virConnectPtr now = virt_conn(virt, NULL);

	op->conn = conn;
	op->dom = dom;
	op->callback_id = callback_id;
	/* Not the last reference to one that is used. */
	if (conn == now && callback_id < 0)
		virt_op_free(op);
	else
		virt_op_leave_alone(op);
	if (now)
		virConnectClose(now);
}
