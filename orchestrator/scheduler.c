#include "orchestrator/scheduler.h"

#include "common/util.h"

/* How much of wanted there is not when used of all is. No sum that could overflow; and what is used
 * may be more than there is, for the ratios may be lower after a restart. */
static uint64_t lack_of(uint64_t all, uint64_t used, uint64_t wanted)
{
	uint64_t over = used > all ? used - all : 0;
	uint64_t left = used > all ? 0 : all - used;
	uint64_t missing = wanted > left ? wanted - left : 0;

	return missing > UINT64_MAX - over ? UINT64_MAX : missing + over;
}

bool scheduler_fits(const struct scheduler_view *view, const struct queue_demand *demand,
	struct scheduler_lack *ret)
{
	struct scheduler_lack lack = {
		.vms = (uint32_t)MIN(lack_of(view->max_vms, view->vms, 1), (uint64_t)UINT32_MAX),
		.memory = lack_of(view->capacity.memory, view->memory, demand->memory),
		.cpus = (uint32_t)MIN(lack_of(view->capacity.cpus, view->cpus, demand->cpus),
			(uint64_t)UINT32_MAX),
	};

	if (ret)
		*ret = lack;
	return !lack.vms && !lack.memory && !lack.cpus;
}

struct queue_item *scheduler_next(
	const struct scheduler_view *view, struct queue *queue, struct scheduler_lack *ret)
{
	struct queue_item *first = queue_first(queue, view->now_usec);

	if (first)
		scheduler_fits(view, &first->demand, ret);
	return first;
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
