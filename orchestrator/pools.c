#include "orchestrator/pools.h"

#include <string.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/image_watch.h"

struct pools_vm {
	struct pools_vm *next;
	struct pools_pool *of; /* borrowed */
	uint64_t id;
	struct warm *warm; /* owned */
	enum pool_vm_state state;
	uint64_t since;	     /* in it */
	unsigned generation; /* of the image, when its boot began */
	bool counted;	     /* in pools->counts */
	bool reserved;	     /* for a job */
	bool gone;	     /* while it was reserved */
	struct vm_facts facts;
};

struct pools_pool {
	struct pools *pools; /* borrowed */
	const struct config_pool *config;
	struct pool core;
	struct queue_demand demand;
	bool image;	     /* it is there */
	char *why;	     /* owned; why it is not */
	unsigned generation; /* of the image: counts its changes */
};

struct pools {
	struct pools_env env;
	struct image_watch *images;
	struct pools_pool *pools; /* owned */
	size_t n_pools;
	struct pools_vm *vms; /* owned */
	uint64_t last_id;
	struct pools_counts counts;
	struct loop_timer *timer; /* look again */
	bool stopping;
};

/* --- entries --------------------------------------------------------------------------------- */

static void count(struct pools *pools, struct pools_vm *vm)
{
	vm->counted = true;
	pools->counts.slots++;
	pools->counts.used.memory += vm->of->demand.memory;
	pools->counts.used.cpus += vm->of->demand.cpus;
}

static void discount(struct pools *pools, struct pools_vm *vm)
{
	if (!vm->counted)
		return;
	vm->counted = false;
	pools->counts.slots--;
	pools->counts.used.memory -= vm->of->demand.memory;
	pools->counts.used.cpus -= vm->of->demand.cpus;
}

static struct pools_vm *find(struct pools *pools, uint64_t id)
{
	struct pools_vm *vm = pools->vms;

	while (vm && vm->id != id)
		vm = vm->next;
	return vm;
}

static void set_state(struct pools_vm *vm, enum pool_vm_state state)
{
	vm->state = state;
	vm->since = now_mono_usec();
}

static void drop(struct pools *pools, struct pools_vm *vm)
{
	struct pools_vm **at = &pools->vms;

	discount(pools, vm);
	while (*at != vm)
		at = &(*at)->next;
	*at = vm->next;
	pools->counts.vms--;
	free(vm);
}

static void retire(struct pools_vm *vm)
{
	if (vm->state == POOL_VM_LEAVING)
		return;
	set_state(vm, POOL_VM_LEAVING);
	warm_retire(vm->warm);
}

/* --- events ---------------------------------------------------------------------------------- */

struct posted_event {
	struct pools_pool *pool;
	uint64_t id;
	enum warm_event_type type;
	struct vm_facts facts;
	uint64_t since;
	char *why; /* owned */
};

static void failed(struct pools_pool *pool, const char *why)
{
	uint64_t now = now_mono_usec();

	pool_failed(&pool->core, why, now);
	log_warn("pool", "%s: %s", pool->config->image, why);
	if (pool->core.failures >= POOL_FAILURES)
		log_warn("pool", "%s: %u failures in a row; the next one is tried in %u s",
			pool->config->image, pool->core.failures,
			(unsigned)(POOL_OPEN_USEC / 1000000));
}

static void gone(struct pools *pools, struct pools_vm *vm)
{
	if (vm->reserved) {
		vm->gone = true;
		return;
	}
	warm_free(vm->warm);
	drop(pools, vm);
}

static void apply_to(struct pools *pools, struct pools_vm *vm, const struct posted_event *event)
{
	switch (event->type) {
	case WARM_VM:
		vm->facts = event->facts;
		break;
	case WARM_READY:
		if (vm->state == POOL_VM_BOOTING)
			set_state(vm, POOL_VM_IDLE);
		break;
	case WARM_FAILED:
	case WARM_LOST:
		set_state(vm, POOL_VM_LEAVING);
		break;
	case WARM_PROVEN: /* no entry is there any more */
		break;
	case WARM_FREED:
		discount(pools, vm);
		break;
	case WARM_GONE:
		gone(pools, vm);
		break;
	}
}

static void apply(void *arg)
{
	struct posted_event *event = arg;
	struct pools *pools = event->pool->pools;
	struct pools_vm *vm = find(pools, event->id);
	bool matters = event->type != WARM_VM;

	if (event->type == WARM_FAILED || event->type == WARM_LOST)
		failed(event->pool, event->why);
	else if (event->type == WARM_PROVEN)
		pool_proven(&event->pool->core, event->since);
	if (vm)
		apply_to(pools, vm, event);
	free(event->why);
	free(event);
	if (matters)
		pools->env.on_change(pools->env.arg);
}

/* On a thread of the VM's. */
static void on_event(void *arg, uint64_t id, const struct warm_event *event)
{
	struct pools_pool *pool = arg;
	struct posted_event *posted = xcalloc(1, sizeof(*posted));

	posted->pool = pool;
	posted->id = id;
	posted->type = event->type;
	if (event->facts)
		posted->facts = *event->facts;
	posted->since = event->since;
	posted->why = event->why ? xstrdup(event->why) : NULL;
	loop_post(pool->pools->env.loop, apply, posted);
}

/* --- images ---------------------------------------------------------------------------------- */

struct posted_image {
	struct pools_pool *pool;
	bool there;
	char *why; /* owned */
};

static void apply_image(void *arg)
{
	struct posted_image *image = arg;
	struct pools_pool *pool = image->pool;

	/* What was made from the image before is of no use, and what failed may go well. */
	pool->generation++;
	pool_image_changed(&pool->core);
	pool->image = image->there;
	free(pool->why);
	pool->why = image->why;
	if (pool->why)
		log_warn("pool", "%s: %s", pool->config->image, pool->why);
	free(image);
	pools_look(pool->pools);
}

/* On the thread of the watch. */
static void on_image(void *arg, size_t i, const char *digest, const char *why)
{
	struct pools *pools = arg;
	struct posted_image *posted = xcalloc(1, sizeof(*posted));

	posted->pool = &pools->pools[i];
	posted->there = digest != NULL;
	posted->why = why ? xstrdup(why) : NULL;
	loop_post(pools->env.loop, apply_image, posted);
}

/* --- doing what is to be done ---------------------------------------------------------------- */

static struct pool_vm describe(const struct pools_vm *vm)
{
	return (struct pool_vm){
		.id = vm->id,
		.state = vm->state,
		.since = vm->since,
		.stale = vm->generation != vm->of->generation,
		.demand = vm->of->demand,
	};
}

/* Those of one pool, or of all (of: NULL), that no job has reserved; to be freed. */
static struct pool_vm *describe_all(
	const struct pools *pools, const struct pools_pool *of, size_t *ret_n)
{
	struct pool_vm *vms = xcalloc(pools->counts.vms + 1, sizeof(*vms));

	*ret_n = 0;
	for (const struct pools_vm *vm = pools->vms; vm; vm = vm->next)
		if ((!of || vm->of == of) && !vm->reserved)
			vms[(*ret_n)++] = describe(vm);
	return vms;
}

static void boot(struct pools_pool *pool)
{
	struct pools *pools = pool->pools;
	_cleanup_error_ struct error *err = NULL;
	struct pools_vm *vm = xcalloc(1, sizeof(*vm));
	struct warm_order order = {
		.id = ++pools->last_id,
		.image = pool->config->image,
		.cpus = pool->config->cpus,
		.memory_bytes = pool->config->memory_bytes,
		.disk_bytes = pool->config->disk_bytes,
	};

	vm->warm = warm_start(pools->env.host, &order, on_event, pool, &err);
	if (!vm->warm) {
		free(vm);
		failed(pool, err->text);
		return;
	}
	vm->of = pool;
	vm->id = order.id;
	vm->generation = pool->generation;
	set_state(vm, POOL_VM_BOOTING);
	vm->next = pools->vms;
	pools->vms = vm;
	pools->counts.vms++;
	count(pools, vm);
}

static struct pool_view view_of(
	const struct pools_pool *pool, const struct pool_vm *vms, size_t n_vms)
{
	const struct pools_env *env = &pool->pools->env;

	return (struct pool_view){
		.vms = vms,
		.n_vms = n_vms,
		.image = pool->image,
		.room = env->has_room(env->arg, &pool->demand),
		.waiting = env->is_waiting(env->arg),
		.now = now_mono_usec(),
	};
}

static struct pool_step step(struct pools_pool *pool)
{
	size_t n;
	_cleanup_free_ struct pool_vm *vms = describe_all(pool->pools, pool, &n);
	struct pool_view view = view_of(pool, vms, n);
	struct pool_step next = pool_next(&pool->core, &view);

	if (next.action == POOL_BOOT)
		boot(pool);
	else if (next.action == POOL_RETIRE)
		retire(find(pool->pools, next.id));
	return next;
}

static void look_again(void *arg)
{
	pools_look(arg);
}

static void set_timer(struct pools *pools, uint64_t at)
{
	uint64_t now = now_mono_usec();

	loop_timer_stop(steal_ptr(pools->timer));
	if (at)
		pools->timer = loop_timer_start(pools->env.loop,
			at > now ? (at - now) / 1000 + 1 : 1, 0, look_again, pools);
}

void pools_look(struct pools *pools)
{
	uint64_t again = 0;
	bool more = true;

	if (!pools || pools->stopping || !pools->images)
		return;
	/* A step each, in turns, so that one pool does not take all the room. */
	while (more) {
		more = false;
		again = 0;
		for (size_t i = 0; i < pools->n_pools; i++) {
			struct pool_step next = step(&pools->pools[i]);

			more |= next.action != POOL_WAIT;
			if (next.again && (!again || next.again < again))
				again = next.again;
		}
	}
	set_timer(pools, again);
}

/* --- coming and going ------------------------------------------------------------------------ */

struct pools *pools_new(const struct pools_env *env)
{
	const struct config *config = env->config;

	if (!config->n_pools)
		return NULL;
	struct pools *pools = xcalloc(1, sizeof(*pools));
	pools->env = *env;
	pools->n_pools = config->n_pools;
	pools->pools = xcalloc(config->n_pools, sizeof(*pools->pools));
	for (size_t i = 0; i < config->n_pools; i++) {
		struct pools_pool *pool = &pools->pools[i];
		const struct config_pool *c = config->pools[i];

		pool->pools = pools;
		pool->config = c;
		pool->demand = (struct queue_demand){c->memory_bytes, c->cpus};
		pool->core = (struct pool){.min_idle = c->min_idle,
			.max = c->max,
			.max_age_usec = c->max_age_ms * 1000};
	}
	return pools;
}

void pools_free(struct pools *pools)
{
	if (!pools)
		return;
	image_watch_stop(pools->images);
	loop_timer_stop(pools->timer);
	for (size_t i = 0; i < pools->n_pools; i++) {
		pool_clear(&pools->pools[i].core);
		free(pools->pools[i].why);
	}
	free(pools->pools);
	free(pools);
}

void pools_start(struct pools *pools)
{
	_cleanup_error_ struct error *err = NULL;

	if (!pools)
		return;
	pools->images = image_watch_start(pools->env.config, on_image, pools, &err);
	if (!pools->images)
		log_error("pool", "no warm VMs: %s", err->text);
}

void pools_stop(struct pools *pools)
{
	if (!pools)
		return;
	pools->stopping = true;
	image_watch_stop(steal_ptr(pools->images));
	loop_timer_stop(steal_ptr(pools->timer));
	for (struct pools_vm *vm = pools->vms; vm; vm = vm->next)
		if (!vm->reserved)
			retire(vm);
}

struct pools_counts pools_counts(const struct pools *pools)
{
	return pools ? pools->counts : (struct pools_counts){0};
}

/* --- jobs ------------------------------------------------------------------------------------ */

static bool fits(const struct pools_pool *pool, const Job__V1__Spec *spec)
{
	const struct config_pool *config = pool->config;
	const Job__V1__Resources *wanted = spec->resources;

	return str_eq(config->image, spec->image) && wanted && wanted->cpus == config->cpus &&
	       wanted->memory_bytes == config->memory_bytes &&
	       (wanted->has_disk_bytes ? wanted->disk_bytes : 0) == config->disk_bytes;
}

/* One that is idle before one that boots; then the one that is so for longer. */
static bool is_better(const struct pools_vm *a, const struct pools_vm *b)
{
	if (a->state != b->state)
		return a->state == POOL_VM_IDLE;
	return a->since < b->since;
}

struct pools_vm *pools_reserve(struct pools *pools, const Job__V1__Spec *spec)
{
	struct pools_vm *best = NULL;

	if (!pools || pools->stopping)
		return NULL;
	for (struct pools_vm *vm = pools->vms; vm; vm = vm->next)
		if (vm->state != POOL_VM_LEAVING && !vm->reserved &&
			vm->generation == vm->of->generation && fits(vm->of, spec) &&
			(!best || is_better(vm, best)))
			best = vm;
	if (!best)
		return NULL;
	best->reserved = true;
	discount(pools, best);
	if (best->state == POOL_VM_IDLE)
		pool_taken(&best->of->core, now_mono_usec());
	return best;
}

void pools_give_back(struct pools *pools, struct pools_vm *vm)
{
	vm->reserved = false;
	if (vm->gone) {
		gone(pools, vm);
		return;
	}
	count(pools, vm);
	if (pools->stopping)
		retire(vm);
}

struct warm *pools_hand_over(struct pools *pools, struct pools_vm *vm)
{
	struct warm *warm = vm->warm;

	drop(pools, vm);
	return warm;
}

void pools_make_room(struct pools *pools, const struct scheduler_lack *lack)
{
	size_t n;

	if (!pools)
		return;
	_cleanup_free_ struct pool_vm *vms = describe_all(pools, NULL, &n);
	_cleanup_free_ bool *leave = xcalloc(n + 1, sizeof(*leave));
	if (!pool_make_room(vms, n, lack, leave))
		return;
	for (size_t i = 0; i < n; i++) {
		if (!leave[i])
			continue;
		struct pools_vm *vm = find(pools, vms[i].id);

		pool_gave_room(&vm->of->core, now_mono_usec());
		retire(vm);
	}
}

/* --- looking --------------------------------------------------------------------------------- */

void pools_each_vm(struct pools *pools,
	void (*visit)(void *arg, const struct vm_facts *vm, const char *job_id), void *arg)
{
	for (const struct pools_vm *vm = pools ? pools->vms : NULL; vm; vm = vm->next)
		if (vm->facts.id[0])
			visit(arg, &vm->facts, "");
}

void pools_each(
	struct pools *pools, void (*visit)(void *arg, const struct pools_info *info), void *arg)
{
	for (size_t i = 0; pools && i < pools->n_pools; i++) {
		struct pools_pool *pool = &pools->pools[i];
		size_t n;
		_cleanup_free_ struct pool_vm *vms = describe_all(pools, pool, &n);
		struct pool_view view = view_of(pool, vms, n);
		struct pools_info info = {
			.config = pool->config,
			.failures = pool->core.failures,
			.state = pool_health_name(pool_health(&pool->core, &view)),
			.reason = pool->why ? pool->why : pool->core.reason,
		};

		for (size_t k = 0; k < n; k++) {
			info.idle += vms[k].state == POOL_VM_IDLE;
			info.booting += vms[k].state == POOL_VM_BOOTING;
		}
		if (pool->core.failures && pool->core.not_before > view.now)
			info.retry_in_ms = (pool->core.not_before - view.now) / 1000;
		visit(arg, &info);
	}
}
