/* Between the live jobs and the warm VMs: they share one host. */
#include "common/util.h"
#include "orchestrator/jobs_private.h"

struct scheduler_view jobs_view(struct jobs *jobs)
{
	struct pools_counts pools = pools_counts(jobs->pools);

	return (struct scheduler_view){
		.max_vms = jobs->env.config->max_vms,
		.capacity = jobs->env.capacity,
		.vms = jobs->slots + pools.slots,
		.memory = jobs->used.memory + pools.used.memory,
		.cpus = jobs->used.cpus + pools.used.cpus,
		.now_usec = now_real_usec(),
	};
}

static bool has_room(void *arg, const struct queue_demand *demand)
{
	struct scheduler_view view = jobs_view(arg);

	return scheduler_fits(&view, demand, NULL);
}

static bool is_waiting(void *arg)
{
	struct jobs *jobs = arg;

	return queue_first(&jobs->queue, now_real_usec()) != NULL;
}

static void on_change(void *arg)
{
	struct jobs *jobs = arg;

	jobs_schedule(jobs);
	jobs_changed(jobs);
}

void jobs_pool_new(struct jobs *jobs)
{
	struct pools_env env = {
		.loop = jobs->env.loop,
		.host = jobs->env.host,
		.config = jobs->env.config,
		.has_room = has_room,
		.is_waiting = is_waiting,
		.on_change = on_change,
		.arg = jobs,
	};

	jobs->pools = pools_new(&env);
}

void jobs_start_pools(struct jobs *jobs)
{
	pools_start(jobs->pools);
}

void jobs_each_pool(
	struct jobs *jobs, void (*visit)(void *arg, const struct pools_info *info), void *arg)
{
	pools_each(jobs->pools, visit, arg);
}
