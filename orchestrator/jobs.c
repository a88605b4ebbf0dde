#include "orchestrator/jobs_private.h"

#include <search.h>
#include <string.h>

#include "common/log.h"
#include "common/util.h"

/* --- the table ------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct job *)a)->record->id, ((const struct job *)b)->record->id);
}

static struct job *find(struct jobs *jobs, const char *id)
{
	struct job_record record;
	struct job key = {.record = &record};

	if (strlen(id) >= sizeof(record.id))
		return NULL;
	strcpy(record.id, id);
	struct job **found = tfind(&key, &jobs->by_id, compare);
	return found ? *found : NULL;
}

static struct job *job_new(struct jobs *jobs, struct job_record *record)
{
	struct job *job = xcalloc(1, sizeof(*job));

	job->jobs = jobs;
	job->record = record;
	job->dir = config_job_dir(jobs->env.config, record->id);
	pthread_mutex_init(&job->output.lock, NULL);
	return job;
}

static void job_free(struct job *job)
{
	loop_timer_stop(job->retry);
	job_record_free(job->record);
	job_record_free(job->final);
	job_record_free(job->next);
	pthread_mutex_destroy(&job->output.lock);
	free(job->cancel_why);
	free(job->dir);
	free(job);
}

struct queue_demand jobs_demand(const Job__V1__Spec *spec)
{
	struct queue_demand demand = {0};

	if (spec->resources) {
		demand.memory = spec->resources->memory_bytes;
		demand.cpus = spec->resources->cpus;
	}
	return demand;
}

static void remember(struct jobs *jobs, struct job *job)
{
	if (!tsearch(job, &jobs->by_id, compare))
		abort(); /* out of memory */
	jobs->counts.live++;
}

void job_enqueue(struct job *job)
{
	const struct job_record *record = job->record;
	struct jobs *jobs = job->jobs;

	jobs->counts.queued++;
	job->item.share = record->share ? record->share : "";
	job->item.priority = record->spec->priority;
	job->item.since = record->result.times[STAGE_SUBMITTED];
	job->item.not_before = record->not_before;
	job->item.demand = jobs_demand(record->spec);
	queue_add(&jobs->queue, &job->item, now_real_usec());
}

static void add(struct jobs *jobs, struct job *job)
{
	remember(jobs, job);
	job_enqueue(job);
}

void job_release(struct job *job)
{
	struct jobs *jobs = job->jobs;

	if (!job->committed || job->attempt)
		return;
	/* Watchers have been told of the end; they may look later, but there is no more news. */
	for (struct watch *watch = job->watches; watch; watch = watch->next)
		watch->job_id[0] = '\0';
	tdelete(job, &jobs->by_id, compare);
	jobs->counts.live--;
	job_free(job);
	jobs_changed(jobs);
}

struct jobs *jobs_new(const struct jobs_env *env)
{
	struct jobs *jobs = xcalloc(1, sizeof(*jobs));

	jobs->env = *env;
	queue_init(&jobs->queue);
	jobs_pool_new(jobs);
	return jobs;
}

static void free_node(void *job)
{
	job_free(job);
}

void jobs_free(struct jobs *jobs)
{
	if (!jobs)
		return;
	queue_clear(&jobs->queue);
	tdestroy(jobs->by_id, free_node);
	loop_timer_stop(jobs->pause);
	loop_timer_stop(jobs->due);
	pools_free(jobs->pools);
	free(jobs->stop_why);
	free(jobs);
}

struct jobs_counts jobs_counts(const struct jobs *jobs)
{
	struct jobs_counts counts = jobs->counts;

	counts.vms += pools_counts(jobs->pools).vms;
	return counts;
}

/* To be called last: the callback of a stop may free what is here. */
void jobs_changed(struct jobs *jobs)
{
	if (jobs->env.on_change)
		jobs->env.on_change(jobs->env.arg);
	if (jobs->stop_done && jobs_counts(jobs).vms == 0 && jobs->pending == 0) {
		void (*done)(void *) = steal_ptr(jobs->stop_done);

		done(jobs->stop_arg);
	}
}

/* --- coming in ------------------------------------------------------------------------------- */

struct submission {
	struct jobs *jobs;
	struct jobs_newcomer *list; /* the caller's */
	struct job **added;	    /* owned */
	size_t n;
	jobs_done done;
	void *arg;
};

static int store_submit(struct store *store, void *arg, struct error **err)
{
	struct submission *submission = arg;

	for (size_t i = 0; i < submission->n; i++) {
		struct jobs_newcomer *one = &submission->list[i];

		if (store->ops->submit(
			    store, submission->added[i]->record, one->other, &one->error) == 0 ||
			store->ops->in_transaction(store))
			continue;
		/* The transaction is lost, with those before and behind this one. */
		return error_set(err, one->error->code, "%s", one->error->text);
	}
	return 0;
}

static void submission_free(struct submission *submission)
{
	free(submission->added);
	free(submission);
}

/* Those that are committed. */
static void add_submitted(void *arg)
{
	struct submission *submission = arg;
	struct jobs *jobs = submission->jobs;

	for (size_t i = 0; i < submission->n; i++)
		add(jobs, submission->added[i]);
	submission_free(submission);
	jobs_schedule(jobs);
	jobs_changed(jobs);
}

/* On the store's thread. */
static void submitted(void *arg, struct error *error)
{
	struct submission *submission = arg;
	jobs_done done = submission->done;
	void *done_arg = submission->arg;
	size_t added = 0;

	for (size_t i = 0; i < submission->n; i++) {
		if (error)
			error_free(steal_ptr(submission->list[i].error));
		if (error || submission->list[i].error)
			job_free(submission->added[i]);
		else
			submission->added[added++] = submission->added[i];
	}
	submission->n = added;
	/* First, so that who is told and asks for the job finds it. */
	if (added)
		loop_post(submission->jobs->env.loop, add_submitted, submission);
	else
		submission_free(submission);
	/* The list may be gone from here on. */
	done(done_arg, error);
}

void jobs_submit(struct jobs *jobs, struct jobs_newcomer *list, size_t n, jobs_done done, void *arg)
{
	if (jobs->stopping) {
		struct error *err = NULL;

		error_set(&err, ERR_UNAVAILABLE, "the daemon is stopping");
		for (size_t i = 0; i < n; i++)
			job_record_free(steal_ptr(list[i].record));
		done(arg, err);
		return;
	}
	struct submission *submission = xmalloc(sizeof(*submission));
	*submission =
		(struct submission){jobs, list, xcalloc(n, sizeof(struct job *)), n, done, arg};
	for (size_t i = 0; i < n; i++)
		submission->added[i] = job_new(jobs, steal_ptr(list[i].record));
	store_queue_post_direct(jobs->env.store, n, store_submit, submitted, submission);
}

void jobs_load(struct jobs *jobs, struct job_record *record)
{
	struct job *job = job_new(jobs, record);
	struct queue_demand demand = jobs_demand(record->spec);
	_cleanup_error_ struct error *err = NULL;

	if (scheduler_check(&jobs->env.capacity, &demand, &err) == 0) {
		add(jobs, job);
		jobs_schedule(jobs);
		jobs_changed(jobs);
		return;
	}
	remember(jobs, job);
	job_end(job, OUTCOME_INFRA, EXIT_INFRA, err->text);
}

void jobs_adopt(struct jobs *jobs, struct job_record *record)
{
	struct job *job = job_new(jobs, record);

	if (!tsearch(job, &jobs->by_id, compare))
		abort(); /* out of memory */
	jobs->counts.live++;
	job_take_up(job);
	jobs_changed(jobs);
}

/* --- cancelling and stopping ----------------------------------------------------------------- */

static int check_cancellable(const struct job *job, const char *id, struct error **err)
{
	if (!job)
		return error_set(err, ERR_NOT_FOUND, "no job %s is live", id);
	if (job->ended && !job->next)
		return error_set(err, ERR_STATE, "job %s has already ended", id);
	if (job->cancelling)
		return error_set(err, ERR_STATE, "job %s is being cancelled already", id);
	return 0;
}

void jobs_cancel(struct jobs *jobs, const char *id, const char *why, jobs_done done, void *arg)
{
	struct job *job = find(jobs, id);
	struct error *err = NULL;

	if (check_cancellable(job, id, &err) < 0) {
		done(arg, err);
		return;
	}
	job->cancelling = true;
	if (job->next || job->between) {
		job_cancel_between(job, why, done, arg);
		return;
	}
	if (job->attempt) {
		attempt_cancel(job->attempt, why);
		done(arg, NULL);
		return;
	}
	job->cancel_done = done;
	job->cancel_arg = arg;
	if (job->claiming) {
		job->cancel_why = xstrdup(why); /* seen when the claim is committed */
		return;
	}
	queue_remove(&jobs->queue, &job->item);
	jobs->counts.queued--;
	job_end(job, OUTCOME_CANCELLED, EXIT_CANCELLED, why);
}

/* Without an attempt: in the queue, or on its way there. */
static bool job_waits(const struct job *job)
{
	return queue_holds(&job->item) || (job->between && !job->ended);
}

static void tell_stopping(const void *node, VISIT visit, int depth)
{
	(void)depth;
	if (visit != preorder && visit != leaf)
		return;
	struct job *job = *(struct job *const *)node;
	for (struct watch *watch = job->watches; watch; watch = watch->next) {
		if (job_waits(job))
			watch_tell(watch, job->record->state, job->record->attempt, false, true);
	}
}

void jobs_stop(struct jobs *jobs, const char *why, void (*done)(void *arg), void *arg)
{
	if (jobs->stopping)
		return;
	jobs->stopping = true;
	jobs->stop_why = xstrdup(why);
	jobs->stop_done = done;
	jobs->stop_arg = arg;
	for (struct job *job = jobs->vms; job; job = job->next_vm) {
		if (job->attempt && !job->ended)
			attempt_cancel(job->attempt, why);
	}
	pools_stop(jobs->pools);
	twalk(jobs->by_id, tell_stopping);
	jobs_changed(jobs);
}

/* --- looking --------------------------------------------------------------------------------- */

struct job_record *jobs_snapshot(struct jobs *jobs, const char *id, uint32_t *ret_position)
{
	struct job *job = find(jobs, id);

	if (!job)
		return NULL;
	*ret_position = (uint32_t)queue_position(&jobs->queue, &job->item);
	return job_record_copy(job->record);
}

void job_tell_watches(struct job *job, bool finished)
{
	for (struct watch *watch = job->watches; watch; watch = watch->next)
		watch_tell(watch, job->record->state, job->record->attempt, finished, false);
}

void job_tell_lost(struct job *job)
{
	for (struct watch *watch = job->watches; watch; watch = watch->next)
		watch_tell(watch, job->record->state, job->record->attempt, false, true);
}

bool jobs_watch(struct jobs *jobs, const char *id, struct watch *watch)
{
	struct job *job = find(jobs, id);

	if (!job)
		return false;
	memcpy(watch->job_id, job->record->id, sizeof(watch->job_id));
	watch->next = job->watches;
	job->watches = watch;
	watch_tell(watch, job->record->state, job->record->attempt, job->committed,
		jobs->stopping && job_waits(job));
	return true;
}

void jobs_unwatch(struct jobs *jobs, struct watch *watch)
{
	struct job *job = find(jobs, watch->job_id);

	if (!job)
		return;
	for (struct watch **at = &job->watches; *at; at = &(*at)->next) {
		if (*at == watch) {
			*at = watch->next;
			return;
		}
	}
}

void jobs_each_vm(struct jobs *jobs,
	void (*visit)(void *arg, const struct vm_facts *vm, const char *job_id), void *arg)
{
	for (struct job *job = jobs->vms; job; job = job->next_vm) {
		if (job->vm.id[0])
			visit(arg, &job->vm, job->record->id);
	}
	pools_each_vm(jobs->pools, visit, arg);
}
