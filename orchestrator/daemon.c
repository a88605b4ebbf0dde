#include "orchestrator/daemon.h"

#include <signal.h>

#include "common/log.h"
#include "common/log_file.h"
#include "common/util.h"
#include "orchestrator/ballast.h"
#include "orchestrator/capacity.h"
#include "orchestrator/control.h"
#include "orchestrator/host.h"
#include "orchestrator/recover.h"
#include "orchestrator/retention.h"

#define LOG_CHECK_MS 10000 /* for what libraries write to the log */

/* --- going -----------------------------------------------------------------------------------
 *
 * First no new clients; then the jobs that run are ended and recorded, while their watchers are
 * still served; then the remaining calls; then the loop. */

static void calls_ended(void *arg)
{
	struct daemon *daemon = arg;

	loop_stop(daemon->loop);
}

static void jobs_ended(void *arg)
{
	struct daemon *daemon = arg;

	control_end(daemon->control, calls_ended, daemon);
}

void daemon_stop(struct daemon *daemon, const char *why)
{
	if (daemon->stopping)
		return;
	daemon->stopping = true;
	loop_timer_stop(steal_ptr(daemon->idle));
	control_close(daemon->control);
	jobs_stop(daemon->jobs, why, jobs_ended, daemon);
}

static void stopped_by_signal(void *arg)
{
	daemon_stop(arg, "the daemon was stopped");
}

static void on_signal(uv_signal_t *handle, int signum)
{
	struct daemon *daemon = handle->data;

	if (daemon->signalled || daemon->stopping) {
		/* Whoever asks twice does not want to wait. The next start cleans up, as after
		 * any other death. */
		log_warn(NULL, "stopped at once by a second signal");
		_exit(128 + signum);
	}
	log_info(NULL, "stopping: signal %d", signum);
	daemon->signalled = true;
	/* What changes the jobs is a function of the loop's: see loop_try_look(). */
	loop_post(daemon->loop, stopped_by_signal, daemon);
}

static void idle_over(void *arg)
{
	log_info(NULL, "stopping: nothing to do");
	daemon_stop(arg, "the daemon was idle");
}

void daemon_check_idle(void *arg)
{
	struct daemon *daemon = arg;

	if (!daemon->idle_exit || daemon->stopping || !daemon->control)
		return;
	bool idle =
		jobs_counts(daemon->jobs).live == 0 && control_connections(daemon->control) == 0;
	if (!idle)
		loop_timer_stop(steal_ptr(daemon->idle));
	else if (!daemon->idle)
		daemon->idle = loop_timer_start(
			daemon->loop, daemon->config->idle_timeout_ms, 0, idle_over, daemon);
}

/* --- coming ---------------------------------------------------------------------------------- */

static void catch_signals(struct daemon *daemon)
{
	static const int signums[] = {SIGTERM, SIGINT};

	for (size_t i = 0; i < ARRAY_SIZE(signums); i++) {
		uv_signal_init(loop_uv(daemon->loop), &daemon->signals[i]);
		daemon->signals[i].data = daemon;
		uv_signal_start(&daemon->signals[i], on_signal, signums[i]);
	}
}

static int open_store(struct daemon *daemon, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/jobs.db", daemon->config->state_dir);
	_cleanup_free_ char *jobs_dir = config_job_dir(daemon->config, "");

	ballast_open(daemon->config->state_dir, daemon->config->ballast);
	if (make_dirs(jobs_dir, 0700, err) < 0)
		return -1;
	daemon->store = store_sqlite_open(path, err);
	return daemon->store ? 0 : -1;
}

static int start(struct daemon *daemon, struct error **err)
{
	struct job_record **found = NULL;
	size_t n_found = 0;

	if (open_store(daemon, err) < 0)
		return -1;
	daemon->host = host_new(daemon->config, err);
	if (!daemon->host)
		return -1;
	if (recover(daemon->config, daemon->host, daemon->store, &found, &n_found, err) < 0)
		return -1;
	_cleanup_free_ struct job_record **free_found = found;
	daemon->queue = store_queue_new(daemon->store, daemon->loop, err);
	if (daemon->queue) {
		struct jobs_env env = {
			.loop = daemon->loop,
			.store = daemon->queue,
			.host = daemon->host,
			.config = daemon->config,
			.capacity = daemon->capacity,
			.on_change = daemon_check_idle,
			.arg = daemon,
		};

		daemon->jobs = jobs_new(&env);
		daemon->control = control_new(daemon, err);
	}
	if (!daemon->control) {
		for (size_t i = 0; i < n_found; i++)
			job_record_free(found[i]);
		return -1;
	}
	for (size_t i = 0; i < n_found; i++) {
		if (found[i]->state == JOB_QUEUED)
			jobs_load(daemon->jobs, found[i]);
		else
			jobs_adopt(daemon->jobs, found[i]);
	}
	jobs_start_pools(daemon->jobs);
	return 0;
}

struct daemon *daemon_new(const struct config *config, bool idle_exit, struct error **err)
{
	struct daemon *daemon = xcalloc(1, sizeof(*daemon));

	daemon->config = config;
	daemon->idle_exit = idle_exit;
	daemon->started_usec = now_real_usec();
	daemon->capacity = capacity_read(config);
	daemon->loop = loop_new();
	catch_signals(daemon);
	if (start(daemon, err) == 0)
		return daemon;
	daemon_free(daemon);
	return NULL;
}

static void check_log(void *arg)
{
	(void)arg;
	log_file_check();
}

void daemon_run(struct daemon *daemon)
{
	daemon->log_check =
		loop_timer_start(daemon->loop, LOG_CHECK_MS, LOG_CHECK_MS, check_log, NULL);
	daemon->retention = retention_start(daemon->config, daemon->queue);
	daemon_check_idle(daemon);
	loop_run(daemon->loop);
}

void daemon_free(struct daemon *daemon)
{
	retention_stop(daemon->retention);
	control_free(daemon->control);
	/* The store's thread ends after its last operation; the loop hears of it; then nothing
	 * knows the jobs any more. */
	store_queue_free(daemon->queue);
	loop_drain(daemon->loop);
	jobs_free(daemon->jobs);
	for (size_t i = 0; i < ARRAY_SIZE(daemon->signals); i++)
		uv_close((uv_handle_t *)&daemon->signals[i], NULL);
	loop_timer_stop(daemon->idle);
	loop_timer_stop(daemon->log_check);
	loop_free(daemon->loop);
	if (daemon->host)
		host_free(daemon->host);
	if (daemon->store)
		daemon->store->ops->close(daemon->store);
	free(daemon);
}
