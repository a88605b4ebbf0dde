/* orchestrator wait */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/attempt_view.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/cli/reconnect.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"

/* One question to the daemon waits no longer than this, so that its death is noticed. */
#define SLICE_MS UINT64_C(20000)

static const struct cli_option options[] = {
	{'t', "timeout", "TIME", "give up after this long: 90s, 10m"},
	{0, NULL, NULL, NULL},
};

static const struct output_type columns = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "STATUS", .key = "status"},
			{.title = "EXIT", .key = "exit_code", .right = true},
			{.title = NULL},
		},
};

struct waiting {
	const struct cli *cli;	/* borrowed */
	struct rpc_peer **peer; /* borrowed */
	uint64_t deadline;	/* monotonic */
	uint64_t since_usec;	/* by the clock on the wall */
};

/* Tell of the attempts that ended while we wait. */
static void note_attempts(const struct waiting *w, size_t *seen, const Control__V1__JobInfo *info)
{
	for (; *seen < info->n_earlier; ++*seen) {
		const Control__V1__JobInfo *earlier = info->earlier[*seen];

		if (!earlier->times || earlier->times->recorded < w->since_usec)
			continue;
		_cleanup_free_ char *note =
			attempt_note(earlier, info->spec->retry, now_real_usec());
		cli_note(w->cli, "%s", note);
	}
}

/* One slice: 1 the job ended and *ret_info is it, 0 not yet. *seen: how many of its attempts have
 * been looked at. */
static int wait_slice(const struct waiting *w, const char *id, uint64_t ms, size_t *seen,
	Control__V1__JobInfo **ret_info, struct error **err)
{
	Control__V1__WaitRequest request = CONTROL__V1__WAIT_REQUEST__INIT;
	_cleanup_message_ Control__V1__JobInfo *info = NULL;
	_cleanup_error_ struct error *why = NULL;

	request.id = (char *)(uintptr_t)id;
	request.has_timeout_ms = true;
	request.timeout_ms = ms;
	request.has_attempts = true;
	request.attempts = (uint32_t)*seen;
	if (connect_call(*w->peer, &control_wait, &request, (int)(ms + 10000), &info, &why) < 0)
		return why->code == ERR_TIMEOUT ? 0 : error_move(err, steal_ptr(why));
	note_attempts(w, seen, info);
	if (info->state != CONTROL__V1__STATE__FINISHED) {
		/* Also those of which there is no record, from before there were any. */
		size_t ended = info->attempt -
			       (info->attempt && info->state != CONTROL__V1__STATE__QUEUED);
		*seen = MAX(*seen, ended);
		return 0;
	}
	*ret_info = steal_ptr(info);
	return 1;
}

static int wait_job(const struct waiting *w, const char *id, Control__V1__JobInfo **ret_info,
	struct error **err)
{
	struct reconnect reconnect = {0};
	_cleanup_free_ char *what = str_printf("job %s was waited for", id);
	size_t seen = 0;

	for (;;) {
		_cleanup_error_ struct error *why = NULL;
		uint64_t now = now_mono_usec();
		uint64_t left = w->deadline > now ? (w->deadline - now) / 1000 : 0;
		int r = wait_slice(w, id, MIN(left, SLICE_MS), &seen, ret_info, &why);

		if (r > 0)
			return 0;
		if (r == 0 && now >= w->deadline)
			return error_set(
				err, ERR_TIMEOUT, "job %s has not ended in time; it goes on", id);
		if (r == 0) {
			reconnect_good(&reconnect);
			continue;
		}
		if (why->code != ERR_UNAVAILABLE)
			return error_move(err, steal_ptr(why));
		if (reconnect_daemon(w->cli, &reconnect, what, w->peer, err) < 0)
			return -1;
	}
}

static int run(const struct cli *cli, int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	struct output output = output_stdout(cli);
	const char *timeout = cli_value(cli, "timeout");
	uint64_t ms, deadline = UINT64_MAX;
	int code = cli_operands(cli, argc, argv, 1, -1, "a job's id, or several");

	if (code)
		return code;
	if (timeout && parse_duration(timeout, &ms) < 0)
		return cli_usage(
			cli, "--timeout '%s': not a duration; write it as 90s or 10m", timeout);
	if (timeout)
		deadline = now_mono_usec() + MIN(ms, UINT64_C(1) << 40) * 1000;
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	struct waiting waiting = {cli, &peer, deadline, now_real_usec()};
	json_t *rows = json_array();
	for (int i = 1; i < argc && !err; i++) {
		_cleanup_message_ Control__V1__JobInfo *info = NULL;
		if (wait_job(&waiting, argv[i], &info, &err) < 0)
			break;
		json_array_append_new(rows, job_view(info));
		code = code ? code : job_exit_code(info);
	}
	if (json_array_size(rows) || !err)
		output_list(&output, &columns, rows);
	json_decref(rows);
	if (!err)
		return code;
	bool late = err->code == ERR_TIMEOUT;
	int ours = cli_fail(cli, steal_ptr(err));
	return late ? EXIT_TIMEOUT : ours;
}

const struct cli_command command_wait = {
	.name = "wait",
	.summary = "Wait until jobs have ended",
	.synopsis = "[--timeout TIME] ID...",
	.about = "Exits with 0 if all of them succeeded, else with the code of the first that did "
		 "not; with\n"
		 "124 when --timeout is over.",
	.options = options,
	.example = "id=$(orchestrator submit job.yaml) && orchestrator wait --timeout 10m $id",
	.run = run,
};
