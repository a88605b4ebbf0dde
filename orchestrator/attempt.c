/* The way of one job through its VM, top to bottom in run():
 *
 *   boot -> hello -> inputs -> program -> outputs -> result -> (DONE) -> end (FREED) -> tidy up
 *   -> (GONE)
 *
 * Each step either succeeds or sets the outcome and the words for it, and the rest is skipped.
 *
 * From just before the program until the outcome is recorded there is a note of the VM (vm_note.h).
 * A daemon that finds one takes the VM up instead of booting another, and enters at the program:
 *
 *   adopt -> hello -> attach -> outputs -> ...
 *
 * The worker still has the output that we do not have and the exit, however often it was sent. */
#include "orchestrator/attempt_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/ballast.h"
#include "orchestrator/results.h"
#include "orchestrator/run_exit.h"
#include "orchestrator/warm.h"

/* How long a lost worker's VM may take to say why. */
#define SETTLE_MS   10000
#define STACK_BYTES (512 * KIB)
/* How long the VM waits for its outcome to be recorded. A store that fails so long fails for
 * longer. */
#define RECORD_WAIT_S 20

/* Events. ----------------------------------------------------------------------------------------
 */

void attempt_emit(struct attempt *a, const struct attempt_event *event)
{
	a->listener(a->arg, event);
}

static void write_note(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;

	memcpy(a->note.times, a->result.times, sizeof(a->note.times));
	/* Without it the job is lost if the daemon is; that is no reason to lose it now. */
	while (vm_note_write(a->order->job_dir, &a->note, &err) < 0) {
		if (err->code != ERR_LIMIT || !ballast_give()) {
			log_warn(a->order->job_id, "%s", err->text);
			break;
		}
		error_free(steal_ptr(err));
	}
	a->noted = true;
}

void attempt_stage_at(struct attempt *a, enum job_stage stage, uint64_t usec)
{
	a->result.times[stage] = usec;
	if (a->noted && stage < STAGE_COLLECTED)
		write_note(a);
	attempt_emit(
		a, &(struct attempt_event){.type = ATTEMPT_STAGE, .stage = stage, .usec = usec});
}

void attempt_stage(struct attempt *a, enum job_stage stage_reached)
{
	attempt_stage_at(a, stage_reached, now_real_usec());
}

static void enter_state(struct attempt *a, enum job_state state)
{
	/* One that is taken up may come by the same place twice. */
	if (state <= a->state)
		return;
	a->state = state;
	attempt_emit(a, &(struct attempt_event){.type = ATTEMPT_STATE, .state = state});
}

void attempt_tell_output(struct attempt *a)
{
	attempt_emit(a, &(struct attempt_event){.type = ATTEMPT_OUTPUT,
				.stdout_size = results_kept(a->results, RESULTS_STDOUT),
				.stderr_size = results_kept(a->results, RESULTS_STDERR)});
}

/* Outcomes. --------------------------------------------------------------------------------------
 */

static void conclude(struct attempt *a, enum job_outcome outcome, int exit_code, const char *text)
{
	a->result.outcome = outcome;
	a->result.exit_code = exit_code;
	free(a->result.error);
	a->result.error = xstrdup(text);
}

void attempt_conclude_ours(struct attempt *a, enum job_outcome outcome, const struct error *err)
{
	int code = outcome == OUTCOME_CANCELLED ? EXIT_CANCELLED : EXIT_INFRA;

	conclude(a, outcome, code, err ? err->text : "no reason is known");
}

bool attempt_is_cancelled(struct attempt *a)
{
	pthread_mutex_lock(&a->lock);
	bool cancelled = a->cancelled != NULL;
	pthread_mutex_unlock(&a->lock);
	return cancelled;
}

void attempt_conclude_cancelled(struct attempt *a)
{
	pthread_mutex_lock(&a->lock);
	conclude(a, OUTCOME_CANCELLED, EXIT_CANCELLED,
		a->cancelled ? a->cancelled : "cancelled"); /* by a daemon before us */
	pthread_mutex_unlock(&a->lock);
}

void attempt_conclude_call_failed(struct attempt *a, struct error **err)
{
	switch (attempt_is_cancelled(a) ? ERR_CANCELLED : (*err)->code) {
	case ERR_CANCELLED:
		attempt_conclude_cancelled(a);
		return;
	case ERR_UNAVAILABLE:
	case ERR_TIMEOUT:
	case ERR_DATA_LOSS:
	case ERR_UNKNOWN: {
		enum job_outcome outcome = vm_why_lost(a->vm, SETTLE_MS, err);
		attempt_conclude_ours(a, outcome, *err);
		return;
	}
	default:
		attempt_conclude_ours(a, OUTCOME_INFRA, *err);
	}
}

/* What the worker says about the program's end. */
static void conclude_exit(struct attempt *a, const Worker__V1__RunExit *exit)
{
	pthread_mutex_lock(&a->lock);
	run_exit_conclude(exit, a->order->spec->timeout_ms, a->cancelled, &a->result);
	pthread_mutex_unlock(&a->lock);
}

/* Steps. -----------------------------------------------------------------------------------------
 */

static int send_inputs(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *dir = str_printf("%s/inputs", a->order->job_dir);

	if (guest_put_inputs(a->guest, a->order->spec, dir, &err) < 0) {
		attempt_conclude_call_failed(a, &err);
		return -1;
	}
	FAILPOINT("inputs.sent");
	attempt_stage(a, STAGE_INPUTS_SENT);
	return 0;
}

static void on_started(void *arg)
{
	struct attempt *a = arg;

	if (!a->result.times[STAGE_PROGRAM_STARTED])
		attempt_stage(a, STAGE_PROGRAM_STARTED);
	FAILPOINT("run.started");
	vm_set_state(a->vm, "running");
	enter_state(a, JOB_RUNNING);
	/* It was told to end already, or should have been. */
	if (a->note.cancelled[0])
		guest_interrupt(a->guest);
}

/* Whoever takes up the VM must know that the program does not end by itself, and that nobody wants
 * another attempt. */
static void on_stopping(void *arg)
{
	struct attempt *a = arg;

	pthread_mutex_lock(&a->lock);
	snprintf(a->note.cancelled, sizeof(a->note.cancelled), "%s",
		a->cancelled ? a->cancelled : "cancelled");
	pthread_mutex_unlock(&a->lock);
	write_note(a);
}

static void take_up_cancel(struct attempt *a)
{
	pthread_mutex_lock(&a->lock);
	if (!a->cancelled && a->note.cancelled[0])
		a->cancelled = xstrdup(a->note.cancelled);
	pthread_mutex_unlock(&a->lock);
}

static void on_first_byte(void *arg, uint64_t usec)
{
	const struct attempt *a = arg;

	FAILPOINT("run.first-byte");
	if (!a->result.times[STAGE_FIRST_BYTE])
		attempt_stage_at(arg, STAGE_FIRST_BYTE, usec);
}

static int on_output(
	void *arg, enum guest_stream stream, const void *data, size_t n, struct error **err)
{
	struct attempt *a = arg;
	enum results_stream to = stream == GUEST_STDOUT ? RESULTS_STDOUT : RESULTS_STDERR;
	uint64_t before = results_kept(a->results, to);

	if (results_output(a->results, to, data, n, err) < 0)
		return -1;
	if (results_kept(a->results, to) != before)
		attempt_tell_output(a);
	return 0;
}

/* Start the program, or, in a VM that was taken up, follow it if it was started. */
static int start_or_attach(struct attempt *a, const struct guest_sink *sink,
	Worker__V1__RunExit **ret_exit, struct error **err)
{
	const struct attempt_order *order = a->order;

	if (order->adopted) {
		FAILPOINT("adopt.attach");
		take_up_cancel(a);
		int r = guest_attach(a->guest, order->job_id, order->spec,
			results_kept(a->results, RESULTS_STDOUT),
			results_kept(a->results, RESULTS_STDERR), sink, ret_exit, err);
		if (r == 0 || (*err)->code != ERR_NOT_FOUND ||
			a->result.times[STAGE_PROGRAM_STARTED] || a->note.cancelled[0])
			return r;
		error_free(steal_ptr(*err));
		log_info(order->job_id, "its program had not been started");
	} else {
		vm_fill_note(a->vm, &a->note);
		a->note.attempt = order->number;
		FAILPOINT("run.noting");
		write_note(a);
		FAILPOINT("run.noted");
	}
	return guest_run(a->guest, order->job_id, order->spec, sink, ret_exit, err);
}

static int run_program(struct attempt *a)
{
	const struct guest_sink sink = {
		.started = on_started, .stopping = on_stopping, .output = on_output, .arg = a};
	_cleanup_error_ struct error *err = NULL;
	Worker__V1__RunExit *exit = NULL;

	results_on_first_byte(a->results, on_first_byte, a);
	if (start_or_attach(a, &sink, &exit, &err) < 0) {
		attempt_conclude_call_failed(a, &err);
		return -1;
	}
	FAILPOINT("run.exit");
	if (!a->result.times[STAGE_PROGRAM_ENDED])
		attempt_stage(a, STAGE_PROGRAM_ENDED);
	results_guest_counted(
		a->results, RESULTS_STDOUT, exit->stdout_bytes, exit->stdout_truncated);
	results_guest_counted(
		a->results, RESULTS_STDERR, exit->stderr_bytes, exit->stderr_truncated);
	conclude_exit(a, exit);
	worker__v1__run_exit__free_unpacked(exit, NULL);
	return 0;
}

static int take_record(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	FAILPOINT("outputs.record");
	return results_record(arg, record, err);
}

/* How the program ended is known by now, and stays what the record says; that its outputs are lost
 * is said beside it. But a success without its outputs is none. */
static void collect_failed(struct attempt *a, struct error **err)
{
	enum job_outcome outcome = a->result.outcome;
	int exit_code = a->result.exit_code;
	_cleanup_free_ char *own = steal_ptr(a->result.error);

	attempt_conclude_call_failed(a, err);
	_cleanup_free_ char *why = steal_ptr(a->result.error);
	if (outcome == OUTCOME_SUCCEEDED) {
		a->result.error = str_printf(
			"the program succeeded, but its outputs did not come home: %s", why);
		return;
	}
	a->result.error =
		str_printf("%s; and its outputs did not come home: %s", own ? own : "failed", why);
	a->result.outcome = outcome;
	a->result.exit_code = exit_code;
}

/* What the program made comes home even when it failed: it may say why. Only a success becomes a
 * failure when an output is missing. */
static void collect(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;
	struct results_artifacts got = {0};

	if (a->result.outcome == OUTCOME_CANCELLED)
		return;
	enter_state(a, JOB_COLLECTING);
	FAILPOINT("outputs.begin");
	if (guest_get_outputs(a->guest, a->order->spec, take_record, a->results, &err) < 0 ||
		results_artifacts_finish(a->results, &got, &err) < 0) {
		/* How the program failed says more than that the disk is full. */
		if (err->code == ERR_LIMIT && a->result.outcome != OUTCOME_SUCCEEDED)
			a->result.left_out = xstrdup(err->text);
		else
			collect_failed(a, &err);
		return;
	}
	FAILPOINT("outputs.published");
	if (got.missing && a->result.outcome == OUTCOME_SUCCEEDED) {
		_cleanup_free_ char *text =
			str_printf("a required output is missing: %s", got.missing);
		conclude(a, OUTCOME_FAILED, EXIT_INFRA, text);
	}
	a->result.left_out = steal_ptr(got.skipped);
	a->result.artifacts = steal_ptr(got.artifacts);
	a->result.n_artifacts = got.n_artifacts;
	got.n_artifacts = 0;
	results_artifacts_clear(&got);
	attempt_stage(a, STAGE_COLLECTED);
}

/* The whole. -------------------------------------------------------------------------------------
 */

void attempt_hang_up(struct attempt *a)
{
	pthread_mutex_lock(&a->lock);
	struct guest *guest = steal_ptr(a->guest);
	pthread_mutex_unlock(&a->lock);
	guest_free(guest);
}

static void finish_results(struct attempt *a)
{
	_cleanup_error_ struct error *err = NULL;

	if (!a->results)
		return;
	results_fill(a->results, &a->result);
	if (results_sync(a->results, &err) < 0)
		attempt_conclude_ours(a, OUTCOME_INFRA, err);
	FAILPOINT("results.synced");
	results_close(steal_ptr(a->results));
}

/* A daemon that dies before this finds the VM as it is now, and brings its results home again. */
static void wait_recorded(struct attempt *a)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += RECORD_WAIT_S;
	pthread_mutex_lock(&a->lock);
	while (!a->recorded && pthread_cond_timedwait(&a->changed, &a->lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&a->lock);
}

static void on_freed(void *arg)
{
	attempt_emit(arg, &(struct attempt_event){.type = ATTEMPT_FREED});
}

static void *run(void *arg)
{
	struct attempt *a = arg;

	a->result.times[STAGE_SUBMITTED] = a->order->submitted_usec;
	a->result.times[STAGE_STARTED] = a->order->started_usec;
	bool there = attempt_get_vm(a) == 0 && (a->order->adopted || send_inputs(a) == 0);
	if (there && run_program(a) == 0)
		collect(a);
	if (there)
		vm_fill_wall_again(a->vm, &a->result.wall);
	attempt_hang_up(a);
	finish_results(a);
	attempt_emit(a, &(struct attempt_event){.type = ATTEMPT_DONE, .result = &a->result});
	FAILPOINT("attempt.done");
	wait_recorded(a);
	FAILPOINT("attempt.recorded");
	a->noted = false;
	if (a->vm)
		vm_end(a->vm, on_freed, a);
	vm_destroy(steal_ptr(a->vm));
	warm_free(a->order->warm);
	FAILPOINT("attempt.destroyed");
	vm_note_remove(a->order->job_dir);
	FAILPOINT("attempt.forgotten");
	attempt_stage(a, STAGE_DESTROYED);
	attempt_emit(a, &(struct attempt_event){.type = ATTEMPT_GONE});
	return NULL;
}

struct attempt *attempt_start(struct host *host, const struct attempt_order *order,
	attempt_listener listener, void *arg, struct error **err)
{
	struct attempt *a = xcalloc(1, sizeof(*a));
	pthread_condattr_t cond_attr;
	pthread_attr_t attr;

	a->host = host;
	a->order = order;
	a->listener = listener;
	a->arg = arg;
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&cond_attr);
	pthread_condattr_setclock(&cond_attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->changed, &cond_attr);
	pthread_condattr_destroy(&cond_attr);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	a->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int e = a->cancel_fd < 0 ? errno : pthread_create(&a->thread, &attr, run, a);
	pthread_attr_destroy(&attr);
	if (e) {
		error_errno(err, e, "starting an attempt");
		close_fd(&a->cancel_fd);
		pthread_cond_destroy(&a->changed);
		pthread_mutex_destroy(&a->lock);
		free(a);
		return NULL;
	}
	return a;
}

void attempt_cancel(struct attempt *attempt, const char *why)
{
	pthread_mutex_lock(&attempt->lock);
	if (!attempt->cancelled)
		attempt->cancelled = xstrdup(why);
	eventfd_write(attempt->cancel_fd, 1);
	if (attempt->guest)
		guest_interrupt(attempt->guest);
	pthread_mutex_unlock(&attempt->lock);
}

void attempt_recorded(struct attempt *attempt)
{
	pthread_mutex_lock(&attempt->lock);
	attempt->recorded = true;
	pthread_cond_signal(&attempt->changed);
	pthread_mutex_unlock(&attempt->lock);
}

void attempt_free(struct attempt *attempt)
{
	if (!attempt)
		return;
	pthread_join(attempt->thread, NULL);
	close_fd(&attempt->cancel_fd);
	job_result_clear(&attempt->result);
	image_free(attempt->image);
	pthread_cond_destroy(&attempt->changed);
	pthread_mutex_destroy(&attempt->lock);
	explicit_bzero(&attempt->note, sizeof(attempt->note));
	free(attempt->cancelled);
	free(attempt->console);
	free(attempt);
}
