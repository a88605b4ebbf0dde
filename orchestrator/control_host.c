/* Calls about the daemon and its VMs as a whole. */
#include "orchestrator/control_private.h"
#include "orchestrator/host.h"
#include "orchestrator/pools.h"
#include "orchestrator/retention.h"

#include <stdio.h>
#include <string.h>

#include "common/util.h"

struct vm {
	struct vm_facts facts;
	char job[JOB_ID_SIZE];
};

struct look {
	struct daemon *daemon;
	struct vm *vms; /* owned */
	size_t n_vms;
	struct jobs_counts counts;
};

static void keep_vm(void *arg, const struct vm_facts *facts, const char *job_id)
{
	struct look *look = arg;

	look->vms = xreallocarray(look->vms, look->n_vms + 1, sizeof(*look->vms));
	struct vm *vm = &look->vms[look->n_vms++];
	vm->facts = *facts;
	snprintf(vm->job, sizeof(vm->job), "%s", job_id);
}

static void loop_look(void *arg)
{
	struct look *look = arg;

	look->counts = jobs_counts(look->daemon->jobs);
	jobs_each_vm(look->daemon->jobs, keep_vm, look);
}

/* Messages want pointers to non-const; what is sent is only read. */
#define TEXT(s) ((char *)(uintptr_t)(s))

static int send_vm(struct rpc_call *call, const struct vm *vm, struct error **err)
{
	Control__V1__VmInfo info = CONTROL__V1__VM_INFO__INIT;
	const struct vm_facts *facts = &vm->facts;

	info.id = TEXT(facts->id);
	info.domain = TEXT(facts->domain);
	info.uuid = TEXT(facts->uuid);
	info.has_cid = facts->cid != 0;
	info.cid = facts->cid;
	info.state = TEXT(facts->state ? facts->state : "creating");
	info.image = TEXT(facts->image);
	info.job = TEXT(vm->job);
	info.vsock_device = TEXT(facts->vsock_device);
	info.accelerator = TEXT(facts->accelerator);
	info.cpus = facts->cpus;
	info.memory_bytes = facts->memory_bytes;
	info.started = facts->started_usec;
	info.has_pid = facts->pid != 0;
	info.pid = (uint32_t)facts->pid;
	info.has_pooled = facts->pooled;
	info.pooled = facts->pooled;
	return rpc_send(call, &info.base, err);
}

int control_handle_list_vms(struct rpc_call *call, void *arg, struct error **err)
{
	struct look look = {.daemon = arg};
	_cleanup_message_ Control__V1__ListVmsRequest *request = NULL;
	int r = 0;

	if (control_recv(call, &request, err) < 0)
		return -1;
	loop_call(look.daemon->loop, loop_look, &look);
	for (size_t i = 0; i < look.n_vms && r == 0; i++)
		r = send_vm(call, &look.vms[i], err);
	free(look.vms);
	return r;
}

/* Pools, copied on the loop and sent from here. */
struct pool_look {
	struct daemon *daemon;
	Control__V1__PoolInfo **pools; /* owned */
	size_t n;
};

static void keep_pool(void *arg, const struct pools_info *info)
{
	struct pool_look *look = arg;
	Control__V1__PoolInfo *pool = xmalloc(sizeof(*pool));

	control__v1__pool_info__init(pool);
	pool->image = xstrdup(info->config->image);
	pool->state = xstrdup(info->state);
	pool->idle = info->idle;
	pool->booting = info->booting;
	pool->min_idle = info->config->min_idle;
	pool->max = info->config->max;
	pool->cpus = info->config->cpus;
	pool->memory_bytes = info->config->memory_bytes;
	pool->has_disk_bytes = info->config->disk_bytes != 0;
	pool->disk_bytes = info->config->disk_bytes;
	pool->max_age_ms = info->config->max_age_ms;
	pool->has_failures = info->failures != 0;
	pool->failures = info->failures;
	pool->reason = info->reason ? xstrdup(info->reason) : NULL;
	pool->has_retry_in_ms = info->retry_in_ms != 0;
	pool->retry_in_ms = info->retry_in_ms;
	look->pools = xreallocarray(look->pools, look->n + 1, sizeof(*look->pools));
	look->pools[look->n++] = pool;
}

static void loop_look_at_pools(void *arg)
{
	struct pool_look *look = arg;

	jobs_each_pool(look->daemon->jobs, keep_pool, look);
}

int control_handle_list_pools(struct rpc_call *call, void *arg, struct error **err)
{
	struct pool_look look = {.daemon = arg};
	_cleanup_message_ Control__V1__ListPoolsRequest *request = NULL;
	int r = 0;

	if (control_recv(call, &request, err) < 0)
		return -1;
	loop_call(look.daemon->loop, loop_look_at_pools, &look);
	for (size_t i = 0; i < look.n; i++) {
		if (r == 0)
			r = rpc_send(call, &look.pools[i]->base, err);
		control__v1__pool_info__free_unpacked(look.pools[i], NULL);
	}
	free(look.pools);
	return r;
}

static void loop_count(void *arg)
{
	struct look *look = arg;

	look->counts = jobs_counts(look->daemon->jobs);
}

static int send_info(struct rpc_call *call, const struct look *look, struct error **err)
{
	const struct daemon *daemon = look->daemon;
	Control__V1__InfoReply reply = CONTROL__V1__INFO_REPLY__INIT;

	reply.version = TEXT(ORCHESTRATOR_VERSION);
	reply.pid = (uint32_t)getpid();
	reply.started = daemon->started_usec;
	reply.state_dir = daemon->config->state_dir;
	reply.max_vms = daemon->config->max_vms;
	reply.vms = look->counts.vms;
	reply.queued = look->counts.queued;
	reply.accelerator = TEXT(host_accelerator(daemon->host));
	reply.vsock_device = TEXT(host_vsock_device(daemon->host));
	reply.libvirt_uri = daemon->config->libvirt_uri;
	return rpc_send(call, &reply.base, err);
}

int control_handle_info(struct rpc_call *call, void *arg, struct error **err)
{
	struct look look = {.daemon = arg};
	_cleanup_message_ Control__V1__InfoRequest *request = NULL;

	if (control_recv(call, &request, err) < 0)
		return -1;
	loop_call(look.daemon->loop, loop_count, &look);
	return send_info(call, &look, err);
}

int control_info_quick(struct rpc_call *call, void *arg, struct error **err)
{
	struct look look = {.daemon = arg};

	if (!loop_try_look(look.daemon->loop, loop_count, &look))
		return RPC_POOL;
	_cleanup_message_ Control__V1__InfoRequest *request = NULL;
	return control_recv(call, &request, err) < 0 ? -1 : send_info(call, &look, err);
}

static int send_removed(
	void *arg, const char *id, uint64_t finished, uint64_t expired, struct error **err)
{
	Control__V1__GcReply reply = CONTROL__V1__GC_REPLY__INIT;

	reply.id = TEXT(id);
	reply.finished = finished;
	reply.expired = expired;
	return rpc_send(arg, &reply.base, err);
}

int control_handle_gc(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__GcRequest *request = NULL;

	if (control_recv(call, &request, err) < 0)
		return -1;
	return retention_sweep(daemon->config, daemon->queue, now_real_usec(), request->dry_run,
		send_removed, call, err);
}

static void loop_stop_daemon(void *arg)
{
	daemon_stop(arg, "the daemon was stopped");
}

int control_handle_stop(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__StopRequest *request = NULL;
	Control__V1__StopReply reply = CONTROL__V1__STOP_REPLY__INIT;

	if (control_recv(call, &request, err) < 0)
		return -1;
	loop_post(daemon->loop, loop_stop_daemon, daemon);
	return rpc_send(call, &reply.base, err);
}
