/* Calls of libvirt with a deadline. */
#include "common/util.h"
#include "orchestrator/virt_private.h"

/* How often a call that waits looks whether libvirt is lost. */
#define LOOK_USEC      UINT64_C(1000000)
#define SETTLE_LOOK_MS 10

struct virt_op *virt_op_new(struct virt *virt, const char *call, void (*run)(struct virt_op *op))
{
	struct virt_op *op = xcalloc(1, sizeof(*op));

	op->virt = virt;
	op->call = call;
	op->run = run;
	pthread_mutex_lock(&virt->lock);
	virt->ops++;
	pthread_mutex_unlock(&virt->lock);
	return op;
}

void virt_op_free(struct virt_op *op)
{
	if (!op)
		return;
	struct virt *virt = op->virt;
	for (int i = 0; i < op->n_listed; i++) {
		free(op->listed[i].name);
		free(op->listed[i].xml);
	}
	free(op->listed);
	error_free(op->err);
	free(op->name);
	free(op->text);
	free(op->owner);
	free(op->answer);
	free(op);
	/* Last: after this, virt may be freed. */
	pthread_mutex_lock(&virt->lock);
	virt->ops--;
	pthread_mutex_unlock(&virt->lock);
}

static void with_conn(struct virt_op *op, void (*fn)(struct virt_op *op), struct error **err)
{
	op->conn = virt_take_conn(op->virt, &op->generation, err);
	if (!op->conn)
		return;
	fn(op);
	virt_give_conn(op->virt, steal_ptr(op->conn), op->generation);
}

static void run(void *arg)
{
	struct virt_op *op = arg;

	with_conn(op, op->run, &op->err);
}

static void late(void *arg)
{
	struct virt_op *op = arg;

	if (op->undo)
		with_conn(op, op->undo, NULL);
	virt_op_free(op);
}

int virt_op_start(struct virt_op *op, struct error **err)
{
	op->begun_usec = now_mono_usec();
	op->bounded = bounded_start(run, late, op, err);
	return op->bounded ? 0 : error_wrap(err, "%s: libvirt", op->virt->uri);
}

enum bounded_answer virt_op_wait(
	struct virt_op *op, uint64_t end_usec, int cancel_fd, int progress_fd)
{
	for (;;) {
		uint64_t look = now_mono_usec() + LOOK_USEC;
		enum bounded_answer answer =
			bounded_wait(op->bounded, MIN(look, end_usec), cancel_fd, progress_fd);

		if (answer != BOUNDED_TIMEOUT || end_usec <= look)
			return answer;
		/* Where libvirtd was killed, the call's own words come in a moment. */
		if (!virt_is_connected(op->virt))
			return bounded_wait(op->bounded, MIN(now_mono_usec() + LOOK_USEC, end_usec),
				cancel_fd, progress_fd);
	}
}

int virt_op_end(struct virt_op *op, struct error **err)
{
	op->bounded = NULL;
	return op->err ? error_move(err, steal_ptr(op->err)) : 0;
}

int virt_op_leave(struct virt_op **op, struct error **err)
{
	const struct virt_op *left = *op;
	struct error *failed = NULL;

	/* Before it is the thread's. */
	error_set(&failed, ERR_TIMEOUT, "%s: libvirt has not answered for %u s (%s); %s",
		left->virt->uri, (unsigned)((now_mono_usec() - left->begun_usec) / 1000000),
		left->call, virt_advice(left->virt));
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

void virt_settle(struct virt *virt, unsigned timeout_ms)
{
	uint64_t end = now_mono_usec() + UINT64_C(1000) * timeout_ms;

	for (;;) {
		pthread_mutex_lock(&virt->lock);
		unsigned ops = virt->ops;
		pthread_mutex_unlock(&virt->lock);
		if (!ops || now_mono_usec() >= end)
			return;
		sleep_ms(SETTLE_LOOK_MS);
	}
}
