/* The attempts of a job one by one: those that another followed are in the store, the last one is
 * the job's own record. */
#include "orchestrator/control_private.h"

#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/attempt_files.h"
#include "orchestrator/retry.h"

struct look {
	const char *id;
	unsigned wanted; /* 0: all */
	struct job_record *found[LIMIT_ATTEMPTS + RETRY_MAX_STARTS];
	size_t n;
};

static int keep(void *arg, const struct job_record *record, struct error **err)
{
	struct look *look = arg;

	(void)err;
	if ((!look->wanted || look->wanted == record->attempt) && look->n < ARRAY_SIZE(look->found))
		look->found[look->n++] = job_record_copy(record);
	return 0;
}

static int store_attempts(struct store *store, void *arg, struct error **err)
{
	struct look *look = arg;

	return store->ops->attempts(store, look->id, keep, look, err);
}

static void look_clear(struct look *look)
{
	for (size_t i = 0; i < look->n; i++)
		job_record_free(look->found[i]);
	look->n = 0;
}

/* What the attempt has of its own takes the place of the job's. */
static void narrow(struct job_record *record, struct job_record *attempt)
{
	record->attempt = attempt->attempt;
	record->epoch = attempt->epoch;
	record->state = JOB_FINISHED;
	record->restarts = attempt->restarts;
	record->not_before = attempt->not_before;
	memcpy(record->vm, attempt->vm, sizeof(record->vm));
	job_result_clear(&record->result);
	record->result = attempt->result;
	memset(&attempt->result, 0, sizeof(attempt->result));
}

int control_get_attempt(struct daemon *daemon, const char *id, unsigned n, struct job_record **ret,
	struct error **err)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	struct look look = {.id = id, .wanted = n};
	uint32_t position;

	if (control_get(daemon, id, &record, &position, err) < 0)
		return -1;
	if (n && store_queue_call(daemon->queue, store_attempts, &look, err) < 0) {
		look_clear(&look);
		return -1;
	}
	if (look.n)
		narrow(record, look.found[0]);
	look_clear(&look);
	if (n && record->attempt != n)
		return error_set(err, ERR_NOT_FOUND, "job %s has no attempt %u; so far there %s %u",
			id, n, record->attempt == 1 ? "was" : "were", record->attempt);
	*ret = steal_ptr(record);
	return 0;
}

/* Nearly all jobs have but one attempt, and are not asked for more. */
bool control_may_have_earlier(const struct job_record *record)
{
	return record->attempt && (record->attempt > 1 || record->restarts || record->spec->retry ||
					  record->state == JOB_QUEUED);
}

void control_add_earlier(
	struct daemon *daemon, const struct job_record *record, Control__V1__JobInfo *info)
{
	_cleanup_free_ char *dir = config_job_dir(daemon->config, record->id);
	_cleanup_error_ struct error *err = NULL;
	struct look look = {.id = record->id};

	if (!control_may_have_earlier(record))
		return;
	if (store_queue_call(daemon->queue, store_attempts, &look, &err) < 0)
		log_warn(record->id, "%s", err->text);
	info->earlier = look.n ? xcalloc(look.n, sizeof(*info->earlier)) : NULL;
	for (size_t i = 0; i < look.n; i++) {
		_cleanup_free_ char *files = attempt_files_dir(dir, look.found[i]->attempt);

		info->earlier[info->n_earlier++] =
			record_to_info(look.found[i], files, RECORD_EARLIER);
	}
	look_clear(&look);
}
