#include "orchestrator/scheduler.h"

#include "common/util.h"

/* Written so that nothing can overflow, and what is used may be more than there is: the ratios may
 * be lower after a restart. */
static bool has_room(const struct scheduler_view *view, const struct queue_demand *demand)
{
	const struct scheduler_capacity *capacity = &view->capacity;

	return view->vms < view->max_vms && view->memory <= capacity->memory &&
	       demand->memory <= capacity->memory - view->memory && view->cpus <= capacity->cpus &&
	       demand->cpus <= capacity->cpus - view->cpus;
}

struct queue_item *scheduler_next(const struct scheduler_view *view, struct queue *queue)
{
	if (view->vms >= view->max_vms)
		return NULL;
	struct queue_item *first = queue_first(queue, view->now_usec);
	return first && has_room(view, &first->demand) ? first : NULL;
}

int scheduler_check(const struct scheduler_capacity *capacity, const struct queue_demand *demand,
	struct error **err)
{
	if (demand->memory > capacity->memory) {
		_cleanup_free_ char *wants = format_size(demand->memory);
		_cleanup_free_ char *has = format_size(capacity->memory);

		return error_set(err, ERR_LIMIT,
			"the job wants %s of memory, and this host gives its VMs %s in all "
			"(memory_overcommit): it could never start",
			wants, has);
	}
	if (demand->cpus > capacity->cpus)
		return error_set(err, ERR_LIMIT,
			"the job wants %u processors, and this host gives its VMs %u in all "
			"(cpu_overcommit): it could never start",
			demand->cpus, capacity->cpus);
	return 0;
}

struct scheduler_capacity scheduler_capacity_of(
	uint64_t memory, uint32_t cpus, uint32_t memory_percent, uint32_t cpu_percent)
{
	uint64_t all_cpus = (uint64_t)cpus * cpu_percent / 100;

	return (struct scheduler_capacity){
		.memory = memory / 100 * memory_percent,
		.cpus = (uint32_t)MIN(MAX(all_cpus, UINT64_C(1)), (uint64_t)UINT32_MAX),
	};
}
