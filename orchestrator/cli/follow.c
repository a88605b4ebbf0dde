/* Theory of operation: one Logs call carries the job's bytes and its changes of state, and ends
 * with its record. If the daemon goes away in between, a new call takes up at the bytes counted
 * here (reconnect.h). Ctrl-C cancels the call (interrupt.h), never the job. */
#include "orchestrator/cli/follow.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/cli/attempt_view.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/interrupt.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/progress.h"
#include "orchestrator/cli/reconnect.h"
#include "orchestrator/cli/report.h"
#include "orchestrator/cli/sink.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"

/* A connection counts as good when it brought output, or lived so long. */
#define GOOD_CONNECTION_USEC UINT64_C(10000000)
#define TICK_MS		     1000

struct follow {
	const struct cli *cli;		      /* borrowed */
	const struct follow_options *options; /* borrowed */
	const char *id;			      /* borrowed */
	struct rpc_peer **peer;		      /* borrowed */
	struct progress progress;
	struct sink out, err;
	unsigned attempt;  /* whose output comes; 0: the last one's, not known yet which */
	uint64_t taken[2]; /* bytes of its stdout (or console) and stderr so far */
	struct reconnect reconnect;
	uint64_t skip; /* of the console, which is sent from its beginning */
	enum job_state state;
	uint64_t state_since;	     /* monotonic */
	Control__V1__JobInfo *ended; /* owned */
};

enum step { STEP_AGAIN, STEP_ENDED, STEP_LOST, STEP_FAILED, STEP_NO_READER };

static const char *ordinal(uint32_t n)
{
	if (n % 100 >= 11 && n % 100 <= 13)
		return "th";
	return n % 10 == 1 ? "st" : n % 10 == 2 ? "nd" : n % 10 == 3 ? "rd" : "th";
}

static void show_queued(struct follow *f)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	_cleanup_message_ Control__V1__JobInfo *info = NULL;

	request.id = (char *)(uintptr_t)f->id;
	if (connect_call(*f->peer, &control_get_job, &request, TICK_MS, &info, NULL) < 0 ||
		!info->has_queue_position || info->queue_position == 0)
		progress_show(&f->progress, "job %s: queued", f->id);
	else if (info->queue_position == 1)
		progress_show(&f->progress, "job %s: queued (next)", f->id);
	else
		progress_show(&f->progress, "job %s: queued (%u%s)", f->id, info->queue_position,
			ordinal(info->queue_position));
}

static void show_progress(struct follow *f)
{
	uint64_t seconds = (now_mono_usec() - f->state_since) / 1000000;
	char time[32] = "";

	if (!progress_is_seen(&f->progress))
		return;
	if (seconds && f->progress.terminal)
		snprintf(time, sizeof(time), " %llus", (unsigned long long)seconds);
	switch (f->state) {
	case JOB_QUEUED:
		show_queued(f);
		break;
	case JOB_STARTING:
		progress_show(&f->progress, "job %s: booting its VM\xe2\x80\xa6%s", f->id, time);
		break;
	case JOB_RUNNING:
		progress_show(&f->progress, "job %s: running\xe2\x80\xa6%s", f->id, time);
		break;
	case JOB_COLLECTING:
		progress_show(
			&f->progress, "job %s: fetching its files\xe2\x80\xa6%s", f->id, time);
		break;
	case JOB_FINISHED:
		break;
	}
}

static int take_data(struct follow *f, const Control__V1__LogsReply *reply)
{
	bool is_err = reply->stream == CONTROL__V1__LOGS_REPLY__STREAM__STDERR;
	const uint8_t *data = reply->data.data;
	size_t n = reply->data.len;

	if (f->skip) {
		size_t skip = (size_t)MIN((uint64_t)n, f->skip);
		f->skip -= skip;
		data += skip;
		n -= skip;
	}
	if (!n)
		return 0;
	progress_end(&f->progress);
	f->taken[is_err] += n;
	return sink_write(is_err ? &f->err : &f->out, data, n);
}

/* Our own words begin on a line of their own. */
static void fresh_line(const struct follow *f)
{
	bool mid = (f->out.mid_line && isatty(STDOUT_FILENO)) || f->err.mid_line;

	if (mid && isatty(STDERR_FILENO) && write_all(STDERR_FILENO, "\n", 1) < 0)
		return;
}

/* One attempt is over, and the next one's output begins at its beginning. */
static void begin_next(struct follow *f, const Control__V1__JobInfo *ended)
{
	_cleanup_free_ char *note = attempt_note(ended, ended->spec->retry, now_real_usec());

	progress_clear(&f->progress);
	fresh_line(f);
	cli_note(f->cli, "%s", note);
	f->attempt = ended->attempt + 1;
	f->taken[0] = f->taken[1] = f->skip = 0;
}

static enum step take_reply(struct follow *f, Control__V1__LogsReply *reply)
{
	if (reply->has_data && take_data(f, reply) < 0)
		return STEP_NO_READER;
	/* To go on there, should the daemon go away. */
	if (reply->has_attempt)
		f->attempt = reply->attempt;
	if (reply->has_state && (enum job_state)reply->state != f->state) {
		f->state = (enum job_state)reply->state;
		f->state_since = now_mono_usec();
		show_progress(f);
	}
	if (reply->retried)
		begin_next(f, reply->retried);
	if (reply->ended) {
		f->ended = steal_ptr(reply->ended);
		return STEP_ENDED;
	}
	return STEP_AGAIN;
}

static struct rpc_call *open_logs(struct follow *f, struct error **err)
{
	Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
	struct rpc_call *call = rpc_open(*f->peer, &control_logs, -1, err);

	if (!call)
		return NULL;
	request.id = (char *)(uintptr_t)f->id;
	request.has_follow = request.has_console = true;
	request.follow = f->options->follow;
	request.console = f->options->console;
	request.has_attempt = f->attempt != 0;
	request.attempt = f->attempt;
	if (f->options->console) {
		f->skip = f->taken[0];
	} else {
		request.has_stdout_offset = request.has_stderr_offset = true;
		request.stdout_offset = f->taken[0];
		request.stderr_offset = f->taken[1];
	}
	if (rpc_send(call, &request.base, err) < 0 || rpc_close_send(call, err) < 0) {
		rpc_close(call);
		return NULL;
	}
	return call;
}

static bool is_lost(const struct error *err)
{
	return err->code == ERR_UNAVAILABLE;
}

/* Take replies until something other than a reply happens. */
static enum step read_logs(struct follow *f, struct rpc_call *call, struct error **err)
{
	for (;;) {
		_cleanup_message_ ProtobufCMessage *message = NULL;
		_cleanup_error_ struct error *why = NULL;
		enum step step;
		int r = rpc_recv(
			call, progress_is_seen(&f->progress) ? TICK_MS : -1, &message, &why);

		if (r > 0) {
			step = take_reply(f, (Control__V1__LogsReply *)message);
			if (step != STEP_AGAIN)
				return step;
		} else if (r == 0 && !f->options->follow) {
			return STEP_ENDED;
		} else if (r == 0) {
			error_set(err, ERR_UNAVAILABLE,
				"the daemon ended the stream before the job did");
			return STEP_LOST;
		} else if (why->code == ERR_TIMEOUT && !rpc_call_cancelled(call)) {
			show_progress(f);
		} else {
			step = is_lost(why) ? STEP_LOST : STEP_FAILED;
			error_move(err, steal_ptr(why));
			return step;
		}
	}
}

static enum step follow_once(struct follow *f, struct error **err)
{
	struct rpc_call *call = open_logs(f, err);

	if (!call)
		return err && *err && is_lost(*err) ? STEP_LOST : STEP_FAILED;
	interrupt_watch(call);
	enum step step = read_logs(f, call, err);
	interrupt_watch(NULL);
	rpc_close(call);
	return step;
}

static int reconnect(struct follow *f, struct error **err)
{
	_cleanup_free_ char *what = str_printf(
		"job %s was %s", f->id, f->state ? job_state_name(f->state) : "under way");

	progress_clear(&f->progress);
	if (f->cli->verbose)
		cli_note(f->cli, "the daemon went away, looking for it once more");
	if (reconnect_daemon(f->cli, &f->reconnect, what, f->peer, err) == 0)
		return 0;
	/* *err may be NULL only where the caller does not care; ours does. */
	if (!*f->peer && (*err)->code == ERR_UNAVAILABLE) {
		_cleanup_error_ struct error *why = steal_ptr(*err);

		error_set(err, why->code, "%s; more: orchestrator status %s", why->text, f->id);
	}
	return -1;
}

static int detach(struct follow *f, int code)
{
	fresh_line(f);
	if (f->options->follow)
		cli_note(f->cli,
			"job %s goes on; re-attach: orchestrator logs -f %s; cancel: orchestrator "
			"cancel %s",
			f->id, f->id, f->id);
	return code;
}

static int run(struct follow *f)
{
	_cleanup_error_ struct error *err = NULL;

	for (;;) {
		uint64_t since = now_mono_usec(), taken = f->taken[0] + f->taken[1];
		enum step step = follow_once(f, &err);

		if (step == STEP_NO_READER) {
			int why = errno;
			if (why == EPIPE)
				return detach(f, 128 + SIGPIPE);
			error_errno(&err, why, "writing the output");
			return detach(f, cli_fail(f->cli, steal_ptr(err)));
		}
		if (step == STEP_ENDED) {
			sink_end(&f->out);
			sink_end(&f->err);
			progress_end(&f->progress);
			return f->options->follow && f->ended ? job_exit_code(f->ended) : 0;
		}
		progress_clear(&f->progress);
		if (interrupt_signal())
			return detach(f, 128 + interrupt_signal());
		if (f->taken[0] + f->taken[1] != taken ||
			now_mono_usec() - since >= GOOD_CONNECTION_USEC)
			reconnect_good(&f->reconnect);
		_cleanup_error_ struct error *why = NULL;
		if (step == STEP_FAILED || reconnect(f, &why) < 0) {
			if (interrupt_signal())
				return detach(f, 128 + interrupt_signal());
			fresh_line(f);
			return cli_fail(f->cli, why ? steal_ptr(why) : steal_ptr(err));
		}
		error_free(steal_ptr(err));
	}
}

/* For -o json: the code that says best what the outcome says. */
static enum err_code outcome_code(const Control__V1__JobInfo *info)
{
	switch ((int)info->outcome) {
	case JOB__V1__OUTCOME__TIMEOUT:
		return ERR_TIMEOUT;
	case JOB__V1__OUTCOME__CANCELLED:
		return ERR_CANCELLED;
	case JOB__V1__OUTCOME__OOM_GUEST:
	case JOB__V1__OUTCOME__OOM_HOST:
		return ERR_LIMIT;
	case JOB__V1__OUTCOME__AGENT_LOST:
	case JOB__V1__OUTCOME__BOOT_FAILED:
		return ERR_UNAVAILABLE;
	case JOB__V1__OUTCOME__INFRA:
		return ERR_INTERNAL;
	default:
		return ERR_UNKNOWN;
	}
}

/* On stderr, after the end: what happened if the job did not simply end by itself, and what was cut
 * off. */
static void report_end(const struct cli *cli, const Control__V1__JobInfo *info)
{
	_cleanup_free_ char *what = job_what_happened(info);
	bool vm_failed =
		info->has_outcome && (info->outcome == JOB__V1__OUTCOME__GUEST_PANIC ||
					     info->outcome == JOB__V1__OUTCOME__BOOT_FAILED ||
					     info->outcome == JOB__V1__OUTCOME__AGENT_LOST);

	if (info->stdout_truncated || info->stderr_truncated)
		cli_note(cli,
			"job %s wrote more than limits.output to %s; the rest was counted and "
			"dropped",
			info->id,
			!info->stderr_truncated	  ? "stdout"
			: !info->stdout_truncated ? "stderr"
						  : "stdout and stderr");
	if (info->left_out)
		cli_note(cli, "job %s: left out of the outputs: %s", info->id, info->left_out);
	if (!what)
		return;
	_cleanup_free_ char *text = str_printf("job %s %s; more: orchestrator %s %s", info->id,
		what, vm_failed ? "logs --console" : "status", info->id);
	struct error end = {.code = outcome_code(info), .text = text};
	report_error(cli, &end);
}

int follow_job(const struct cli *cli, struct rpc_peer **peer, const char *id,
	const struct follow_options *options, Control__V1__JobInfo **ret_ended)
{
	struct follow f = {
		.cli = cli,
		.options = options,
		.id = id,
		.attempt = options->attempt,
		.peer = peer,
		.progress = progress_begin(cli),
		.out = sink_new(STDOUT_FILENO, options->raw),
		.err = sink_new(STDERR_FILENO, options->raw),
		.state_since = now_mono_usec(),
	};

	if (!options->follow)
		progress_end(&f.progress);
	fflush(stdout);
	signal(SIGPIPE, SIG_IGN); /* a reader that left is an errno, and a note */
	interrupt_hold();
	int code = run(&f);
	progress_end(&f.progress);
	if (f.ended && options->follow) {
		fresh_line(&f);
		report_end(cli, f.ended);
	}
	if (ret_ended)
		*ret_ended = steal_ptr(f.ended);
	if (f.ended)
		rpc_message_free(&f.ended->base);
	return code;
}
