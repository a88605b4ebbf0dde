#include "orchestrator/recover.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/retry.h"
#include "orchestrator/vm_note.h"

struct found {
	struct job_record **records;
	size_t n;
};

static int keep(void *arg, const struct job_record *record, struct error **err)
{
	struct found *found = arg;

	(void)err;
	found->records = xreallocarray(found->records, found->n + 1, sizeof(*found->records));
	found->records[found->n++] = job_record_copy(record);
	return 0;
}

static void found_free(struct found *found)
{
	for (size_t i = 0; i < found->n; i++)
		job_record_free(found->records[i]);
	free(found->records);
}

/* What becomes of a job that was not finished. */
enum fate {
	FATE_QUEUED, /* it waits, as it did */
	FATE_ADOPT,  /* its VM runs: it is taken up */
	FATE_LOST,   /* its VM is gone, or never came to be: the attempt has ended */
};

/* Notes of the VMs that may be taken up, by the jobs' place in found. */
struct candidates {
	struct vm_note *notes;	/* owned; id[0] == 0: none */
	struct host_left *left; /* owned; borrows the ids */
	size_t n_left;
};

static void candidates_free(struct candidates *candidates)
{
	free(candidates->left);
	free(candidates->notes);
}

static void find_candidates(
	const struct config *config, const struct found *found, struct candidates *ret)
{
	ret->notes = xcalloc(found->n, sizeof(*ret->notes));
	ret->left = xcalloc(found->n, sizeof(*ret->left));
	for (size_t i = 0; i < found->n; i++) {
		const struct job_record *record = found->records[i];
		_cleanup_free_ char *dir = config_job_dir(config, record->id);
		_cleanup_error_ struct error *err = NULL;
		struct vm_note *note = &ret->notes[i];

		if (record->state == JOB_QUEUED)
			continue;
		if (vm_note_read(dir, note, &err) < 0 || note->attempt != record->attempt) {
			if (err && err->code != ERR_NOT_FOUND)
				log_warn(record->id, "%s", err->text);
			note->id[0] = 0;
			continue;
		}
		ret->left[ret->n_left++] = (struct host_left){
			.id = note->id, .qemu = note->qemu, .qemu_start = note->qemu_start};
	}
}

static bool is_there(const struct candidates *candidates, const char *vm_id)
{
	for (size_t i = 0; i < candidates->n_left; i++)
		if (str_eq(candidates->left[i].id, vm_id))
			return candidates->left[i].there;
	return false;
}

static enum fate decide(
	const struct job_record *record, const struct vm_note *note, const struct candidates *all)
{
	if (record->state == JOB_QUEUED)
		return FATE_QUEUED;
	return note->id[0] && is_there(all, note->id) ? FATE_ADOPT : FATE_LOST;
}

static void merge_times(struct job_record *record, const struct vm_note *note)
{
	for (size_t i = 0; i < STAGES; i++)
		if (!record->result.times[i])
			record->result.times[i] = note->times[i];
}

/* The attempt's terminal record, and the job back in the queue. */
static int requeue(struct store *store, struct job_record **record, enum retry_answer answer,
	uint64_t not_before, struct error **err)
{
	_cleanup_job_record_ struct job_record *ended = *record;

	*record = record_back_in_queue(ended, not_before);
	if (answer == RETRY_RESTART)
		(*record)->restarts++;
	ended->state = JOB_FINISHED;
	ended->not_before = not_before;
	log_info(ended->id, "%s: it waits again", ended->result.error);
	return store->ops->requeue(store, ended, *record, err);
}

static int end_lost(struct store *store, struct job_record **found, const struct vm_note *note,
	struct error **err)
{
	struct job_record *record = *found;
	struct job_result *result = &record->result;
	/* The note is written just before the program is ordered to start. */
	bool interrupted = record->state == JOB_STARTING && !note->id[0];
	struct retry_end end = {
		.policy = record->spec->retry,
		.attempt = record->attempt,
		.restarts = record->restarts,
		.outcome = OUTCOME_INFRA,
		.interrupted = interrupted,
	};
	uint64_t now = now_real_usec(), not_before;
	uint32_t random;

	merge_times(record, note);
	result->outcome = OUTCOME_INFRA;
	result->exit_code = EXIT_INFRA;
	free(result->error);
	result->error =
		xstrdup(interrupted ? "the daemon ended before the program began"
				    : "the daemon ended while the job ran, and its VM with it");
	result->times[STAGE_RECORDED] = now;
	random_bytes(&random, sizeof(random));
	enum retry_answer answer = retry_decide(&end, now, random, &not_before);
	if (answer != RETRY_NO)
		return requeue(store, found, answer, not_before, err);
	log_warn(record->id, "was %s when the daemon ended, and its VM is gone",
		job_state_name(record->state));
	record->state = JOB_FINISHED;
	return store->ops->finish(store, record, err);
}

/* *found is replaced by the record as it is from now on. */
static int settle(struct store *store, struct job_record **found, const struct vm_note *note,
	const struct candidates *all, struct error **err)
{
	struct job_record *record = *found;

	switch (decide(record, note, all)) {
	case FATE_QUEUED:
		return 0;
	case FATE_ADOPT:
		merge_times(record, note);
		record->epoch++;
		return store->ops->take_over(store, record, err);
	case FATE_LOST:
		return end_lost(store, found, note, err);
	}
	return 0;
}

static int settle_all(struct store *store, const struct found *found, const struct candidates *all,
	struct error **err)
{
	if (store->ops->begin(store, err) < 0)
		return -1;
	for (size_t i = 0; i < found->n; i++) {
		if (settle(store, &found->records[i], &all->notes[i], all, err) < 0) {
			store->ops->rollback(store);
			return -1;
		}
	}
	if (store->ops->commit(store, err) == 0)
		return 0;
	store->ops->rollback(store);
	return -1;
}

/* Those that are not finished stay in found. */
static void take_unfinished(const struct config *config, struct found *found)
{
	size_t n = 0;

	for (size_t i = 0; i < found->n; i++) {
		if (found->records[i]->state != JOB_FINISHED) {
			found->records[n++] = found->records[i];
			continue;
		}
		_cleanup_free_ char *dir = config_job_dir(config, found->records[i]->id);
		vm_note_remove(dir);
		job_record_free(found->records[i]);
	}
	found->n = n;
}

/* A directory without a job is a submission that was never acknowledged. */
static void sweep_directory(const char *jobs_dir, const char *name, struct store *store)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *path = str_printf("%s/%s", jobs_dir, name);

	if (!job_id_prefix_valid(name))
		return; /* not ours */
	if (store->ops->get(store, name, &record, &err) == 0) {
		/* Its VM is gone, but its daemon did not live to forget it. */
		if (record->state == JOB_FINISHED || record->state == JOB_QUEUED)
			vm_note_remove(path);
		return;
	}
	if (err->code != ERR_NOT_FOUND)
		return;
	error_free(steal_ptr(err));
	if (remove_tree(path, &err) < 0)
		log_warn(name, "%s", err->text);
}

static void sweep_directories(const struct config *config, struct store *store)
{
	_cleanup_free_ char *jobs_dir = config_job_dir(config, "");
	DIR *dir = opendir(jobs_dir);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		sweep_directory(jobs_dir, entry->d_name, store);
	closedir(dir);
}

int recover(const struct config *config, struct host *host, struct store *store,
	struct job_record ***ret_found, size_t *ret_n, struct error **err)
{
	_cleanup_error_ struct error *sweep_err = NULL;
	struct candidates candidates = {0};
	struct found found = {0};

	FAILPOINT("recover.begin");
	int r = store->ops->unfinished(store, keep, &found, err);
	if (r == 0) {
		find_candidates(config, &found, &candidates);
		/* Without libvirt the daemon still answers for its records. */
		if (host_sweep(host, candidates.left, candidates.n_left, &sweep_err) < 0)
			log_warn("host", "%s; it is done when libvirt answers", sweep_err->text);
		FAILPOINT("recover.swept");
		r = settle_all(store, &found, &candidates, err);
	}
	FAILPOINT("recover.settled");
	candidates_free(&candidates);
	if (r < 0) {
		found_free(&found);
		return error_wrap(err, "taking up the jobs of an earlier daemon");
	}
	take_unfinished(config, &found);
	sweep_directories(config, store);
	FAILPOINT("recover.end");
	*ret_found = found.records;
	*ret_n = found.n;
	return 0;
}
