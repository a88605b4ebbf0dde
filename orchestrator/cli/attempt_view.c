#include "orchestrator/cli/attempt_view.h"

#include "common/util.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/job.h"

const struct output_type attempt_columns = {
	.name_key = "attempt",
	.columns =
		(const struct output_column[]){
			{.title = "ATTEMPT", .key = "attempt", .right = true},
			{.title = "STATUS", .key = "status"},
			{.title = "EXIT", .key = "exit_code", .right = true},
			{.title = "STARTED", .key = "times_usec.started", .kind = COLUMN_TIME},
			{.title = "ENDED", .key = "times_usec.recorded", .kind = COLUMN_TIME},
			{.title = "ERROR", .key = "error", .gives = true},
			{.title = NULL},
		},
};

/* The job's own view of it, without what all attempts have in common. */
static json_t *attempt_view(const Control__V1__JobInfo *info)
{
	static const char *const common[] = {"id", "name", "image", "command", "labels", "state",
		"share", "priority", "retry", "retried_from", "restarts", "queue_position",
		"inputs", "artifacts", "earlier_attempts"};
	json_t *object = job_view(info);

	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		json_object_del(object, common[i]);
	return object;
}

json_t *attempt_views(const Control__V1__JobInfo *info)
{
	json_t *array = json_array();

	for (size_t i = 0; i < info->n_earlier; i++)
		json_array_append_new(array, attempt_view(info->earlier[i]));
	return array;
}

static char *in_so_long(uint64_t ms)
{
	if (!ms)
		return xstrdup("now");
	if (ms < 60000)
		return str_printf("in %llu s", (unsigned long long)(ms + 999) / 1000);
	_cleanup_free_ char *text = format_duration(ms);
	return str_printf("in %s", text);
}

char *attempt_note(
	const Control__V1__JobInfo *ended, const Job__V1__Retry *retry, uint64_t now_usec)
{
	uint64_t ms = ended->not_before > now_usec ? (ended->not_before - now_usec) / 1000 : 0;
	_cleanup_free_ char *when = in_so_long(ms), *of = NULL;

	/* One that does not count has no time to wait for. */
	if (ended->not_before && retry)
		of = str_printf(" of %u", retry->max_attempts + ended->restarts);
	return str_printf("job %s: attempt %u%s ended: %s%s%s; the next starts %s", ended->id,
		ended->attempt, of ? of : "", job_outcome_name((enum job_outcome)ended->outcome),
		ended->error ? ": " : "", ended->error ? ended->error : "", when);
}
