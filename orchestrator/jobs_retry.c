/* From one attempt to the next. The attempt's record and the job's return to the queue are one
 * commit; then, when the attempt's VM is gone, the job waits again, for its time and for its turn.
 *
 *   end known -> [store: requeue] -> between -> (VM gone) -> queue -> (not_before, turn) -> claim
 *
 * The files of the attempt go out of the way of the next one's just before its claim is committed
 * (attempt_files.h). Somebody may cancel the job at any point of this. */
#include "orchestrator/jobs_private.h"

#include <string.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/attempt_files.h"
#include "orchestrator/retry.h"

/* The timer looks at the clock again after so long, whatever happened to it. */
#define LOOK_MS 60000

void job_plan_retry(struct job *job)
{
	const struct job_record *final = job->final;
	struct retry_end end = {
		.policy = final->spec->retry,
		.attempt = final->attempt,
		.restarts = final->restarts,
		.outcome = final->result.outcome,
	};
	uint64_t not_before;
	uint32_t random;

	/* Who asked for its end, and came too late, does not want another. */
	if (job->cancelling || job->record->state == JOB_QUEUED)
		return;
	random_bytes(&random, sizeof(random));
	if (retry_decide(&end, now_real_usec(), random, &not_before) == RETRY_NO)
		return;
	FAILPOINT("retry.known");
	job->next = record_back_in_queue(job->record, not_before);
	job->final->not_before = not_before;
}

int job_keep_files(const struct job *job, unsigned n, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;

	if (attempt_files_keep(job->dir, n, &why) == 0)
		return 0;
	if (why->code != ERR_LIMIT) {
		log_warn(job->record->id, "%s", why->text);
		return 0;
	}
	return error_move(err, steal_ptr(why));
}

int job_store_requeue(struct store *store, void *arg, struct error **err)
{
	struct job *job = arg;

	job_write_result(job);
	FAILPOINT("retry.json");
	return store->ops->requeue(store, job->final, job->next, err);
}

/* In place: the attempt, which may not be gone yet, borrows from the record. */
static void take_over_next(struct job *job)
{
	_cleanup_job_record_ struct job_record *next = steal_ptr(job->next);
	struct job_record *record = job->record;

	record->epoch = next->epoch;
	record->state = next->state;
	record->not_before = next->not_before;
	record->vm[0] = '\0';
	job_result_clear(&record->result);
	job_result_copy(&record->result, &next->result);
}

void job_requeued(struct job *job)
{
	FAILPOINT("retry.committed");
	log_info(job->record->id, "attempt %u ended (%s: %s); another follows",
		job->record->attempt, job_outcome_name(job->final->result.outcome),
		job->final->result.error ? job->final->result.error : "");
	take_over_next(job);
	job_record_free(steal_ptr(job->final));
	job->ended = false;
	job->between = true;
	job_tell_watches(job, false);
	if (job->jobs->stopping)
		job_tell_lost(job);
	if (job->attempt)
		attempt_recorded(job->attempt);
	if (job->cancelling)
		job_end(job, OUTCOME_CANCELLED, EXIT_CANCELLED, job->cancel_why);
	else if (!job->attempt)
		job_go_back(job);
}

void job_go_back(struct job *job)
{
	FAILPOINT("retry.gone");
	job->between = false;
	memset(&job->vm, 0, sizeof(job->vm));
	job->output.stdout_size = job->output.stderr_size = 0;
	job_enqueue(job);
	jobs_schedule(job->jobs);
}

void job_cancel_between(struct job *job, const char *why, jobs_done done, void *arg)
{
	job->cancel_done = done;
	job->cancel_arg = arg;
	if (job->between)
		job_end(job, OUTCOME_CANCELLED, EXIT_CANCELLED, why);
	else
		job->cancel_why = xstrdup(why); /* seen when the requeue is committed */
}

static void due(void *arg)
{
	struct jobs *jobs = arg;

	loop_timer_stop(steal_ptr(jobs->due));
	jobs_schedule(jobs);
}

void jobs_arm_due(struct jobs *jobs)
{
	uint64_t at = queue_next_time(&jobs->queue), now = now_real_usec();

	if (jobs->due && jobs->due_at == at)
		return;
	loop_timer_stop(steal_ptr(jobs->due));
	/* One whose time has come waits for a slot: whoever frees one looks. */
	if (at <= now || jobs->stopping)
		return;
	jobs->due_at = at;
	/* Rounded up: to come a moment early would be to come again. */
	jobs->due = loop_timer_start(
		jobs->env.loop, MIN((at - now) / 1000 + 1, (uint64_t)LOOK_MS), 0, due, jobs);
}
