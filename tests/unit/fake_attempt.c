#include "tests/unit/fake_attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/util.h"
#include "orchestrator/attempt.h"
#include "orchestrator/host.h"
#include "orchestrator/image.h"
#include "orchestrator/warm.h"

struct host {
	const struct config *config;
};

struct attempt {
	struct host *host;
	const struct attempt_order *order;
	attempt_listener listener;
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	char *cancelled; /* under lock: why */
	uint64_t sizes[2];
	struct job_result result;
};

static void note(struct host *host, const char *what, const char *id)
{
	_cleanup_free_ char *path = str_printf("%s/" FAKE_LOG, host->config->state_dir);
	_cleanup_free_ char *line = str_printf("%s%s%s\n", what, id[0] ? " " : "", id);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0 || write_all(fd, line, strlen(line)) < 0)
		abort();
}

struct host *host_new(const struct config *config, struct error **err)
{
	struct host *host = xcalloc(1, sizeof(*host));

	(void)err;
	host->config = config;
	return host;
}

int host_sweep(struct host *host, struct host_left *keep, size_t n_keep, struct error **err)
{
	(void)err;
	(void)keep;
	(void)n_keep;
	note(host, "sweep", "");
	return 0;
}

void host_free(struct host *host)
{
	free(host);
}

const char *host_accelerator(struct host *host)
{
	(void)host;
	return "fake";
}

const char *host_vsock_device(struct host *host)
{
	(void)host;
	return NULL;
}

/* A warm VM boots at once, unless STATE_DIR/fake.broken is there; it is idle until it is taken or
 * retired, or STATE_DIR/fake.lost is there. */
struct warm {
	struct host *host;
	struct warm_order order;
	warm_listener listener;
	void *arg;
	pthread_t thread;
	atomic_bool retired;
};

static bool has_file(struct host *host, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", host->config->state_dir, name);

	return access(path, F_OK) == 0;
}

static void warm_tell(struct warm *warm, struct warm_event event)
{
	warm->listener(warm->arg, warm->order.id, &event);
}

static void *run_warm(void *arg)
{
	struct warm *warm = arg;
	struct vm_facts vm = {.state = "idle", .cpus = warm->order.cpus, .image = FAKE_IMAGE};

	note(warm->host, "warm", "boots");
	snprintf(vm.id, sizeof(vm.id), "vm-warm%u", (unsigned)warm->order.id);
	warm_tell(warm, (struct warm_event){.type = WARM_VM, .facts = &vm});
	if (has_file(warm->host, "fake.broken")) {
		warm_tell(warm, (struct warm_event){.type = WARM_FAILED, .why = "it is broken"});
	} else {
		warm_tell(warm, (struct warm_event){.type = WARM_READY});
		while (!warm->retired && !has_file(warm->host, "fake.lost"))
			sleep_ms(5);
		if (!warm->retired)
			warm_tell(warm, (struct warm_event){.type = WARM_LOST, .why = "lost"});
	}
	note(warm->host, "warm", "leaves");
	warm_tell(warm, (struct warm_event){.type = WARM_FREED});
	warm_tell(warm, (struct warm_event){.type = WARM_GONE});
	return NULL;
}

struct warm *warm_start(struct host *host, const struct warm_order *order, warm_listener listener,
	void *arg, struct error **err)
{
	struct warm *warm = xcalloc(1, sizeof(*warm));

	(void)err;
	warm->host = host;
	warm->order = *order;
	warm->listener = listener;
	warm->arg = arg;
	if (pthread_create(&warm->thread, NULL, run_warm, warm) != 0)
		abort();
	return warm;
}

void warm_retire(struct warm *warm)
{
	warm->retired = true;
}

void warm_free(struct warm *warm)
{
	if (!warm)
		return;
	pthread_join(warm->thread, NULL);
	free(warm);
}

struct image *image_find(const struct config *config, const char *name, struct error **err)
{
	static char digest[] = "sha256:fake";

	if (str_eq(name, FAKE_IMAGE)) {
		struct image *image = xcalloc(1, sizeof(*image));

		image->digest = digest;
		image->dir = config->image_dir; /* borrowed */
		return image;
	}
	error_set(err, ERR_NOT_FOUND, "no image %s", name);
	return NULL;
}

void image_free(struct image *image)
{
	free(image);
}

static void tell(struct attempt *a, struct attempt_event event)
{
	a->listener(a->arg, &event);
}

static void stage(struct attempt *a, enum job_stage which)
{
	a->result.times[which] = now_real_usec();
	tell(a, (struct attempt_event){
			.type = ATTEMPT_STAGE, .stage = which, .usec = a->result.times[which]});
}

static bool cancelled(struct attempt *a)
{
	pthread_mutex_lock(&a->lock);
	bool is = a->cancelled;
	pthread_mutex_unlock(&a->lock);
	return is;
}

/* Until the file is there, or a cancel, if that counts. */
static void wait_for(struct attempt *a, const char *path, bool cancellable)
{
	pthread_mutex_lock(&a->lock);
	while (access(path, F_OK) < 0 && !(cancellable && a->cancelled)) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 5000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&a->cond, &a->lock, &until);
	}
	pthread_mutex_unlock(&a->lock);
}

static void output(struct attempt *a, int stream, const char *data, size_t n)
{
	_cleanup_free_ char *path =
		str_printf("%s/%s", a->order->job_dir, stream ? "stderr" : "stdout");
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0 || write_all(fd, data, n) < 0)
		abort();
	a->sizes[stream] += n;
	tell(a, (struct attempt_event){.type = ATTEMPT_OUTPUT,
			.stdout_size = a->sizes[0],
			.stderr_size = a->sizes[1]});
}

static void output_bytes(struct attempt *a, size_t n)
{
	char block[4096];

	memset(block, 'x', sizeof(block));
	for (size_t done = 0; done < n; done += MIN(n - done, sizeof(block)))
		output(a, 0, block, MIN(n - done, sizeof(block)));
}

static void bring_artifact(struct attempt *a, const char *name)
{
	_cleanup_free_ char *dir = str_printf("%s/artifacts", a->order->job_dir);
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	struct job_result *result = &a->result;

	if (make_dirs(dir, 0700, NULL) < 0 || write_file(path, "made\n", 5, 0600, false, NULL) < 0)
		abort();
	result->artifacts = xreallocarray(
		result->artifacts, result->n_artifacts + 1, sizeof(*result->artifacts));
	result->artifacts[result->n_artifacts++] =
		(struct job_artifact){.path = xstrdup(name), .size = 5};
}

static const char *after(const char *word, const char *prefix)
{
	return str_starts(word, prefix) ? word + strlen(prefix) : NULL;
}

/* Do the words that belong to one part of the attempt's life. */
static void perform(struct attempt *a, const char *prefix, bool cancellable)
{
	for (size_t i = 0; i < a->order->spec->n_argv; i++) {
		const char *path = after(a->order->spec->argv[i], prefix);

		if (path)
			wait_for(a, path, cancellable);
	}
}

static void run_word(struct attempt *a, const char *word)
{
	const char *rest;

	if ((rest = after(word, "out:")) || (rest = after(word, "err:"))) {
		_cleanup_free_ char *line = str_printf("%s\n", rest);

		output(a, word[0] == 'e', line, strlen(line));
	} else if ((rest = after(word, "outn:"))) {
		output_bytes(a, (size_t)atol(rest));
	} else if ((rest = after(word, "wait:"))) {
		wait_for(a, rest, true);
	} else if ((rest = after(word, "artifact:"))) {
		bring_artifact(a, rest);
	} else if ((rest = after(word, "exit:"))) {
		a->result.exit_code = atoi(rest);
	}
}

/* "end:CLASS" or "end:K:CLASS" */
static void end_as_ordered(struct attempt *a, const char *rest)
{
	const char *name = strrchr(rest, ':') ? strrchr(rest, ':') + 1 : rest;

	if (name != rest && a->order->number > (unsigned)atoi(rest))
		return;
	for (enum job_outcome o = OUTCOME_SUCCEEDED; o < OUTCOMES; o++) {
		if (!str_eq(name, job_outcome_name(o)))
			continue;
		a->result.outcome = o;
		a->result.exit_code = o == OUTCOME_TIMEOUT ? EXIT_TIMEOUT : EXIT_INFRA;
		free(a->result.error);
		a->result.error = str_printf("%s, as the test ordered", name);
	}
}

static bool has_word(const struct attempt *a, const char *word)
{
	for (size_t i = 0; i < a->order->spec->n_argv; i++)
		if (str_eq(a->order->spec->argv[i], word))
			return true;
	return false;
}

static void conclude(struct attempt *a)
{
	struct job_result *result = &a->result;

	result->outcome = result->exit_code ? OUTCOME_FAILED : OUTCOME_SUCCEEDED;
	if (result->exit_code)
		result->error = str_printf("exited with %d", result->exit_code);
	for (size_t i = 0; i < a->order->spec->n_argv; i++) {
		const char *rest = after(a->order->spec->argv[i], "end:");

		if (rest)
			end_as_ordered(a, rest);
	}
	pthread_mutex_lock(&a->lock);
	if (a->cancelled && !has_word(a, "deaf")) {
		result->outcome = OUTCOME_CANCELLED;
		result->exit_code = EXIT_CANCELLED;
		free(result->error);
		result->error = xstrdup(a->cancelled);
	}
	pthread_mutex_unlock(&a->lock);
	result->stdout_bytes = a->sizes[0];
	result->stderr_bytes = a->sizes[1];
	result->wall.accelerator = xstrdup("fake");
	tell(a, (struct attempt_event){.type = ATTEMPT_DONE, .result = result});
}

static void run_program(struct attempt *a)
{
	stage(a, STAGE_PROGRAM_STARTED);
	tell(a, (struct attempt_event){.type = ATTEMPT_STATE, .state = JOB_RUNNING});
	for (size_t i = 0; i < a->order->spec->n_argv && !cancelled(a); i++)
		run_word(a, a->order->spec->argv[i]);
	stage(a, STAGE_PROGRAM_ENDED);
	tell(a, (struct attempt_event){.type = ATTEMPT_STATE, .state = JOB_COLLECTING});
	perform(a, "collect:", true);
	stage(a, STAGE_COLLECTED);
}

static void *run(void *arg)
{
	struct attempt *a = arg;
	struct vm_facts vm = {.state = "booting", .cid = 77, .cpus = 1, .image = FAKE_IMAGE};

	note(a->host, a->order->warm ? "take" : "start", a->order->job_id);
	snprintf(vm.id, sizeof(vm.id), "vm-%.13s", a->order->job_id);
	snprintf(vm.domain, sizeof(vm.domain), "fake-%s", a->order->job_id);
	snprintf(vm.uuid, sizeof(vm.uuid), "00000000-0000-0000-0000-000000000000");
	tell(a, (struct attempt_event){.type = ATTEMPT_VM, .vm = &vm});
	perform(a, "boot:", true);
	if (!cancelled(a))
		run_program(a);
	conclude(a);
	if (has_word(a, "freed"))
		tell(a, (struct attempt_event){.type = ATTEMPT_FREED});
	perform(a, "gone:", false);
	if (a->order->warm)
		warm_retire(a->order->warm);
	warm_free(a->order->warm);
	note(a->host, "gone", a->order->job_id);
	tell(a, (struct attempt_event){.type = ATTEMPT_GONE});
	return NULL;
}

struct attempt *attempt_start(struct host *host, const struct attempt_order *order,
	attempt_listener listener, void *arg, struct error **err)
{
	for (size_t i = 0; i < order->spec->n_argv; i++) {
		if (str_eq(order->spec->argv[i], "nothread")) {
			error_set(err, ERR_LIMIT, "no thread for the attempt");
			return NULL;
		}
	}
	struct attempt *a = xcalloc(1, sizeof(*a));
	a->host = host;
	a->order = order;
	a->listener = listener;
	a->arg = arg;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->cond, NULL);
	if (pthread_create(&a->thread, NULL, run, a) != 0)
		abort();
	return a;
}

void attempt_cancel(struct attempt *a, const char *why)
{
	pthread_mutex_lock(&a->lock);
	if (!a->cancelled)
		a->cancelled = xstrdup(why);
	pthread_cond_signal(&a->cond);
	pthread_mutex_unlock(&a->lock);
}

void attempt_recorded(struct attempt *a)
{
	(void)a;
}

void attempt_free(struct attempt *a)
{
	pthread_join(a->thread, NULL);
	pthread_cond_destroy(&a->cond);
	pthread_mutex_destroy(&a->lock);
	job_result_clear(&a->result);
	free(a->cancelled);
	free(a);
}
