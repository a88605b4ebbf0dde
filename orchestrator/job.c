#include "orchestrator/job.h"

#include <string.h>

#include "common/util.h"

/* From each state, the states that may come next. A job finishes from anywhere, once.
 *
 *   queued --> starting --> running --> collecting --> finished
 *     |           |            |                          ^
 *     +-----------+------------+--------------------------+
 *
 * and back to the queue when another attempt is to follow (retry.h). */
#define BIT(state) (1u << (state))

static const unsigned followers[] = {
	[JOB_QUEUED] = BIT(JOB_STARTING) | BIT(JOB_FINISHED),
	[JOB_STARTING] = BIT(JOB_QUEUED) | BIT(JOB_RUNNING) | BIT(JOB_FINISHED),
	[JOB_RUNNING] = BIT(JOB_QUEUED) | BIT(JOB_COLLECTING) | BIT(JOB_FINISHED),
	[JOB_COLLECTING] = BIT(JOB_QUEUED) | BIT(JOB_FINISHED),
	[JOB_FINISHED] = 0,
};

static const char *const state_names[] = {
	[JOB_QUEUED] = "queued",
	[JOB_STARTING] = "starting",
	[JOB_RUNNING] = "running",
	[JOB_COLLECTING] = "collecting",
	[JOB_FINISHED] = "finished",
};

static const char *const stage_names[] = {
	[STAGE_SUBMITTED] = "submitted",
	[STAGE_STARTED] = "started",
	[STAGE_DOMAIN_CREATED] = "domain_created",
	[STAGE_KERNEL_UP] = "kernel_up",
	[STAGE_WORKER_READY] = "worker_ready",
	[STAGE_INPUTS_SENT] = "inputs_sent",
	[STAGE_PROGRAM_STARTED] = "program_started",
	[STAGE_FIRST_BYTE] = "first_byte",
	[STAGE_PROGRAM_ENDED] = "program_ended",
	[STAGE_COLLECTED] = "collected",
	[STAGE_RECORDED] = "recorded",
	[STAGE_DESTROYED] = "destroyed",
};

static const char *const outcome_names[] = {
	[OUTCOME_NONE] = "none",
	[OUTCOME_SUCCEEDED] = "succeeded",
	[OUTCOME_FAILED] = "failed",
	[OUTCOME_TIMEOUT] = "timeout",
	[OUTCOME_CANCELLED] = "cancelled",
	[OUTCOME_OOM_GUEST] = "oom_guest",
	[OUTCOME_OOM_HOST] = "oom_host",
	[OUTCOME_GUEST_PANIC] = "guest_panic",
	[OUTCOME_AGENT_LOST] = "agent_lost",
	[OUTCOME_BOOT_FAILED] = "boot_failed",
	[OUTCOME_INFRA] = "infra",
};

_Static_assert(ARRAY_SIZE(stage_names) == STAGES, "every stage has a name");
_Static_assert(ARRAY_SIZE(outcome_names) == OUTCOMES, "every outcome has a name");

bool job_state_may_follow(enum job_state from, enum job_state to)
{
	if (from < JOB_QUEUED || from > JOB_FINISHED || to < JOB_QUEUED || to > JOB_FINISHED)
		return false;
	return followers[from] & BIT(to);
}

const char *job_state_name(enum job_state state)
{
	return state >= JOB_QUEUED && state <= JOB_FINISHED ? state_names[state] : "unknown";
}

const char *job_stage_name(enum job_stage stage)
{
	return (unsigned)stage < STAGES ? stage_names[stage] : "unknown";
}

const char *job_outcome_name(enum job_outcome outcome)
{
	return (unsigned)outcome < OUTCOMES ? outcome_names[outcome] : "unknown";
}

void job_wall_clear(struct job_wall *wall)
{
	free(wall->accelerator);
	free(wall->vsock_device);
	for (size_t i = 0; i < wall->n_devices; i++)
		free(wall->devices[i]);
	free(wall->devices);
	free(wall->kernel);
	free(wall->image_digest);
	free(wall->libvirt_uri);
}

void job_result_clear(struct job_result *result)
{
	free(result->error);
	for (size_t i = 0; i < result->n_artifacts; i++)
		free(result->artifacts[i].path);
	free(result->artifacts);
	free(result->left_out);
	job_wall_clear(&result->wall);
	memset(result, 0, sizeof(*result));
}

static void wall_copy(struct job_wall *to, const struct job_wall *from)
{
	to->accelerator = xstrdup(from->accelerator);
	to->vsock_device = xstrdup(from->vsock_device);
	to->devices = NULL;
	if (from->n_devices)
		to->devices = xcalloc(from->n_devices, sizeof(*to->devices));
	for (size_t i = 0; i < from->n_devices; i++)
		to->devices[i] = xstrdup(from->devices[i]);
	to->kernel = xstrdup(from->kernel);
	to->image_digest = xstrdup(from->image_digest);
	to->libvirt_uri = xstrdup(from->libvirt_uri);
}

void job_result_copy(struct job_result *to, const struct job_result *from)
{
	/* Numbers come with the assignment; then each pointer gets its own memory. */
	*to = *from;
	to->error = xstrdup(from->error);
	to->artifacts = NULL;
	if (from->n_artifacts)
		to->artifacts = xcalloc(from->n_artifacts, sizeof(*to->artifacts));
	for (size_t i = 0; i < from->n_artifacts; i++) {
		to->artifacts[i] = from->artifacts[i];
		to->artifacts[i].path = xstrdup(from->artifacts[i].path);
	}
	to->left_out = xstrdup(from->left_out);
	wall_copy(&to->wall, &from->wall);
}
