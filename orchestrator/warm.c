#include "orchestrator/warm.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/host_private.h"
#include "orchestrator/vm_worker.h"

/* How long the reason for a loss may come after the loss. */
#define SETTLE_MS   500
#define STACK_BYTES (512 * KIB)
/* One that is idle is asked so often whether it still answers, and is lost when it was silent so
 * many times in a row: the host may be busy. */
#define CHECK_MS	 10000
#define CHECK_TIMEOUT_MS 5000
#define CHECKS_MISSED	 2
/* The job that took the VM begins undisturbed. */
#define LABEL_DELAY_MS 300

enum phase {
	PHASE_BOOTING,
	PHASE_IDLE,
	PHASE_TAKEN,  /* the VM is somebody else's */
	PHASE_LEAVING /* it leaves or has left */
};

struct warm {
	struct host *host; /* borrowed */
	struct warm_order order;
	warm_listener listener;
	void *arg;
	pthread_t thread;
	int retire_fd; /* readable once it shall leave; the VM's boot looks at it too */
	int take_fd;   /* readable once somebody wants it */
	int ready_fd;  /* readable once it does not boot any more */
	int over_fd;   /* readable once its owner waits for the thread */

	pthread_mutex_t lock; /* below: */
	pthread_cond_t changed;
	enum phase phase;
	bool retired, wanted;
	struct guest *guest;
	char *why; /* owned; why it leaves, if not because it shall */

	/* The thread's, until it is taken. */
	struct image *image;
	struct vm_order vm_order;
	struct vm *vm;
	struct job_wall wall;
	uint64_t ready_usec; /* when it had booted */
	char job_id[64];     /* of who took it */
	unsigned attempt;
};

static void emit(struct warm *warm, enum warm_event_type type, const char *why)
{
	warm->listener(warm->arg, warm->order.id, &(struct warm_event){.type = type, .why = why});
}

static void on_progress(
	void *arg, const struct vm_facts *facts, enum job_stage stage, uint64_t usec)
{
	struct warm *warm = arg;

	(void)stage;
	(void)usec;
	warm->listener(
		warm->arg, warm->order.id, &(struct warm_event){.type = WARM_VM, .facts = facts});
}

static void on_freed(void *arg)
{
	emit(arg, WARM_FREED, NULL);
}

/* Booting. ---------------------------------------------------------------------------------------
 */

/* Whoever orders it to leave interrupts what is under way. */
static void reachable(void *arg, struct guest *guest)
{
	struct warm *warm = arg;

	pthread_mutex_lock(&warm->lock);
	warm->guest = guest;
	if (warm->retired)
		guest_interrupt(guest);
	pthread_mutex_unlock(&warm->lock);
}

/* Its worker proves itself, and has run a first program. */
static int try_worker(struct warm *warm, struct error **err)
{
	struct guest_hello hello;

	if (vm_reach_worker(warm->vm, reachable, warm, &hello, err) < 0)
		return -1;
	warm->wall.kernel = xstrdup(hello.kernel);
	if (guest_rehearse(warm->guest, err) < 0)
		return error_wrap(err, "trying the worker");
	return vm_fill_wall(warm->vm, &warm->wall, err);
}

static int boot(struct warm *warm, struct error **err)
{
	enum job_outcome outcome;

	FAILPOINT("warm.begin");
	warm->image = image_find(warm->host->config, warm->order.image, err);
	if (!warm->image)
		return -1;
	warm->vm_order = (struct vm_order){
		.image = warm->image,
		.job_id = "",
		.cpus = warm->order.cpus,
		.memory_bytes = warm->order.memory_bytes,
		.disk_bytes = warm->order.disk_bytes,
		.pooled = true,
		.cancel_fd = warm->retire_fd,
		.on_progress = on_progress,
		.arg = warm,
	};
	warm->vm = vm_boot(warm->host, &warm->vm_order, &outcome, err);
	if (!warm->vm)
		return -1;
	FAILPOINT("warm.booted");
	if (try_worker(warm, err) < 0) {
		/* Why it went says more than that it is gone. */
		if ((*err)->code == ERR_UNAVAILABLE || (*err)->code == ERR_TIMEOUT)
			vm_why_lost(warm->vm, SETTLE_MS, err);
		return -1;
	}
	FAILPOINT("warm.proven");
	vm_set_state(warm->vm, "idle");
	return 0;
}

/* Idle. ------------------------------------------------------------------------------------------
 */

/* -1: it does not answer any more. */
static int check(struct warm *warm, int *missed, struct error **err)
{
	_cleanup_error_ struct error *silent = NULL;

	if (guest_ping(warm->guest, CHECK_TIMEOUT_MS, &silent) == 0) {
		*missed = 0;
		return 0;
	}
	if (++*missed < CHECKS_MISSED)
		return 0;
	error_move(err, steal_ptr(silent));
	return -1;
}

/* 0: somebody wants it, or wants it to leave; -1: it is of no use any more, for it has ended (no
 * *err) or is silent. */
static int wait_idle(struct warm *warm, struct error **err)
{
	struct pollfd fds[] = {{.fd = warm->retire_fd, .events = POLLIN},
		{.fd = warm->take_fd, .events = POLLIN}, {.events = POLLIN}, {.events = POLLIN}};
	int missed = 0;
	eventfd_t seen;

	vm_poll_fds(warm->vm, &fds[2].fd, &fds[3].fd);
	for (;;) {
		int n = poll(fds, ARRAY_SIZE(fds), missed ? CHECK_TIMEOUT_MS : CHECK_MS);
		if (n < 0 && errno != EINTR)
			return error_errno(err, errno, "poll");
		if (n == 0 && check(warm, &missed, err) < 0)
			return -1;
		if (fds[2].revents)
			eventfd_read(fds[2].fd, &seen);
		if (!vm_is_alive(warm->vm))
			return -1;
		if (n > 0 && (fds[0].revents || fds[1].revents))
			return 0;
	}
}

/* What becomes of it after it was idle. Under the lock it is decided once. */
static enum phase decide(struct warm *warm, const struct error *lost)
{
	pthread_mutex_lock(&warm->lock);
	warm->phase = warm->wanted && !lost && !warm->retired ? PHASE_TAKEN : PHASE_LEAVING;
	if (lost)
		warm->why = xstrdup(lost->text);
	pthread_cond_broadcast(&warm->changed);
	enum phase phase = warm->phase;
	pthread_mutex_unlock(&warm->lock);
	return phase;
}

/* Those who look at domains by virsh see whose it is. A reference of its own: the VM may be gone.
 */
static void label(struct warm *warm, struct virt_domain *domain, const char *vm_id)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *xml =
		domain_xml_metadata(warm->host->owner, vm_id, warm->job_id, warm->attempt);
	struct pollfd over = {.fd = warm->over_fd, .events = POLLIN};

	if (poll(&over, 1, LABEL_DELAY_MS) == 0 && virt_domain_label(domain, xml, &err) < 0)
		log_debug(vm_id, "%s", err->text);
	virt_domain_unref(domain);
}

static void leave(struct warm *warm)
{
	pthread_mutex_lock(&warm->lock);
	struct guest *guest = steal_ptr(warm->guest);
	pthread_mutex_unlock(&warm->lock);
	guest_free(guest);
	if (warm->vm)
		vm_end(warm->vm, on_freed, warm);
	vm_destroy(steal_ptr(warm->vm));
	emit(warm, WARM_GONE, NULL);
}

/* The whole. -------------------------------------------------------------------------------------
 */

static bool booted(struct warm *warm)
{
	_cleanup_error_ struct error *err = NULL;
	int r = boot(warm, &err);

	pthread_mutex_lock(&warm->lock);
	warm->phase = r == 0 ? PHASE_IDLE : PHASE_LEAVING;
	warm->ready_usec = now_mono_usec();
	if (r < 0)
		warm->why = xstrdup(err->text);
	bool retired = warm->retired;
	eventfd_write(warm->ready_fd, 1);
	pthread_mutex_unlock(&warm->lock);
	if (r == 0)
		emit(warm, WARM_READY, NULL);
	else if (!retired)
		emit(warm, WARM_FAILED, err->text);
	return r == 0;
}

static bool taken(struct warm *warm)
{
	_cleanup_error_ struct error *lost = NULL;
	char vm_id[sizeof(vm_facts(warm->vm)->id)];

	memcpy(vm_id, vm_facts(warm->vm)->id, sizeof(vm_id));
	if (wait_idle(warm, &lost) < 0)
		vm_why_lost(warm->vm, SETTLE_MS, &lost);
	struct virt_domain *domain = vm_domain_ref(warm->vm);
	if (decide(warm, lost) == PHASE_TAKEN) {
		label(warm, domain, vm_id);
		return true;
	}
	virt_domain_unref(domain);
	if (lost)
		emit(warm, WARM_LOST, lost->text);
	return false;
}

static void *run(void *arg)
{
	struct warm *warm = arg;

	if (!booted(warm) || !taken(warm))
		leave(warm);
	return NULL;
}

static void close_fds(struct warm *warm)
{
	close_fd(&warm->retire_fd);
	close_fd(&warm->take_fd);
	close_fd(&warm->ready_fd);
	close_fd(&warm->over_fd);
}

struct warm *warm_start(struct host *host, const struct warm_order *order, warm_listener listener,
	void *arg, struct error **err)
{
	struct warm *warm = xcalloc(1, sizeof(*warm));
	pthread_attr_t attr;

	warm->host = host;
	warm->order = *order;
	warm->listener = listener;
	warm->arg = arg;
	pthread_mutex_init(&warm->lock, NULL);
	pthread_cond_init(&warm->changed, NULL);
	warm->retire_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	warm->take_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	warm->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	warm->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bool fds = warm->retire_fd >= 0 && warm->take_fd >= 0 && warm->ready_fd >= 0 &&
		   warm->over_fd >= 0;
	int e = fds ? 0 : errno;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (!e)
		e = pthread_create(&warm->thread, &attr, run, warm);
	pthread_attr_destroy(&attr);
	if (!e)
		return warm;
	error_errno(err, e, "starting a warm VM");
	close_fds(warm);
	pthread_cond_destroy(&warm->changed);
	pthread_mutex_destroy(&warm->lock);
	free(warm);
	return NULL;
}

void warm_retire(struct warm *warm)
{
	pthread_mutex_lock(&warm->lock);
	warm->retired = true;
	if (warm->guest && warm->phase <= PHASE_IDLE)
		guest_interrupt(warm->guest);
	eventfd_write(warm->retire_fd, 1);
	pthread_mutex_unlock(&warm->lock);
}

void warm_free(struct warm *warm)
{
	if (!warm)
		return;
	eventfd_write(warm->over_fd, 1);
	pthread_join(warm->thread, NULL);
	close_fds(warm);
	job_wall_clear(&warm->wall);
	image_free(warm->image);
	pthread_cond_destroy(&warm->changed);
	pthread_mutex_destroy(&warm->lock);
	free(warm->why);
	free(warm);
}

static int wait_booted(struct warm *warm, int cancel_fd, struct error **err)
{
	struct pollfd fds[] = {
		{.fd = cancel_fd, .events = POLLIN}, {.fd = warm->ready_fd, .events = POLLIN}};

	while (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno == EINTR)
		;
	if (!fds[1].revents)
		return error_set(err, ERR_CANCELLED, "cancelled while a warm VM booted");
	return 0;
}

/* Ask the thread for it, and wait until it has let go. */
static enum phase ask_for(struct warm *warm, const struct warm_use *use)
{
	pthread_mutex_lock(&warm->lock);
	warm->wanted = true;
	snprintf(warm->job_id, sizeof(warm->job_id), "%s", use->job_id);
	warm->attempt = use->attempt;
	eventfd_write(warm->take_fd, 1);
	while (warm->phase == PHASE_IDLE)
		pthread_cond_wait(&warm->changed, &warm->lock);
	enum phase phase = warm->phase;
	pthread_mutex_unlock(&warm->lock);
	return phase;
}

int warm_take(struct warm *warm, const struct warm_use *use, int cancel_fd, struct warm_taken *ret,
	struct error **err)
{
	if (wait_booted(warm, cancel_fd, err) < 0) {
		warm_retire(warm);
		return -1;
	}
	/* Its image is known when it has booted, and does not change. */
	if (warm->image && !str_eq(warm->image->digest, use->image_digest)) {
		warm_retire(warm);
		return error_set(err, ERR_STATE, "the image is another one now");
	}
	if (ask_for(warm, use) != PHASE_TAKEN)
		return error_set(err, ERR_UNAVAILABLE, "%s", warm->why ? warm->why : "it is gone");
	ret->vm = steal_ptr(warm->vm);
	ret->guest = steal_ptr(warm->guest);
	ret->wall = warm->wall;
	memset(&warm->wall, 0, sizeof(warm->wall));
	return 0;
}

void warm_judge(struct warm *warm, const char *why)
{
	warm->listener(warm->arg, warm->order.id,
		&(struct warm_event){.type = why ? WARM_LOST : WARM_PROVEN,
			.why = why,
			.since = warm->ready_usec});
}
