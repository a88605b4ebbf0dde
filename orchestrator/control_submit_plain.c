/* Submit of a job that brings no files, as nearly all do: on the thread that polls, which checks
 * it, hands it to the store, and answers when the commit has been told. No thread is held meanwhile
 * and none is woken for one job, but for many: the store's by those that came, the polling one by
 * those that were committed together.
 *
 * This is the good way only. What is to be refused, or takes more than a look (an image that is not
 * known yet), is left to control_handle_submit() with its message unread. */
#include "orchestrator/control_private.h"

#include <string.h>

#include "common/util.h"
#include "orchestrator/ballast.h"
#include "orchestrator/image_known.h"

struct plain {
	struct rpc_call *call;
	struct daemon *daemon;
	struct jobs_newcomer job;
	char id[JOB_ID_SIZE];
};

static void plain_free(struct plain *plain)
{
	job_record_free(plain->job.record);
	error_free(plain->job.error);
	free(plain);
}

/* The daemon has promised it, or not. On the store's thread. */
static void promised(void *arg, struct error *error)
{
	struct plain *plain = arg;
	Control__V1__SubmitReply reply = CONTROL__V1__SUBMIT_REPLY__INIT;

	reply.id = plain->id;
	if (!error)
		error = steal_ptr(plain->job.error);
	/* The key has its job already. */
	if (error && error->code == ERR_EXISTS && plain->job.other[0]) {
		reply.id = plain->job.other;
		error_free(steal_ptr(error));
	}
	rpc_answer(plain->call, &reply.base, error);
	plain_free(plain);
}

/* What is behind the spec: the end, or files of no input. */
static void read_end(void *arg)
{
	struct plain *plain = arg;
	_cleanup_message_ ProtobufCMessage *more = NULL;
	struct error *err = NULL;

	if (rpc_recv(plain->call, 0, &more, &err) > 0)
		error_set(&err, ERR_INVALID, "a file came, and the job has no inputs");
	if (err) {
		rpc_answer(plain->call, NULL, err);
		plain_free(plain);
		return;
	}
	plain->job.record->result.times[STAGE_SUBMITTED] = now_real_usec();
	jobs_submit(plain->daemon->jobs, &plain->job, 1, promised, plain);
}

static struct job_record *make_record(
	struct rpc_call *call, struct daemon *daemon, const Control__V1__SubmitRequest *request)
{
	const Job__V1__Spec *spec = request->spec;

	if (!spec || spec->n_inputs || request->record ||
		submit_check_spec(spec, request->key, NULL) < 0 || !image_is_known(spec->image) ||
		ballast_is_given() || submit_check_disk(daemon->config, NULL) < 0)
		return NULL;
	_cleanup_job_record_ struct job_record *record =
		submit_make_record(daemon->config, control_caller(call), spec, request->key);
	struct queue_demand demand = jobs_demand(record->spec);
	return scheduler_check(&daemon->capacity, &demand, NULL) < 0 ? NULL : steal_ptr(record);
}

int control_submit_plain(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__SubmitRequest *request = NULL;

	if (control_recv(call, &request, err) < 0)
		return -1;
	struct job_record *record = make_record(call, daemon, request);
	if (!record) {
		rpc_unrecv(call, (ProtobufCMessage *)steal_ptr(request));
		return RPC_POOL;
	}
	struct plain *plain = xcalloc(1, sizeof(*plain));
	plain->call = call;
	plain->daemon = daemon;
	plain->job.record = record;
	memcpy(plain->id, record->id, JOB_ID_SIZE);
	rpc_when_received(call, read_end, plain);
	return RPC_LATER;
}
