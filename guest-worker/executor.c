/* The table of executions. How one of them lives is in execution.c. */
#include "guest-worker/executor.h"

#include <string.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "guest-worker/executor_internal.h"

#define MAX_EXECUTIONS 16

struct executor *executor_new(const struct job_root *root, bool init, struct error **err)
{
	struct executor *executor = xcalloc(1, sizeof(*executor));

	executor->root = root;
	pthread_mutex_init(&executor->lock, NULL);
	if (sandbox_prepare(init, &executor->sandbox, err) < 0) {
		executor_free(executor);
		return NULL;
	}
	executor->cgroups = cgroup_tree_open(init);
	if (!executor->cgroups)
		log_warn("executor", "no cgroup2: jobs have no memory or process limit");
	return executor;
}

void executor_keep_spare(struct executor *executor, uint64_t idle_usec)
{
	_cleanup_error_ struct error *err = NULL;

	if (geteuid() == 0 && spares_new(executor->root, &executor->sandbox, executor->cgroups,
				      idle_usec, &executor->spares, &err) < 0)
		log_warn("executor", "%s", err->text);
}

bool executor_has_spare(struct executor *executor, unsigned *ret_taken)
{
	*ret_taken = 0;
	return executor->spares && spares_ready(executor->spares, ret_taken);
}

void executor_stop(struct executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	executor->stopping = true;
	for (struct execution *ex = executor->executions; ex; ex = ex->next)
		execution_stop(ex, 0);
	pthread_mutex_unlock(&executor->lock);
}

void executor_free(struct executor *executor)
{
	if (!executor)
		return;
	while (executor->executions)
		execution_release(executor->executions);
	spares_free(executor->spares);
	cgroup_tree_free(executor->cgroups);
	sandbox_destroy(&executor->sandbox);
	pthread_mutex_destroy(&executor->lock);
	free(executor);
}

unsigned executor_count(struct executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	unsigned n = executor->count;
	pthread_mutex_unlock(&executor->lock);
	return n;
}

static int add_to_table(struct executor *executor, struct execution *ex, struct error **err)
{
	int r = 0;

	pthread_mutex_lock(&executor->lock);
	for (struct execution *other = executor->executions; other; other = other->next) {
		if (str_eq(other->id, ex->id))
			r = error_set(err, ERR_EXISTS, "execution %s is there already", ex->id);
	}
	if (r == 0 && executor->count >= MAX_EXECUTIONS)
		r = error_set(err, ERR_LIMIT, "%u executions run already", executor->count);
	if (r == 0 && executor->stopping)
		r = error_set(err, ERR_STATE, "the worker is shutting down");
	if (r == 0) {
		ex->next = executor->executions;
		executor->executions = ex;
		executor->count++;
		spares_set_busy(executor->spares, true);
	}
	pthread_mutex_unlock(&executor->lock);
	return r;
}

/* Under the lock. */
static void unlink_execution(struct executor *executor, const struct execution *ex)
{
	struct execution **at = &executor->executions;

	while (*at && *at != ex)
		at = &(*at)->next;
	if (*at) {
		*at = ex->next;
		executor->count--;
		spares_set_busy(executor->spares, executor->count > 0);
	}
}

void executor_forget(struct execution *ex)
{
	struct executor *executor = ex->executor;

	pthread_mutex_lock(&executor->lock);
	unlink_execution(executor, ex);
	pthread_mutex_unlock(&executor->lock);
}

/* Those that nobody came back to. */
static void release_abandoned(struct executor *executor)
{
	uint64_t now = now_mono_usec();
	struct execution *ex;

	do {
		pthread_mutex_lock(&executor->lock);
		for (ex = executor->executions; ex; ex = ex->next)
			if (execution_abandoned(ex, now))
				break;
		/* Out of the table under the same lock: nobody finds it any more. */
		if (ex)
			unlink_execution(executor, ex);
		pthread_mutex_unlock(&executor->lock);
		if (ex)
			execution_release(ex);
	} while (ex);
}

/* From here to its attachment it is not abandoned: somebody waits for it. */
static struct execution *find_to_attach(
	struct executor *executor, const char *id, struct error **err)
{
	struct execution *ex;

	pthread_mutex_lock(&executor->lock);
	for (ex = executor->executions; ex && !str_eq(ex->id, id); ex = ex->next)
		;
	if (!ex)
		error_set(err, ERR_NOT_FOUND, "there is no such execution");
	else if (ex->detached_usec)
		execution_wait_for(ex, 1);
	else {
		/* Its stream may free it at any time. */
		error_set(err, ERR_STATE, "the execution was not begun to be attached to");
		ex = NULL;
	}
	pthread_mutex_unlock(&executor->lock);
	return ex;
}

struct execution *executor_attach(struct executor *executor, const char *id, uint64_t out_offset,
	uint64_t err_offset, struct error **err)
{
	release_abandoned(executor);
	struct execution *ex = find_to_attach(executor, id, err);
	if (!ex)
		return NULL;
	int r = execution_attach(ex, out_offset, err_offset, err);
	execution_wait_for(ex, -1);
	return r < 0 ? NULL : ex;
}

struct execution *executor_start(
	struct executor *executor, const Worker__V1__RunStart *start, struct error **err)
{
	if (!*start->id || strlen(start->id) > LIMIT_NAME) {
		error_set(err, ERR_INVALID, "an execution's id has 1 to %d bytes", LIMIT_NAME);
		return NULL;
	}
	release_abandoned(executor);
	struct execution *ex = execution_new(executor, start, err);
	if (!ex)
		return NULL;
	if (add_to_table(executor, ex, err) < 0) {
		execution_free(ex);
		return NULL;
	}
	if (execution_begin(ex, start, err) < 0) {
		executor_forget(ex);
		execution_free(ex);
		return NULL;
	}
	return ex;
}
