#include "orchestrator/jobs_private.h"

#include <stdio.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/ballast.h"
#include "orchestrator/results.h"
#include "orchestrator/scheduler.h"

#define RETRY_MS 1000 /* after the store failed: a full disk may have room again */

/* --- slots ----------------------------------------------------------------------------------- */

static void slot_take(struct job *job)
{
	struct jobs *jobs = job->jobs;

	job->next_vm = jobs->vms;
	job->prev_vm = &jobs->vms;
	if (jobs->vms)
		jobs->vms->prev_vm = &job->next_vm;
	jobs->vms = job;
	jobs->counts.vms++;
	jobs->slots++;
	jobs->used.memory += job->item.demand.memory;
	jobs->used.cpus += job->item.demand.cpus;
	job->has_slot = true;
}

static void slot_free(struct job *job)
{
	struct jobs *jobs = job->jobs;

	if (!job->has_slot)
		return;
	job->has_slot = false;
	jobs->slots--;
	jobs->used.memory -= job->item.demand.memory;
	jobs->used.cpus -= job->item.demand.cpus;
}

/* Nothing of its VM is left, or none was begun. */
static void vm_gone(struct job *job)
{
	slot_free(job);
	*job->prev_vm = job->next_vm;
	if (job->next_vm)
		job->next_vm->prev_vm = job->prev_vm;
	job->next_vm = NULL;
	job->prev_vm = NULL;
	job->jobs->counts.vms--;
}

/* --- the end --------------------------------------------------------------------------------- */

/* result.json is a copy for people: the store's record is what counts, and the file can be made
 * from it again. So a failure to write it does not undo the end. */
void job_write_result(const struct job *job)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *text = record_result_json(job->final);

	/* One that ended in the queue may have no directory yet. */
	while (make_dirs(job->dir, 0700, &err) < 0 ||
		results_write_json(job->dir, text, &err) < 0) {
		if (err->code != ERR_LIMIT || !ballast_give())
			break;
		error_free(steal_ptr(err));
	}
	if (err)
		log_warn(job->final->id, "%s", err->text);
}

static int store_finish(struct store *store, void *arg, struct error **err)
{
	struct job *job = arg;

	FAILPOINT("end.writing");
	/* One that ended between two attempts has a result.json of its own. */
	if (job->ended_waiting && job_keep_files(job, job->final->attempt, err) < 0)
		return -1;
	job_write_result(job);
	FAILPOINT("end.json");
	return store->ops->finish(store, job->final, err);
}

static void commit_end(void *arg);

static void cancel_heard(struct job *job, struct error *error)
{
	if (job->cancel_done)
		job->cancel_done(job->cancel_arg, error);
	else
		error_free(error);
	job->cancel_done = NULL;
}

/* The record stays where it is: the attempt, which may not be gone yet, borrows from it. */
static void take_over_end(struct job *job)
{
	struct job_result *result = &job->record->result;
	uint64_t destroyed = result->times[STAGE_DESTROYED];

	job_result_clear(result);
	job_result_copy(result, &job->final->result);
	if (destroyed)
		result->times[STAGE_DESTROYED] = destroyed;
	job->record->state = JOB_FINISHED;
	job->record->not_before = 0;
	job_tell_watches(job, true);
}

static void end_committed(void *arg, struct error *error)
{
	struct job *job = arg;
	struct jobs *jobs = job->jobs;

	FAILPOINT("end.committed");
	jobs->pending--;
	if (error)
		log_error(job->record->id, "its outcome could not be recorded: %s", error->text);
	if (error && error->code != ERR_ABORTED && !jobs->stopping) {
		error_free(error);
		job->retry = loop_timer_start(jobs->env.loop, RETRY_MS, 0, commit_end, job);
		return;
	}
	if (!error && job->next) {
		job_requeued(job);
		jobs_changed(jobs);
		return;
	}
	if (error)
		job_tell_lost(job);
	else
		take_over_end(job);
	cancel_heard(job, error);
	if (job->attempt)
		attempt_recorded(job->attempt);
	job->committed = true;
	job_release(job);
	jobs_changed(jobs);
}

static void commit_end(void *arg)
{
	struct job *job = arg;

	loop_timer_stop(steal_ptr(job->retry));
	job->final->result.times[STAGE_RECORDED] = now_real_usec();
	job->jobs->pending++;
	store_queue_post(job->jobs->env.store, job->next ? job_store_requeue : store_finish,
		end_committed, job);
}

/* The outcome is known: take it over, with what times the attempt itself did not see. */
static void end_with(struct job *job, const struct job_result *result)
{
	if (job->ended)
		return;
	if (!job_state_may_follow(job->record->state, JOB_FINISHED)) {
		log_error(job->record->id, "cannot finish from %s",
			job_state_name(job->record->state));
		return;
	}
	FAILPOINT("end.known");
	job->ended = true;
	job->ended_waiting = job->record->state == JOB_QUEUED && job->record->attempt;
	job->final = job_record_copy(job->record);
	job->final->state = JOB_FINISHED;
	job->final->not_before = 0;
	job_result_clear(&job->final->result);
	job_result_copy(&job->final->result, result);
	for (size_t i = 0; i < STAGES; i++) {
		if (!job->final->result.times[i])
			job->final->result.times[i] = job->record->result.times[i];
	}
	job_plan_retry(job);
	commit_end(job);
}

void job_end(struct job *job, enum job_outcome outcome, int exit_code, const char *why)
{
	struct job_result result = {.outcome = outcome, .exit_code = exit_code};

	result.error = xstrdup(why);
	end_with(job, &result);
	job_result_clear(&result);
}

/* --- an attempt's events --------------------------------------------------------------------- */

struct posted_event {
	struct job *job;
	struct attempt_event event;
	struct vm_facts vm;
	struct job_result result;
};

static int store_update(struct store *store, void *arg, struct error **err)
{
	return store->ops->update(store, arg, err);
}

static void updated(void *arg, struct error *error)
{
	struct job_record *record = arg;

	/* The state on the way is for those who look; the end is what must not be lost. */
	if (error)
		log_warn(record->id, "%s was not recorded: %s", job_state_name(record->state),
			error->text);
	error_free(error);
	job_record_free(record);
}

static void moved(struct job *job, enum job_state state)
{
	if (job->ended || !job_state_may_follow(job->record->state, state)) {
		log_error(job->record->id, "cannot go from %s to %s",
			job_state_name(job->record->state), job_state_name(state));
		return;
	}
	job->record->state = state;
	store_queue_post(job->jobs->env.store, store_update, updated, job_record_copy(job->record));
	job_tell_watches(job, false);
}

struct destruction {
	char id[JOB_ID_SIZE];
	unsigned attempt;
	uint64_t at_usec;
};

static int store_destroyed(struct store *store, void *arg, struct error **err)
{
	const struct destruction *d = arg;

	return store->ops->destroyed(store, d->id, d->attempt, d->at_usec, err);
}

static void destruction_recorded(void *arg, struct error *error)
{
	if (error)
		log_warn(((struct destruction *)arg)->id, "%s", error->text);
	error_free(error);
	free(arg);
}

static void gone(struct job *job)
{
	struct jobs *jobs = job->jobs;
	struct destruction *d = xmalloc(sizeof(*d));

	FAILPOINT("end.gone");
	/* The attempt says so last, so that its thread is at its end. */
	attempt_free(steal_ptr(job->attempt));
	if (!job->ended && !job->between)
		job_end(job, OUTCOME_INFRA, EXIT_INFRA, "the attempt ended without an outcome");
	d->at_usec = now_real_usec();
	memcpy(d->id, job->record->id, sizeof(d->id));
	d->attempt = job->record->attempt;
	if (!job->between)
		job->record->result.times[STAGE_DESTROYED] = d->at_usec;
	store_queue_post(jobs->env.store, store_destroyed, destruction_recorded, d);
	vm_gone(job);
	if (job->between && !job->ended)
		job_go_back(job);
	else
		job_release(job);
	jobs_schedule(jobs);
	jobs_changed(jobs);
}

static void freed(struct job *job)
{
	FAILPOINT("end.freed");
	slot_free(job);
	jobs_schedule(job->jobs);
}

static void output_grew(struct job *job)
{
	pthread_mutex_lock(&job->output.lock);
	job->output.posted = false;
	job->record->result.stdout_bytes = job->output.stdout_size;
	job->record->result.stderr_bytes = job->output.stderr_size;
	pthread_mutex_unlock(&job->output.lock);
	job_tell_watches(job, false);
}

static void apply(void *arg)
{
	struct posted_event *posted = arg;
	struct job *job = posted->job;
	const struct attempt_event *event = &posted->event;

	switch (event->type) {
	case ATTEMPT_VM:
		job->vm = posted->vm;
		/* Between two attempts the record is the next one's already. */
		if (!job->between)
			snprintf(job->record->vm, sizeof(job->record->vm), "%s", posted->vm.id);
		break;
	case ATTEMPT_STATE:
		moved(job, event->state);
		break;
	case ATTEMPT_STAGE:
		if ((unsigned)event->stage < STAGES && !job->between)
			job->record->result.times[event->stage] = event->usec;
		break;
	case ATTEMPT_OUTPUT:
		output_grew(job);
		break;
	case ATTEMPT_DONE:
		end_with(job, &posted->result);
		break;
	case ATTEMPT_FREED:
		freed(job);
		break;
	case ATTEMPT_GONE:
		gone(job);
		break;
	}
	job_result_clear(&posted->result);
	free(posted);
}

/* On the attempt's thread. False: the loop will look anyway. */
static bool note_output(struct job *job, const struct attempt_event *event)
{
	pthread_mutex_lock(&job->output.lock);
	bool post = !job->output.posted;
	job->output.posted = true;
	job->output.stdout_size = event->stdout_size;
	job->output.stderr_size = event->stderr_size;
	pthread_mutex_unlock(&job->output.lock);
	return post;
}

static void listen_to(void *arg, const struct attempt_event *event)
{
	struct job *job = arg;

	if (event->type == ATTEMPT_OUTPUT && !note_output(job, event))
		return;
	struct posted_event *posted = xcalloc(1, sizeof(*posted));
	posted->job = job;
	posted->event = *event;
	if (event->vm)
		posted->vm = *event->vm;
	if (event->type == ATTEMPT_DONE)
		job_result_copy(&posted->result, event->result);
	loop_post(job->jobs->env.loop, apply, posted);
}

/* --- the beginning --------------------------------------------------------------------------- */

static void start_attempt(struct job *job, enum job_state adopted)
{
	_cleanup_error_ struct error *err = NULL;

	job->order = (struct attempt_order){
		.job_id = job->record->id,
		.number = job->record->attempt,
		.spec = job->record->spec,
		.job_dir = job->dir,
		.submitted_usec = job->record->result.times[STAGE_SUBMITTED],
		.started_usec = job->record->result.times[STAGE_STARTED],
		.adopted = adopted,
	};
	if (job->warm)
		job->order.warm = pools_hand_over(job->jobs->pools, steal_ptr(job->warm));
	FAILPOINT("attempt.start");
	job->attempt = attempt_start(job->jobs->env.host, &job->order, listen_to, job, &err);
	if (job->attempt)
		return;
	if (job->order.warm) {
		warm_retire(job->order.warm);
		warm_free(job->order.warm);
	}
	vm_gone(job);
	job_end(job, OUTCOME_INFRA, EXIT_INFRA, err->text);
}

void job_take_up(struct job *job)
{
	slot_take(job);
	start_attempt(job, job->record->state);
}

struct claim {
	struct job *job;
	struct job_record *record; /* owned: as it shall be */
};

static int store_claim(struct store *store, void *arg, struct error **err)
{
	const struct claim *claim = arg;

	_cleanup_free_ char *inputs = str_printf("%s/inputs", claim->job->dir);

	/* With inputs it is there since the submit. */
	if (ballast_check_room(err) < 0 || make_dirs(inputs, 0700, err) < 0)
		return -1;
	if (claim->record->attempt > 1 &&
		job_keep_files(claim->job, claim->record->attempt - 1, err) < 0)
		return -1;
	return store->ops->claim(store, claim->record, err);
}

static void pause_over(void *arg)
{
	struct jobs *jobs = arg;

	loop_timer_stop(steal_ptr(jobs->pause));
	jobs_schedule(jobs);
}

static void give_back_warm(struct job *job)
{
	if (job->warm)
		pools_give_back(job->jobs->pools, steal_ptr(job->warm));
}

/* Back to where it was; all starts wait a little, for the store fails for all. */
static void claim_failed(struct job *job, const struct error *why)
{
	struct jobs *jobs = job->jobs;

	/* A full disk is told once, by the ballast, not each second. */
	if (why->code == ERR_LIMIT)
		log_debug(job->record->id, "cannot be started now: %s", why->text);
	else
		log_error(job->record->id, "cannot be started now: %s", why->text);
	give_back_warm(job);
	vm_gone(job);
	queue_return(&jobs->queue, &job->item);
	jobs->counts.queued++;
	if (!jobs->pause)
		jobs->pause = loop_timer_start(jobs->env.loop, RETRY_MS, 0, pause_over, jobs);
}

static void claimed(void *arg, struct error *error)
{
	struct claim *claim = arg;
	struct job *job = claim->job;
	struct jobs *jobs = job->jobs;

	FAILPOINT("claim.committed");
	jobs->pending--;
	job->claiming = false;
	if (!error) {
		job_record_free(job->record);
		job->record = steal_ptr(claim->record);
		job_tell_watches(job, false);
	}
	if (error && !job->cancelling) {
		claim_failed(job, error);
	} else if (job->cancelling || jobs->stopping) {
		give_back_warm(job);
		vm_gone(job);
		job_end(job, OUTCOME_CANCELLED, EXIT_CANCELLED,
			job->cancelling ? job->cancel_why : jobs->stop_why);
	} else {
		start_attempt(job, 0);
	}
	job_record_free(claim->record);
	free(claim);
	error_free(error);
	jobs_schedule(jobs);
	jobs_changed(jobs);
}

/* warm: a VM that is kept for it, or NULL. */
static void begin(struct job *job, struct pools_vm *warm)
{
	struct jobs *jobs = job->jobs;
	struct claim *claim = xmalloc(sizeof(*claim));

	FAILPOINT("claim.begin");
	queue_take(&jobs->queue, &job->item);
	jobs->counts.queued--;
	slot_take(job);
	job->warm = warm;
	job->claiming = true;
	claim->job = job;
	claim->record = job_record_copy(job->record);
	claim->record->epoch++;
	claim->record->attempt++;
	claim->record->state = JOB_STARTING;
	claim->record->not_before = 0;
	claim->record->result.times[STAGE_STARTED] = now_real_usec();
	jobs->pending++;
	store_queue_post(jobs->env.store, store_claim, claimed, claim);
}

/* The next one begins, if there is a warm VM for it, or room. */
static bool begin_next(struct jobs *jobs)
{
	struct scheduler_view view = jobs_view(jobs);
	struct scheduler_lack lack;
	struct queue_item *item = scheduler_next(&view, &jobs->queue, &lack);

	if (!item)
		return false;
	struct job *job = (struct job *)((char *)item - offsetof(struct job, item));
	struct pools_vm *warm = pools_reserve(jobs->pools, job->record->spec);
	if (!warm && (lack.vms || lack.memory || lack.cpus)) {
		pools_make_room(jobs->pools, &lack);
		return false;
	}
	begin(job, warm);
	return true;
}

void jobs_schedule(struct jobs *jobs)
{
	/* A libvirt that does not get rid of its domains must not be given ever more of them. */
	while (!jobs->stopping && !jobs->pause &&
		jobs->counts.vms < 2 * jobs->env.config->max_vms && begin_next(jobs))
		;
	jobs_arm_due(jobs);
	pools_look(jobs->pools);
}
