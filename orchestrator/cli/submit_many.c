/* Jobs without inputs go over one SubmitMany call, some in each message and WINDOW at most on their
 * way; while the daemon commits them, the next files are read. A job with inputs has a call of its
 * own, made when all before it are answered, so that jobs are submitted in the order of the command
 * line.
 *
 * Ctrl-C does not cancel the call: it ends the sending, and what is on its way is waited for. */
#include "orchestrator/cli/submit_many.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/interrupt.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/cli/report.h"
#include "orchestrator/cli/spec_options.h"
#include "orchestrator/control_api.h"
#include "orchestrator/jobspec.h"
#include "orchestrator/record.h"

#define WINDOW	      256
#define BATCH	      64
#define BATCH_BYTES   (512 * KIB) /* of specs; a message holds twice the largest and this */
#define REPLY_MS      UINT64_C(60000)
#define SLICE_MS      100	     /* between two looks at whether a signal came */
#define LAST_REPLY_MS UINT64_C(5000) /* after a signal */

typedef Control__V1__SubmitManyRequest__Job many_job;
typedef Control__V1__SubmitManyReply__Result many_result;

enum state { OPEN, TAKEN, REFUSED };

struct entry {
	enum state state;
	char *place; /* owned: "jobs.yaml:12:1" */
	char *error; /* owned; for -o json and yaml */
	char id[JOB_ID_SIZE];
};

struct many {
	const struct cli *cli;
	struct rpc_peer *peer;
	struct rpc_call *call;
	struct entry *entries; /* owned; in the order of the command line */
	size_t n, n_shown, n_taken;
	many_job batch[BATCH]; /* their specs are owned */
	size_t n_batch, batch_bytes;
	size_t under_way; /* sent and not answered */
	int code;
	bool rows; /* all is printed at the end */
};

/* --- settling -------------------------------------------------------------------------------- */

static struct entry *add_entry(struct many *many, char *place)
{
	if ((many->n & (many->n - 1)) == 0)
		many->entries = xreallocarray(
			many->entries, many->n ? many->n * 2 : 1, sizeof(*many->entries));
	struct entry *entry = &many->entries[many->n++];
	*entry = (struct entry){.place = place};
	return entry;
}

static void show_settled(struct many *many)
{
	for (; many->n_shown < many->n; many->n_shown++) {
		const struct entry *entry = &many->entries[many->n_shown];

		if (entry->state == OPEN)
			break;
		if (entry->state == TAKEN && !many->rows)
			printf("%s\n", entry->id);
	}
	cli_flush_stdout();
}

/* Takes *why. */
static void refuse(struct many *many, struct entry *entry, struct error *why)
{
	int code;

	entry->state = REFUSED;
	if (many->rows) {
		entry->error = xstrdup(why->text);
		code = report_exit_code(why);
		error_free(why);
	} else {
		code = cli_fail(many->cli, why);
	}
	many->code = many->code ? many->code : code;
}

static void accept_id(struct many *many, struct entry *entry, const char *id)
{
	entry->state = TAKEN;
	snprintf(entry->id, sizeof(entry->id), "%s", id);
	many->n_taken++;
}

static void settle(struct many *many, const many_result *result)
{
	struct error *why = NULL;

	/* A number that was not asked about says nothing. */
	if (result->index >= many->n || many->entries[result->index].state != OPEN)
		return;
	struct entry *entry = &many->entries[result->index];
	many->under_way -= MIN(many->under_way, (size_t)1);
	if (result->id && job_id_prefix_valid(result->id)) {
		accept_id(many, entry, result->id);
		return;
	}
	error_set(&why, result->has_code ? (enum err_code)result->code : ERR_INTERNAL, "%s: %s",
		entry->place, result->error ? result->error : "the daemon did not say why not");
	refuse(many, entry, why);
}

/* --- the stream ------------------------------------------------------------------------------ */

/* One reply: 1; 0: none within wait_ms. */
static int take_reply(struct many *many, int wait_ms, struct error **err)
{
	_cleanup_message_ ProtobufCMessage *message = NULL;
	_cleanup_error_ struct error *why = NULL;
	int r = rpc_recv(many->call, wait_ms, &message, &why);

	if (r < 0 && why->code == ERR_TIMEOUT && !rpc_call_cancelled(many->call))
		return 0;
	if (r < 0)
		return error_move(err, steal_ptr(why));
	if (r == 0)
		return error_set(err, ERR_UNAVAILABLE, "the daemon ended the call too early");
	const Control__V1__SubmitManyReply *reply = (Control__V1__SubmitManyReply *)message;
	for (size_t i = 0; i < reply->n_results; i++)
		settle(many, reply->results[i]);
	show_settled(many);
	return 1;
}

/* Until no more than that many are on their way. A signal shortens the patience. */
static int wait_until(struct many *many, size_t under_way, struct error **err)
{
	uint64_t since = now_mono_usec();

	while (many->under_way > under_way) {
		int r = take_reply(many, SLICE_MS, err);
		uint64_t patience_ms = interrupt_signal() ? LAST_REPLY_MS : REPLY_MS;

		if (r < 0)
			return -1;
		if (r > 0)
			since = now_mono_usec();
		else if (now_mono_usec() - since >= patience_ms * 1000)
			return error_set(err, ERR_TIMEOUT, "the daemon did not answer in time");
	}
	return 0;
}

static void clear_batch(struct many *many)
{
	for (size_t i = 0; i < many->n_batch; i++)
		job__v1__spec__free_unpacked(many->batch[i].spec, NULL);
	many->n_batch = many->batch_bytes = 0;
}

static int send_batch(struct many *many, struct error **err)
{
	Control__V1__SubmitManyRequest request = CONTROL__V1__SUBMIT_MANY_REQUEST__INIT;
	many_job *jobs[BATCH];

	if (!many->n_batch)
		return 0;
	if (!many->call && !(many->call = rpc_open(many->peer, &control_submit_many, -1, err)))
		return -1;
	if (wait_until(many, WINDOW - many->n_batch, err) < 0)
		return -1;
	if (interrupt_signal())
		return error_set(err, ERR_CANCELLED, "interrupted");
	for (size_t i = 0; i < many->n_batch; i++)
		jobs[i] = &many->batch[i];
	request.jobs = jobs;
	request.n_jobs = many->n_batch;
	if (rpc_send(many->call, &request.base, err) < 0)
		return -1;
	many->under_way += many->n_batch;
	clear_batch(many);
	return take_reply(many, 0, err) < 0 ? -1 : 0;
}

static int settle_all(struct many *many, struct error **err)
{
	return send_batch(many, err) < 0 ? -1 : wait_until(many, 0, err);
}

/* --- the jobs -------------------------------------------------------------------------------- */

static int upload_one(struct many *many, struct job_files *files, size_t index, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;
	_cleanup_free_ char *id = NULL;

	if (settle_all(many, err) < 0)
		return -1;
	int r = upload_job(many->cli, many->peer, files, NULL, &id, &why);
	struct entry *entry = &many->entries[index];
	if (r == 0) {
		accept_id(many, entry, id);
	} else if (interrupt_signal() || why->code == ERR_UNAVAILABLE) {
		return error_move(err, steal_ptr(why));
	} else {
		error_wrap(&why, "%s", entry->place);
		refuse(many, entry, steal_ptr(why));
	}
	return 0;
}

/* Describe the job of one document; NULL and a refusal. */
static struct job_files *describe(
	struct many *many, const struct job_source *source, size_t i, struct entry *entry)
{
	struct error *why = NULL;
	_cleanup_job_files_ struct job_files *files = spec_from_document(source, i, &why);

	if (!files) {
		refuse(many, entry, why); /* says its places itself */
		return NULL;
	}
	if (spec_apply_options(many->cli, files->spec, &why) == 0 &&
		jobspec_verify(files->spec, &why) == 0 && upload_check_inputs(files, &why) == 0)
		return steal_ptr(files);
	error_wrap(&why, "%s", entry->place);
	refuse(many, entry, why);
	return NULL;
}

static int submit_document(
	struct many *many, const struct job_source *source, size_t i, struct error **err)
{
	const struct job_document *document = source->n ? &source->documents[i] : NULL;
	size_t index = many->n;
	struct entry *entry =
		add_entry(many, str_printf("%s:%u:%u", source->name, document ? document->line : 1,
					document ? document->column : 1));
	_cleanup_job_files_ struct job_files *files = describe(many, source, i, entry);

	if (!files)
		return 0;
	if (files->spec->n_inputs)
		return upload_one(many, files, index, err);
	size_t bytes = job__v1__spec__get_packed_size(files->spec);
	if ((many->n_batch == BATCH || many->batch_bytes + bytes > BATCH_BYTES) &&
		send_batch(many, err) < 0)
		return -1;
	many_job *job = &many->batch[many->n_batch++];
	control__v1__submit_many_request__job__init(job);
	job->index = (uint32_t)index;
	job->spec = steal_ptr(files->spec);
	many->batch_bytes += bytes;
	return 0;
}

static int submit_file(struct many *many, const char *name, struct error **err)
{
	struct error *why = NULL;
	_cleanup_job_source_ struct job_source *source = job_source_read(name, &why);

	if (!source) {
		refuse(many, add_entry(many, xstrdup(name)), why);
		return 0;
	}
	/* A file with nothing in it is refused by the rules for a job. */
	for (size_t i = 0; i < MAX(source->n, (size_t)1) && !interrupt_signal(); i++) {
		if (submit_document(many, source, i, err) < 0)
			return -1;
	}
	show_settled(many);
	return 0;
}

static int submit_all(struct many *many, char **names, size_t n, struct error **err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0 && !interrupt_signal(); i++)
		r = submit_file(many, names[i], err);
	if (r == 0 && !interrupt_signal())
		r = settle_all(many, err);
	if (!interrupt_signal())
		return r;
	/* What was not sent is not; what is on its way is waited for. */
	error_free(steal_ptr(*err));
	return wait_until(many, 0, err);
}

/* --- the end --------------------------------------------------------------------------------- */

static void print_rows(const struct many *many)
{
	struct output output = output_stdout(many->cli);
	json_t *rows = json_array();

	for (size_t i = 0; i < many->n; i++) {
		const struct entry *entry = &many->entries[i];
		json_t *row = json_object();

		json_object_set_new(row, "job", output_string(entry->place));
		json_object_set_new(
			row, "id", output_string(entry->state == TAKEN ? entry->id : NULL));
		json_object_set_new(row, "error", output_string(entry->error));
		json_array_append_new(rows, row);
	}
	output_value(&output, rows);
	json_decref(rows);
}

/* The call broke off, or the command was told to: what was committed is printed all the same. */
static int broken_off(struct many *many, struct error *err)
{
	size_t open = 0;

	for (size_t i = 0; i < many->n; i++) {
		struct entry *entry = &many->entries[i];

		open += entry->state == OPEN;
		if (entry->state == OPEN)
			entry->state = REFUSED; /* for show_settled(), which passes over it */
	}
	show_settled(many);
	/* Those in the batch were never sent. */
	size_t unknown = MIN(open, many->under_way);
	if (unknown)
		cli_note(many->cli,
			"%zu jobs were sent and not acknowledged: they may be in the queue, or "
			"not; "
			"see 'orchestrator list jobs'",
			unknown);
	if (interrupt_signal()) {
		cli_note(many->cli, "interrupted; %zu jobs were submitted", many->n_taken);
		error_free(err);
		return 128 + interrupt_signal();
	}
	return cli_fail(many->cli, err);
}

static void many_clear(struct many *many)
{
	if (many->call)
		rpc_close(many->call);
	clear_batch(many);
	for (size_t i = 0; i < many->n; i++) {
		free(many->entries[i].place);
		free(many->entries[i].error);
	}
	free(many->entries);
}

static int check_options(const struct cli *cli, struct error **err)
{
	Job__V1__Spec *spec = xmalloc(sizeof(*spec));

	job__v1__spec__init(spec);
	int r = spec_apply_options(cli, spec, err);
	job__v1__spec__free_unpacked(spec, NULL);
	return r;
}

int submit_many(const struct cli *cli, char **names, size_t n)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	struct many many = {.cli = cli};

	if (check_options(cli, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	interrupt_begin();
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	interrupt_hold();
	many.peer = peer;
	many.rows = cli->output == OUTPUT_JSON || cli->output == OUTPUT_YAML;
	int r = submit_all(&many, names, n, &err);
	int code = r < 0 || interrupt_signal() ? broken_off(&many, steal_ptr(err)) : many.code;
	if (many.rows)
		print_rows(&many);
	if (cli_flush_stdout() < 0)
		cli_note(cli, "%zu jobs were submitted; 'orchestrator list jobs' has their ids",
			many.n_taken);
	many_clear(&many);
	return code;
}
