/* Calls that look at jobs and VMs, wait for them, end them. */
#include "orchestrator/control_private.h"

#include <limits.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/attempt_files.h"

#define REQUEST_MS 10000 /* a request is there with its call */
#define LOOK_MS	   1000	 /* how long a caller that went away is waited for */
#define SEND_MS	   60000 /* for a caller that does not read its list */
/* A wait without end ends nevertheless, far behind the longest job of the longest queue. */
#define WAIT_MS (UINT64_C(10) * 365 * 24 * 3600 * 1000)
#define PAGE	64 /* jobs of a list in memory at once */

int control_recv(struct rpc_call *call, void *ret, struct error **err)
{
	int r = rpc_recv(call, REQUEST_MS, ret, err);

	if (r == 0)
		return error_set(err, ERR_INVALID, "the call has no request");
	return r < 0 ? -1 : 0;
}

/* --- finding --------------------------------------------------------------------------------- */

struct lookup {
	struct daemon *daemon;
	const char *id;
	char *found; /* char[JOB_ID_SIZE] */
	struct job_record *record;
	uint32_t position;
	struct watch *watch;
	bool live;
};

static int store_find(struct store *store, void *arg, struct error **err)
{
	struct lookup *lookup = arg;

	return store->ops->find(store, lookup->id, lookup->found, err);
}

int control_find(
	struct daemon *daemon, const char *prefix, char ret_id[JOB_ID_SIZE], struct error **err)
{
	struct lookup lookup = {.id = prefix, .found = ret_id};

	return store_queue_call(daemon->queue, store_find, &lookup, err);
}

static int store_get(struct store *store, void *arg, struct error **err)
{
	struct lookup *lookup = arg;

	return store->ops->get(store, lookup->id, &lookup->record, err);
}

static void loop_get(void *arg)
{
	struct lookup *lookup = arg;

	lookup->record = jobs_snapshot(lookup->daemon->jobs, lookup->id, &lookup->position);
}

int control_get(struct daemon *daemon, const char *id, struct job_record **ret,
	uint32_t *ret_position, struct error **err)
{
	struct lookup lookup = {.daemon = daemon, .id = id};

	loop_call(daemon->loop, loop_get, &lookup);
	if (!lookup.record && store_queue_call(daemon->queue, store_get, &lookup, err) < 0) {
		job_record_free(lookup.record);
		return -1;
	}
	*ret = lookup.record;
	*ret_position = lookup.position;
	return 0;
}

Control__V1__JobInfo *control_info_of(
	struct daemon *daemon, const struct job_record *record, uint32_t position)
{
	_cleanup_free_ char *dir = config_job_dir(daemon->config, record->id);
	Control__V1__JobInfo *info = record_to_info(record, dir, RECORD_FULL);

	info->has_queue_position = position > 0;
	info->queue_position = position;
	control_add_earlier(daemon, record, info);
	return info;
}

static int send_job(
	struct rpc_call *call, struct daemon *daemon, const char *id, struct error **err)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	uint32_t position;

	if (control_get(daemon, id, &record, &position, err) < 0)
		return -1;
	_cleanup_job_info_ Control__V1__JobInfo *info = control_info_of(daemon, record, position);
	return rpc_send(call, &info->base, err);
}

static int send_attempt(struct rpc_call *call, struct daemon *daemon, const char *id, unsigned n,
	struct error **err)
{
	_cleanup_job_record_ struct job_record *record = NULL;

	if (control_get_attempt(daemon, id, n, &record, err) < 0)
		return -1;
	_cleanup_free_ char *dir = config_job_dir(daemon->config, id);
	_cleanup_free_ char *files = attempt_files_dir(dir, n);
	_cleanup_job_info_ Control__V1__JobInfo *info = record_to_info(record, files, RECORD_FULL);
	return rpc_send(call, &info->base, err);
}

int control_handle_get_job(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__JobRequest *request = NULL;
	char id[JOB_ID_SIZE];

	if (control_recv(call, &request, err) < 0 || control_find(daemon, request->id, id, err) < 0)
		return -1;
	return request->attempt ? send_attempt(call, daemon, id, request->attempt, err)
				: send_job(call, daemon, id, err);
}

/* A job that is live and named in full, as who submitted it asks for it. */
int control_get_job_quick(struct rpc_call *call, void *arg, struct error **err)
{
	struct lookup lookup = {.daemon = arg};
	_cleanup_message_ Control__V1__JobRequest *request = NULL;

	if (control_recv(call, &request, err) < 0)
		return -1;
	lookup.id = request->id;
	bool looked = !request->attempt && loop_try_look(lookup.daemon->loop, loop_get, &lookup);
	_cleanup_job_record_ struct job_record *record = lookup.record;
	if (!looked || !record || control_may_have_earlier(record)) {
		rpc_unrecv(call, (ProtobufCMessage *)steal_ptr(request));
		return RPC_POOL;
	}
	_cleanup_job_info_ Control__V1__JobInfo *info =
		control_info_of(lookup.daemon, record, lookup.position);
	return rpc_send(call, &info->base, err);
}

/* --- listing --------------------------------------------------------------------------------- */

struct page {
	struct daemon *daemon;
	struct store_filter filter;
	struct job_record *records[PAGE];
	uint32_t positions[PAGE];
	size_t n;
};

static int keep(void *arg, const struct job_record *record, struct error **err)
{
	struct page *page = arg;

	(void)err;
	page->records[page->n++] = job_record_copy(record);
	return 0;
}

static int store_list(struct store *store, void *arg, struct error **err)
{
	struct page *page = arg;

	return store->ops->list(store, &page->filter, keep, page, err);
}

/* What is live is newer than what was committed of it. */
static void loop_refresh(void *arg)
{
	struct page *page = arg;

	for (size_t i = 0; i < page->n; i++) {
		struct job_record *live = NULL;

		if (page->records[i]->state != JOB_FINISHED)
			live = jobs_snapshot(
				page->daemon->jobs, page->records[i]->id, &page->positions[i]);
		if (!live)
			continue;
		live->seq = page->records[i]->seq;
		job_record_free(page->records[i]);
		page->records[i] = live;
	}
}

static int send_page(struct rpc_call *call, struct page *page, struct error **err)
{
	for (size_t i = 0; i < page->n; i++) {
		const struct job_record *record = page->records[i];

		if (page->filter.states && !(page->filter.states & (1u << record->state)))
			continue; /* it moved on meanwhile */
		_cleanup_free_ char *dir = config_job_dir(page->daemon->config, record->id);
		_cleanup_job_info_ Control__V1__JobInfo *info =
			record_to_info(record, dir, RECORD_BRIEF);
		info->has_queue_position = page->positions[i] > 0;
		info->queue_position = page->positions[i];
		if (rpc_send_within(call, &info->base, SEND_MS, err) < 0)
			return -1;
	}
	return 0;
}

static void page_clear(struct page *page)
{
	for (size_t i = 0; i < page->n; i++)
		job_record_free(page->records[i]);
	memset(page->positions, 0, sizeof(page->positions));
	page->n = 0;
}

/* One page after the other; left is what the caller still wants. */
static int list_pages(struct rpc_call *call, struct page *page, uint32_t left, struct error **err)
{
	while (left) {
		page->filter.limit = MIN(left, (uint32_t)PAGE);
		int r = store_queue_call(page->daemon->queue, store_list, page, err);
		if (r == 0 && page->n) {
			page->filter.before_seq = page->records[page->n - 1]->seq;
			loop_call(page->daemon->loop, loop_refresh, page);
			r = send_page(call, page, err);
		}
		bool last = page->n < page->filter.limit;
		left -= (uint32_t)MIN(page->n, (size_t)left);
		page_clear(page);
		if (r < 0 || last)
			return r;
	}
	return 0;
}

int control_handle_list_jobs(struct rpc_call *call, void *arg, struct error **err)
{
	struct page page = {.daemon = arg};
	_cleanup_message_ Control__V1__ListJobsRequest *request = NULL;

	if (control_recv(call, &request, err) < 0)
		return -1;
	if (request->n_labels > LIMIT_LABELS)
		return error_set(err, ERR_LIMIT, "more than %d labels to look for", LIMIT_LABELS);
	for (size_t i = 0; i < request->n_states; i++) {
		if (request->states[i] < 1 || (unsigned)request->states[i] > JOB_FINISHED)
			return error_set(err, ERR_INVALID, "no state %d", (int)request->states[i]);
		page.filter.states |= 1u << request->states[i];
	}
	page.filter.labels = request->labels;
	page.filter.n_labels = request->n_labels;
	return list_pages(call, &page, request->limit ? request->limit : UINT32_MAX, err);
}

/* --- waiting --------------------------------------------------------------------------------- */

static void loop_watch(void *arg)
{
	struct lookup *lookup = arg;

	lookup->live = jobs_watch(lookup->daemon->jobs, lookup->id, lookup->watch);
}

bool control_watch(struct daemon *daemon, const char *id, struct watch *watch)
{
	struct lookup lookup = {.daemon = daemon, .id = id, .watch = watch};

	watch_init(watch);
	loop_call(daemon->loop, loop_watch, &lookup);
	if (!lookup.live)
		watch_clear(watch);
	return lookup.live;
}

static void loop_unwatch(void *arg)
{
	struct lookup *lookup = arg;

	jobs_unwatch(lookup->daemon->jobs, lookup->watch);
}

void control_unwatch(struct daemon *daemon, struct watch *watch)
{
	struct lookup lookup = {.daemon = daemon, .watch = watch};

	loop_call(daemon->loop, loop_unwatch, &lookup);
	watch_clear(watch);
}

/* How many attempts have ended, of a job that has not. */
static unsigned ended_attempts(const struct watch_news *news)
{
	return news->attempt - (news->attempt && news->state != JOB_QUEUED);
}

/* timeout_ms 0 looks once. attempts: how many may have ended before it is worth telling. */
static int wait_for_end(struct rpc_call *call, struct watch *watch, const char *id,
	uint64_t timeout_ms, unsigned attempts, struct error **err)
{
	uint64_t end = now_mono_usec() + timeout_ms * 1000;
	struct watch_news news = {0};

	/* How things stand is there already: jobs_watch() says it. */
	watch_wait(watch, 0, &news);
	while (!news.finished && ended_attempts(&news) <= attempts) {
		uint64_t now = now_mono_usec();

		if (news.stopping)
			return error_set(err, ERR_UNAVAILABLE,
				"the daemon is stopping; job %s is %s", id,
				job_state_name(news.state));
		if (rpc_call_cancelled(call))
			return error_set(err, ERR_CANCELLED, "the caller went away");
		if (now >= end)
			return error_set(err, ERR_TIMEOUT, "job %s is still %s", id,
				job_state_name(news.state));
		watch_wait(watch, (int)MIN((uint64_t)LOOK_MS, (end - now) / 1000 + 1), &news);
	}
	return 0;
}

static int handle_wait(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__WaitRequest *request = NULL;
	char id[JOB_ID_SIZE];
	struct watch watch;
	int r = 0;

	if (control_recv(call, &request, err) < 0 || control_find(daemon, request->id, id, err) < 0)
		return -1;
	if (control_watch(daemon, id, &watch)) {
		uint64_t timeout_ms = request->has_timeout_ms ? request->timeout_ms : UINT64_MAX;

		unsigned attempts = request->has_attempts ? request->attempts : UINT_MAX;
		r = wait_for_end(call, &watch, id, MIN(timeout_ms, WAIT_MS), attempts, err);
		control_unwatch(daemon, &watch);
	}
	return r < 0 ? -1 : send_job(call, daemon, id, err);
}

int control_handle_wait(struct rpc_call *call, void *arg, struct error **err)
{
	if (control_sit(SEATS_WATCHING, err) < 0)
		return -1;
	int r = handle_wait(call, arg, err);
	control_rise(SEATS_WATCHING);
	return r;
}

/* --- cancelling ------------------------------------------------------------------------------ */

struct cancellation {
	struct daemon *daemon;
	const char *id;
	struct error *error;
	struct latch done;
};

static void cancelled(void *arg, struct error *error)
{
	struct cancellation *c = arg;

	c->error = error;
	latch_open(&c->done);
}

static void loop_cancel(void *arg)
{
	struct cancellation *c = arg;

	jobs_cancel(c->daemon->jobs, c->id, "cancelled by its user", cancelled, c);
}

/* The job is not live, so that its record is final: say how it ended. */
static int refuse_ended(struct daemon *daemon, const char *id, struct error **err)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	uint32_t position;

	if (control_get(daemon, id, &record, &position, err) < 0)
		return -1;
	return error_set(err, ERR_STATE, "job %s has already ended (%s)", id,
		job_outcome_name(record->result.outcome));
}

int control_handle_cancel(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__JobRequest *request = NULL;
	char id[JOB_ID_SIZE];
	struct cancellation c = {.daemon = daemon, .id = id};

	if (control_recv(call, &request, err) < 0 || control_find(daemon, request->id, id, err) < 0)
		return -1;
	latch_init(&c.done);
	loop_post(daemon->loop, loop_cancel, &c);
	latch_wait(&c.done);
	if (c.error && c.error->code == ERR_NOT_FOUND) {
		error_free(c.error);
		return refuse_ended(daemon, id, err);
	}
	if (c.error)
		return error_move(err, c.error);
	return send_job(call, daemon, id, err);
}
