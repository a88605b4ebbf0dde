#include "orchestrator/recover.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/util.h"

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

static int end_lost(struct store *store, struct job_record *record, struct error **err)
{
	struct job_result *result = &record->result;

	log_warn(record->id, "was %s when the daemon ended", job_state_name(record->state));
	record->state = JOB_FINISHED;
	result->outcome = OUTCOME_INFRA;
	result->exit_code = EXIT_INFRA;
	free(result->error);
	result->error = xstrdup("the daemon ended while the job ran");
	result->times[STAGE_RECORDED] = now_real_usec();
	return store->ops->finish(store, record, err);
}

static int end_all_lost(struct store *store, struct found *found, struct error **err)
{
	if (store->ops->begin(store, err) < 0)
		return -1;
	for (size_t i = 0; i < found->n; i++) {
		struct job_record *record = found->records[i];

		if (record->state != JOB_QUEUED && end_lost(store, record, err) < 0) {
			store->ops->rollback(store);
			return -1;
		}
	}
	if (store->ops->commit(store, err) == 0)
		return 0;
	store->ops->rollback(store);
	return -1;
}

/* The queued ones stay in found. */
static void take_queued(struct found *found)
{
	size_t n = 0;

	for (size_t i = 0; i < found->n; i++) {
		if (found->records[i]->state == JOB_QUEUED)
			found->records[n++] = found->records[i];
		else
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
	if (store->ops->get(store, name, &record, &err) == 0 || err->code != ERR_NOT_FOUND)
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
	struct job_record ***ret_queued, size_t *ret_n, struct error **err)
{
	_cleanup_error_ struct error *sweep_err = NULL;
	struct found found = {0};

	/* Without libvirt the daemon still answers for its records. */
	if (host_sweep(host, &sweep_err) < 0)
		log_warn("host", "could not look for what was left behind: %s", sweep_err->text);
	if (store->ops->unfinished(store, keep, &found, err) < 0 ||
		end_all_lost(store, &found, err) < 0) {
		found_free(&found);
		return error_wrap(err, "taking up the jobs of an earlier daemon");
	}
	take_queued(&found);
	sweep_directories(config, store);
	*ret_queued = found.records;
	*ret_n = found.n;
	return 0;
}
