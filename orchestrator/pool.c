#include "orchestrator/pool.h"

#include <string.h>

#include "common/util.h"

/* Nearer of two times, where 0 is none. */
static uint64_t sooner(uint64_t a, uint64_t b)
{
	return !a || (b && b < a) ? b : a;
}

static bool is_old(const struct pool *pool, const struct pool_vm *vm, uint64_t now)
{
	return vm->state == POOL_VM_IDLE && now >= vm->since &&
	       now - vm->since >= pool->max_age_usec;
}

struct census {
	uint32_t booting, fresh, leaving;
	const struct pool_vm *stale;	/* one of them */
	const struct pool_vm *old;	/* the oldest of the old */
	const struct pool_vm *unproven; /* the one that will be proven first */
	bool proven;
	uint64_t ages; /* the next one is old then */
};

static struct census count(const struct pool *pool, const struct pool_view *view)
{
	struct census c = {0};

	for (size_t i = 0; i < view->n_vms; i++) {
		const struct pool_vm *vm = &view->vms[i];

		if (vm->state == POOL_VM_LEAVING) {
			c.leaving++;
		} else if (vm->stale) {
			c.stale = vm;
		} else if (vm->state == POOL_VM_BOOTING) {
			c.booting++;
		} else {
			bool proven = view->now >= vm->since + POOL_PROVEN_USEC;
			bool counts = vm->since >= pool->failed_at;

			c.proven |= counts && proven;
			if (counts && !proven && (!c.unproven || vm->since < c.unproven->since))
				c.unproven = vm;
			if (!is_old(pool, vm, view->now)) {
				c.fresh++;
				c.ages = sooner(c.ages, vm->since + pool->max_age_usec);
			} else if (!c.old || vm->since < c.old->since) {
				c.old = vm;
			}
		}
	}
	return c;
}

static void forget_failures(struct pool *pool)
{
	pool->failures = 0;
	free(steal_ptr(pool->reason));
}

static struct pool_step retire(const struct pool_vm *vm)
{
	return (struct pool_step){.action = POOL_RETIRE, .id = vm->id};
}

static struct pool_step wait_until(uint64_t again)
{
	return (struct pool_step){.action = POOL_WAIT, .again = again};
}

/* One more is wanted. */
static struct pool_step boot(
	const struct pool *pool, const struct pool_view *view, const struct census *c)
{
	uint64_t again = c->ages;

	if (!view->image || view->waiting)
		return wait_until(again);
	if (view->now < pool->not_before)
		return wait_until(sooner(again, pool->not_before));
	/* One at a time until one is proven. */
	if (pool->failures && c->unproven)
		return wait_until(sooner(again, c->unproven->since + POOL_PROVEN_USEC));
	if (c->booting >= (pool->failures ? 1 : POOL_BOOTS))
		return wait_until(again);
	if (view->n_vms < pool->max && view->room)
		return (struct pool_step){.action = POOL_BOOT};
	/* An old one makes place, one at a time: and not while nothing would come after it. */
	if (c->old && !c->leaving && !pool->failures)
		return retire(c->old);
	return wait_until(again);
}

struct pool_step pool_next(struct pool *pool, const struct pool_view *view)
{
	struct census c = count(pool, view);

	if (c.proven)
		forget_failures(pool);
	/* No job can take it. */
	if (c.stale)
		return retire(c.stale);
	if (c.old && c.fresh >= pool->min_idle)
		return retire(c.old);
	if (c.fresh + c.booting < pool->min_idle)
		return boot(pool, view, &c);
	if (pool->failures && c.unproven)
		return wait_until(sooner(c.ages, c.unproven->since + POOL_PROVEN_USEC));
	return wait_until(c.ages);
}

void pool_failed(struct pool *pool, const char *why, uint64_t now)
{
	uint64_t delay = POOL_OPEN_USEC;

	pool->failures++;
	pool->failed_at = now;
	if (pool->failures < POOL_FAILURES)
		delay = POOL_BACKOFF_USEC << (pool->failures - 1);
	pool->not_before = MAX(pool->not_before, now + delay);
	free(pool->reason);
	pool->reason = xstrdup(why);
}

void pool_taken(struct pool *pool, uint64_t now)
{
	/* Not ever later under a stream of jobs. */
	if (pool->not_before <= now)
		pool->not_before = now + POOL_SETTLE_USEC;
}

void pool_proven(struct pool *pool, uint64_t since)
{
	if (since >= pool->failed_at)
		forget_failures(pool);
}

void pool_gave_room(struct pool *pool, uint64_t now)
{
	pool->not_before = MAX(pool->not_before, now + POOL_QUIET_USEC);
}

void pool_image_changed(struct pool *pool)
{
	forget_failures(pool);
	pool->not_before = 0;
}

void pool_clear(struct pool *pool)
{
	free(steal_ptr(pool->reason));
}

enum pool_health pool_health(const struct pool *pool, const struct pool_view *view)
{
	struct census c = count(pool, view);

	if (!pool->failures)
		return POOL_WELL;
	if (pool->failures < POOL_FAILURES)
		return POOL_BACKING_OFF;
	return c.booting || c.unproven ? POOL_TRIAL : POOL_OPEN;
}

const char *pool_health_name(enum pool_health health)
{
	static const char *const names[] = {
		[POOL_WELL] = "well",
		[POOL_BACKING_OFF] = "backing off",
		[POOL_OPEN] = "open",
		[POOL_TRIAL] = "trial",
	};

	return names[health];
}

/* Room. ------------------------------------------------------------------------------------------
 */

static void give(struct scheduler_lack *lack, const struct pool_vm *vm)
{
	lack->vms -= MIN(lack->vms, 1u);
	lack->memory -= MIN(lack->memory, vm->demand.memory);
	lack->cpus -= MIN(lack->cpus, vm->demand.cpus);
}

static bool lacks(const struct scheduler_lack *lack)
{
	return lack->vms || lack->memory || lack->cpus;
}

/* The least useful of those that stay, or n_vms. */
static size_t least_useful(const struct pool_vm *vms, size_t n_vms, const bool *leave)
{
	size_t best = n_vms;

	for (size_t i = 0; i < n_vms; i++) {
		if (leave[i] || vms[i].state == POOL_VM_LEAVING)
			continue;
		bool booting = vms[i].state == POOL_VM_BOOTING;
		if (best == n_vms) {
			best = i;
		} else if (booting != (vms[best].state == POOL_VM_BOOTING)) {
			if (booting)
				best = i;
		} else if (booting ? vms[i].since > vms[best].since
				   : vms[i].since < vms[best].since) {
			best = i;
		}
	}
	return best;
}

bool pool_make_room(
	const struct pool_vm *vms, size_t n_vms, const struct scheduler_lack *lack, bool *leave)
{
	struct scheduler_lack left = *lack;

	for (size_t i = 0; i < n_vms; i++)
		if (vms[i].state == POOL_VM_LEAVING)
			give(&left, &vms[i]);
	while (lacks(&left)) {
		size_t i = least_useful(vms, n_vms, leave);

		if (i == n_vms) {
			memset(leave, 0, n_vms * sizeof(*leave));
			return false;
		}
		leave[i] = true;
		give(&left, &vms[i]);
	}
	return true;
}
