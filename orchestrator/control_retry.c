/* Retry: a job that has ended is submitted again, as a new job of its own with the same spec and
 * the same inputs. */
#include "orchestrator/control_private.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/jobspec.h"
#include "orchestrator/link_tree.h"

static int check_ended(const struct job_record *old, struct error **err)
{
	if (old->state == JOB_FINISHED)
		return 0;
	return error_set(err, ERR_STATE,
		"job %s is still %s, and can be retried when it has ended; to end it: orchestrator "
		"cancel %s",
		old->id, job_state_name(old->state), old->id);
}

static struct job_record *make_record(struct rpc_call *call, const struct job_record *old)
{
	struct job_record *record = job_record_new();

	job_id_make(now_real_usec(), record->id);
	record->state = JOB_QUEUED;
	record->spec = jobspec_copy(old->spec);
	record->inputs = input_list_ref(old->inputs);
	record->share = record_share_of(record->spec, control_caller(call));
	memcpy(record->retried_from, old->id, sizeof(record->retried_from));
	return record;
}

/* Somebody may have tidied up in the old job's directory. */
static int check_inputs(
	const struct job_record *record, const char *dir, size_t files, struct error **err)
{
	for (size_t i = 0; i < record->spec->n_inputs; i++) {
		_cleanup_free_ char *path = str_printf("%s/inputs/%zu", dir, i);

		if (access(path, F_OK) < 0)
			return error_set(err, ERR_NOT_FOUND, "the input %s is no longer there",
				record->spec->inputs[i]->dest);
	}
	if (record->inputs && record->inputs->n != files)
		return error_set(err, ERR_NOT_FOUND, "of the %zu files of its inputs %zu are left",
			record->inputs->n, files);
	return 0;
}

static int take_inputs(
	struct daemon *daemon, const struct job_record *record, const char *dir, struct error **err)
{
	_cleanup_free_ char *old_dir = config_job_dir(daemon->config, record->retried_from);
	_cleanup_free_ char *from = str_printf("%s/inputs", old_dir);
	_cleanup_free_ char *to = str_printf("%s/inputs", dir);
	size_t files = 0;

	if (access(from, F_OK) < 0 && errno == ENOENT)
		return error_set(err, ERR_NOT_FOUND, "its inputs are no longer there");
	if (link_tree(from, to, &files, err) < 0 || check_inputs(record, dir, files, err) < 0)
		return -1;
	return control_sync_job_dir(daemon->config, dir, err);
}

static int submit_again(struct rpc_call *call, struct daemon *daemon, const struct job_record *old,
	char ret_id[JOB_ID_SIZE], struct error **err)
{
	_cleanup_job_record_ struct job_record *record = make_record(call, old);
	_cleanup_free_ char *dir = config_job_dir(daemon->config, record->id);
	struct queue_demand demand = jobs_demand(record->spec);
	_cleanup_error_ struct error *sweep = NULL;

	if (submit_check_job(daemon, record->spec, NULL, err) < 0 ||
		submit_check_disk(daemon->config, err) < 0 ||
		scheduler_check(&daemon->capacity, &demand, err) < 0)
		return -1;
	if (!record->spec->n_inputs)
		return control_promise(daemon, steal_ptr(record), ret_id, err);
	if (mkdir(dir, 0700) < 0)
		return error_errno(err, errno, "%s", dir);
	FAILPOINT("retry.linking");
	if (take_inputs(daemon, record, dir, err) == 0 &&
		control_promise(daemon, steal_ptr(record), ret_id, err) == 0)
		return 0;
	if (remove_tree(dir, &sweep) < 0)
		log_warn("retry", "%s", sweep->text);
	return -1;
}

int control_handle_retry(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__JobRequest *request = NULL;
	_cleanup_job_record_ struct job_record *old = NULL;
	Control__V1__SubmitReply reply = CONTROL__V1__SUBMIT_REPLY__INIT;
	char id[JOB_ID_SIZE];
	uint32_t position;

	if (control_recv(call, &request, err) < 0 ||
		control_find(daemon, request->id, id, err) < 0 ||
		control_get(daemon, id, &old, &position, err) < 0 || check_ended(old, err) < 0)
		return -1;
	if (submit_again(call, daemon, old, id, err) < 0)
		return error_wrap(err, "job %s cannot be retried", old->id);
	reply.id = id;
	return rpc_send(call, &reply.base, err);
}
