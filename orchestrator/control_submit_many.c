/* SubmitMany: jobs without inputs, many in one call.
 *
 * What a submit costs on the way through the socket is the handing over from thread to thread, and
 * a message of many jobs pays for it once: they go through one transaction of the store and back
 * as one thing. While they are committed the next message is read, until WINDOW jobs
 * are under way; then the caller waits. Replies come in the order of the messages, because the
 * store tells in the order of posting.
 *
 * The handler alone receives and sends. The store's thread puts what is committed into `done`, and
 * wakes the handler where it waits for a message. */
#include "orchestrator/control_private.h"

#include <pthread.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/jobspec.h"

#define WINDOW	      256 /* jobs under way before the next message is read */
#define LIMIT_MESSAGE 256 /* jobs in one */
#define LIMIT_REFUSAL                                                                              \
	512 /* bytes of its text: WINDOW of them fit into what a caller reads ahead                \
	     */
#define IDLE_MS	 (5 * 60 * 1000) /* between two messages */
#define REPLY_MS 60000		 /* for a caller that does not read */

struct item {
	uint32_t index;
	char id[JOB_ID_SIZE];
	struct error *refusal;		/* owned */
	struct jobs_newcomer *newcomer; /* borrowed: in the batch's list; NULL: refused */
};

/* One message's jobs. */
struct batch {
	struct batch *next;
	struct stream *stream;
	struct item *items; /* owned */
	size_t n_items;
	struct jobs_newcomer *list; /* owned: those that were not refused */
	size_t n;
	struct error *error; /* owned: none was committed */
};

struct stream {
	struct rpc_call *call;
	struct daemon *daemon;
	size_t under_way; /* the handler's */
	bool open;	  /* the handler's: messages may still come */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct batch *done, **done_end; /* under lock */
};

static void batch_free(struct batch *batch)
{
	for (size_t i = 0; i < batch->n_items; i++)
		error_free(batch->items[i].refusal);
	for (size_t i = 0; i < batch->n; i++)
		error_free(batch->list[i].error);
	error_free(batch->error);
	free(batch->items);
	free(batch->list);
	free(batch);
}

/* --- in -------------------------------------------------------------------------------------- */

/* On the store's thread, after the commit. */
static void committed(void *arg, struct error *error)
{
	struct batch *batch = arg;
	struct stream *stream = batch->stream;

	batch->error = error;
	pthread_mutex_lock(&stream->lock);
	*stream->done_end = batch;
	stream->done_end = &batch->next;
	pthread_cond_signal(&stream->changed);
	/* Within the lock: without it the handler may be through, and the call gone. */
	rpc_wake(stream->call);
	pthread_mutex_unlock(&stream->lock);
}

/* The record of a job that may be committed, or NULL. */
static struct job_record *make_record(struct daemon *daemon,
	const Control__V1__SubmitManyRequest__Job *job, uid_t caller, struct error **err)
{
	if (job->spec->n_inputs) {
		error_set(err, ERR_INVALID, "a job with inputs is submitted by itself");
		return NULL;
	}
	if (submit_check_job(daemon, job->spec, job->key, err) < 0)
		return NULL;
	_cleanup_job_record_ struct job_record *record =
		submit_make_record(daemon->config, caller, job->spec, job->key);
	struct queue_demand demand = jobs_demand(record->spec);
	if (scheduler_check(&daemon->capacity, &demand, err) < 0)
		return NULL;
	record->result.times[STAGE_SUBMITTED] = now_real_usec();
	return steal_ptr(record);
}

static void take_job(
	struct batch *batch, const Control__V1__SubmitManyRequest__Job *job, uid_t caller)
{
	struct item *item = &batch->items[batch->n_items++];
	struct job_record *record = make_record(batch->stream->daemon, job, caller, &item->refusal);

	item->index = job->index;
	if (!record)
		return;
	memcpy(item->id, record->id, JOB_ID_SIZE);
	item->newcomer = &batch->list[batch->n++];
	item->newcomer->record = record;
}

/* No room on the disk is no job's own fault: it ends the call. */
static int take_message(
	struct stream *stream, const Control__V1__SubmitManyRequest *request, struct error **err)
{
	if (request->n_jobs > LIMIT_MESSAGE)
		return error_set(err, ERR_LIMIT, "more than %d jobs in one message", LIMIT_MESSAGE);
	if (!request->n_jobs)
		return error_set(err, ERR_INVALID, "a message without jobs");
	if (submit_check_disk(stream->daemon->config, err) < 0)
		return -1;
	struct batch *batch = xcalloc(1, sizeof(*batch));
	uid_t caller = control_caller(stream->call);

	batch->stream = stream;
	batch->items = xcalloc(request->n_jobs, sizeof(*batch->items));
	batch->list = xcalloc(request->n_jobs, sizeof(*batch->list));
	for (size_t i = 0; i < request->n_jobs; i++)
		take_job(batch, request->jobs[i], caller);
	stream->under_way += batch->n_items;
	/* Through the store also where nothing is left to commit: replies keep their order. */
	jobs_submit(stream->daemon->jobs, batch->list, batch->n, committed, batch);
	return 0;
}

static int receive(struct stream *stream, struct error **err)
{
	_cleanup_message_ Control__V1__SubmitManyRequest *request = NULL;
	_cleanup_error_ struct error *why = NULL;
	int r = rpc_recv(stream->call, IDLE_MS, (ProtobufCMessage **)&request, &why);

	if (r < 0 && why->code == ERR_ABORTED)
		return 0; /* woken: something is done */
	if (r < 0)
		return error_move(err, steal_ptr(why));
	if (r == 0) {
		stream->open = false;
		return 0;
	}
	return take_message(stream, request, err);
}

/* --- out ------------------------------------------------------------------------------------- */

/* The next batch that is done, or NULL; with wait there is one under way. */
static struct batch *take_done(struct stream *stream, bool wait)
{
	pthread_mutex_lock(&stream->lock);
	while (wait && !stream->done)
		pthread_cond_wait(&stream->changed, &stream->lock);
	struct batch *batch = stream->done;
	if (batch) {
		stream->done = batch->next;
		if (!stream->done)
			stream->done_end = &stream->done;
		stream->under_way -= batch->n_items;
	}
	pthread_mutex_unlock(&stream->lock);
	return batch;
}

static char *short_text(const char *text)
{
	size_t n = strlen(text);

	if (n > LIMIT_REFUSAL) {
		n = LIMIT_REFUSAL;
		while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
	}
	return xstrndup(text, n);
}

static void fill_result(const struct batch *batch, const struct item *item,
	Control__V1__SubmitManyReply__Result *result)
{
	const struct error *error = item->refusal;

	control__v1__submit_many_reply__result__init(result);
	result->index = item->index;
	result->id = (char *)(uintptr_t)item->id;
	if (item->newcomer)
		error = batch->error ? batch->error : item->newcomer->error;
	if (!error)
		return;
	/* The key has its job already. */
	if (item->newcomer && !batch->error && error->code == ERR_EXISTS &&
		item->newcomer->other[0]) {
		result->id = item->newcomer->other;
		return;
	}
	result->id = NULL;
	result->has_code = true;
	result->code = (uint32_t)error->code;
	result->error = short_text(error->text);
}

static int answer(struct stream *stream, const struct batch *batch, struct error **err)
{
	Control__V1__SubmitManyReply reply = CONTROL__V1__SUBMIT_MANY_REPLY__INIT;
	_cleanup_free_ Control__V1__SubmitManyReply__Result *results =
		xcalloc(batch->n_items, sizeof(*results));
	_cleanup_free_ Control__V1__SubmitManyReply__Result **pointers =
		xcalloc(batch->n_items, sizeof(*pointers));

	for (size_t i = 0; i < batch->n_items; i++) {
		pointers[i] = &results[i];
		fill_result(batch, &batch->items[i], &results[i]);
	}
	reply.n_results = batch->n_items;
	reply.results = pointers;
	int r = rpc_send_within(stream->call, &reply.base, REPLY_MS, err);
	for (size_t i = 0; i < batch->n_items; i++)
		free(results[i].error);
	return r;
}

/* Also when nothing more can be taken, those that were are told. */
static int run(struct stream *stream, struct error **err)
{
	struct error *failure = NULL;

	while (stream->open || stream->under_way) {
		struct batch *batch =
			take_done(stream, !stream->open || stream->under_way >= WINDOW);

		if (!batch) {
			if (receive(stream, &failure) < 0)
				stream->open = false;
			continue;
		}
		int r = answer(stream, batch, failure ? NULL : &failure);
		batch_free(batch);
		if (r < 0)
			break;
	}
	return failure ? error_move(err, failure) : 0;
}

int control_handle_submit_many(struct rpc_call *call, void *arg, struct error **err)
{
	struct stream stream = {.call = call, .daemon = arg, .open = true};

	if (control_sit(SEATS_MOVING, err) < 0)
		return -1;
	pthread_mutex_init(&stream.lock, NULL);
	pthread_cond_init(&stream.changed, NULL);
	stream.done_end = &stream.done;
	int r = run(&stream, err);
	/* What was posted is committed, whether anybody hears of it or not. */
	while (stream.under_way)
		batch_free(take_done(&stream, true));
	pthread_cond_destroy(&stream.changed);
	pthread_mutex_destroy(&stream.lock);
	control_rise(SEATS_MOVING);
	return r;
}
