/* How an attempt gets its VM: one that an earlier daemon made, or a new one; and the worker in it.
 */
#include "orchestrator/attempt_private.h"

#include <string.h>

#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/host_private.h"
#include "orchestrator/results.h"
#include "orchestrator/vm_worker.h"
#include "orchestrator/warm.h"

#define PING_TIMEOUT_MS 3000

static void on_vm_progress(
	void *arg, const struct vm_facts *facts, enum job_stage reached, uint64_t usec)
{
	struct attempt *a = arg;

	if (reached != STAGES)
		attempt_stage_at(a, reached, usec);
	attempt_emit(a, &(struct attempt_event){.type = ATTEMPT_VM, .vm = facts});
}

static uint32_t cpus_of(const Job__V1__Spec *spec)
{
	return spec->resources && spec->resources->has_cpus ? spec->resources->cpus : DEFAULT_CPUS;
}

static uint64_t memory_of(const Job__V1__Spec *spec)
{
	return spec->resources && spec->resources->has_memory_bytes ? spec->resources->memory_bytes
								    : DEFAULT_MEMORY;
}

static uint64_t disk_of(const Job__V1__Spec *spec)
{
	return spec->resources && spec->resources->has_disk_bytes ? spec->resources->disk_bytes : 0;
}

static void order_vm(struct attempt *a)
{
	const Job__V1__Spec *spec = a->order->spec;

	a->console = str_printf("%s/console.log", a->order->job_dir);
	a->vm_order = (struct vm_order){
		.job_id = a->order->job_id,
		.attempt = a->order->number,
		.cpus = cpus_of(spec),
		.memory_bytes = memory_of(spec),
		.disk_bytes = disk_of(spec),
		.console_file = a->console,
		.cancel_fd = a->cancel_fd,
		.on_progress = on_vm_progress,
		.arg = a,
	};
}

static int adopt(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;

	order_vm(a);
	a->state = a->order->adopted;
	if (vm_note_read(a->order->job_dir, &a->note, &err) == 0)
		a->results = results_reopen(a->order->job_dir, a->order->spec, &err);
	if (a->results)
		a->vm = vm_adopt(a->host, &a->vm_order, &a->note, &err);
	if (!a->vm) {
		error_wrap(&err, "the daemon ended while the job ran");
		attempt_conclude_ours(a, OUTCOME_INFRA, err);
		return -1;
	}
	memcpy(a->result.times, a->note.times, sizeof(a->result.times));
	a->noted = true;
	log_info(a->order->job_id, "taken up in %s, with %llu and %llu bytes of output",
		vm_facts(a->vm)->id, (unsigned long long)results_kept(a->results, RESULTS_STDOUT),
		(unsigned long long)results_kept(a->results, RESULTS_STDERR));
	attempt_tell_output(a);
	return 0;
}

static int no_vm(struct attempt *a, enum job_outcome outcome, const struct error *err)
{
	if (outcome == OUTCOME_CANCELLED || attempt_is_cancelled(a))
		attempt_conclude_cancelled(a);
	else
		attempt_conclude_ours(a, outcome, err);
	return -1;
}

static int prepare(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;

	order_vm(a);
	vm_note_remove(a->order->job_dir);
	a->image = image_find(a->host->config, a->order->spec->image, &err);
	a->results = a->image ? results_open(a->order->job_dir, a->order->spec, &err) : NULL;
	if (!a->results)
		return no_vm(a, OUTCOME_INFRA, err);
	a->vm_order.image = a->image;
	return 0;
}

static int boot(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;
	enum job_outcome outcome = OUTCOME_INFRA;

	FAILPOINT("boot.begin");
	a->vm = vm_boot(a->host, &a->vm_order, &outcome, &err);
	return a->vm ? 0 : no_vm(a, outcome, err);
}

/* The guest's own clock says when its kernel was done, relative to when it listened; put on ours.
 */
static void stage_kernel_up(struct attempt *a, const struct guest_hello *hello, uint64_t ready)
{
	uint64_t init =
		hello->ready_usec > hello->kernel_usec ? hello->ready_usec - hello->kernel_usec : 0;
	uint64_t created = a->result.times[STAGE_DOMAIN_CREATED];

	/* A hostile clock gets no further than the domain's creation. */
	attempt_stage_at(a, STAGE_KERNEL_UP, ready > created + init ? ready - init : created);
}

/* From here on a cancel goes through the guest. One that came before is seen now. */
static void reachable(struct attempt *a, struct guest *guest)
{
	pthread_mutex_lock(&a->lock);
	a->guest = guest;
	if (a->cancelled)
		guest_interrupt(guest);
	pthread_mutex_unlock(&a->lock);
}

/* That it was well when it was idle is no proof that it is now: one small call says so, before
 * anything is begun that could not be begun again. */
static int check_warm(struct attempt *a, struct error **err)
{
	if (guest_ping(a->guest, PING_TIMEOUT_MS, err) < 0) {
		if (!attempt_is_cancelled(a))
			warm_judge(a->order->warm, (*err)->text);
		return -1;
	}
	warm_judge(a->order->warm, NULL);
	FAILPOINT("warm.answered");
	return vm_take_over(a->vm, &a->vm_order, err);
}

static void drop_warm(struct attempt *a)
{
	attempt_hang_up(a);
	vm_destroy(steal_ptr(a->vm));
	job_wall_clear(&a->result.wall);
	memset(&a->result.wall, 0, sizeof(a->result.wall));
}

/* -1: it cannot be had, for a reason that is not the job's. */
static int take_warm(struct attempt *a)
{
	const struct attempt_order *order = a->order;
	struct warm_use use = {order->job_id, order->number, a->image->digest};
	_cleanup_error_ struct error *err = NULL;
	struct warm_taken taken;

	FAILPOINT("warm.take");
	int r = warm_take(order->warm, &use, a->cancel_fd, &taken, &err);
	if (r == 0) {
		FAILPOINT("warm.taken");
		a->vm = taken.vm;
		a->result.wall = taken.wall;
		a->result.wall.warm = true;
		reachable(a, taken.guest);
		r = check_warm(a, &err);
		if (r < 0)
			drop_warm(a);
	}
	if (r == 0)
		attempt_stage(a, STAGE_WORKER_READY);
	else
		log_info(order->job_id, "no warm VM: %s", err->text);
	return r;
}

static void connected(void *arg, struct guest *guest)
{
	FAILPOINT("hello.connected");
	reachable(arg, guest);
}

static int hello(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;
	struct guest_hello said;
	uint64_t announced = now_real_usec();

	if (vm_reach_worker(a->vm, connected, a, &said, &err) < 0) {
		if (err->code == ERR_UNAUTHENTICATED || err->code == ERR_STATE)
			attempt_conclude_ours(a, OUTCOME_BOOT_FAILED, err);
		else
			attempt_conclude_call_failed(a, &err);
		return -1;
	}
	if (!a->order->adopted) {
		stage_kernel_up(a, &said, announced);
		attempt_stage(a, STAGE_WORKER_READY);
	}
	a->result.wall.kernel = xstrdup(said.kernel);
	FAILPOINT("hello.proven");
	if (vm_fill_wall(a->vm, &a->result.wall, &err) < 0)
		log_warn(a->order->job_id, "its devices are not known: %s", err->text);
	a->result.wall.warm = vm_facts(a->vm)->pooled;
	return 0;
}

int attempt_get_vm(struct attempt *a)
{
	if (a->order->adopted)
		return adopt(a) < 0 ? -1 : hello(a);
	if (prepare(a) < 0)
		return -1;
	if (a->order->warm) {
		if (take_warm(a) == 0)
			return 0;
		if (attempt_is_cancelled(a))
			return no_vm(a, OUTCOME_CANCELLED, NULL);
	}
	return boot(a) < 0 ? -1 : hello(a);
}
