#include "tests/unit/executor_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#include "common/log.h"
#include "common/util.h"
#include "guest-worker/output.h"
#include "tests/unit/as_nobody.h"

struct executor *fixture_executor;
bool fixture_with_spare;

static struct job_root root;

void outcome_free(struct outcome *outcome)
{
	free(outcome->out);
	free(outcome->err);
	free(outcome->error);
}

static void append(char **to, size_t *size, const char *data, size_t n)
{
	*to = xreallocarray(*to, *size + n + 1, 1);
	memcpy(*to + *size, data, n);
	*size += n;
	(*to)[*size] = 0;
}

struct outcome outcome_new(void)
{
	struct outcome outcome = {0};

	append(&outcome.out, &outcome.out_size, "", 0);
	append(&outcome.err, &outcome.err_size, "", 0);
	return outcome;
}

bool fixture_take(struct execution *ex, struct outcome *ret)
{
	static char buf[OUTPUT_CHUNK];
	struct execution_event event;

	execution_next(ex, PATIENCE_MS, buf, sizeof(buf), &event);
	switch (event.type) {
	case EXECUTION_STARTED:
		ret->started = true;
		return true;
	case EXECUTION_OUT:
		append(&ret->out, &ret->out_size, buf, event.size);
		return true;
	case EXECUTION_ERR:
		append(&ret->err, &ret->err_size, buf, event.size);
		return true;
	case EXECUTION_EXIT:
		ret->exit = event.exit;
		ret->error = xstrdup(event.exit.error);
		return false;
	case EXECUTION_TAKEN_OVER:
	case EXECUTION_NOTHING:
		break;
	}
	fail_msg("the job neither wrote nor ended in time");
	return false;
}

unsigned fixture_wait_for_spare(void)
{
	unsigned taken = 0;

	for (int i = 0; i < 500 && !executor_has_spare(fixture_executor, &taken); i++)
		sleep_ms(10);
	assert_true(executor_has_spare(fixture_executor, &taken));
	return taken;
}

struct execution *fixture_begin(Worker__V1__RunStart *start)
{
	_cleanup_error_ struct error *err = NULL;
	char id[] = "test";

	if (fixture_with_spare)
		fixture_wait_for_spare();

	start->id = id;
	struct execution *ex = executor_start(fixture_executor, start, &err);
	if (!ex)
		fail_msg("%s", err->text);
	return ex;
}

struct outcome fixture_run(Worker__V1__RunStart *start)
{
	struct outcome outcome = outcome_new();
	struct execution *ex = fixture_begin(start);

	while (fixture_take(ex, &outcome))
		;
	execution_release(ex);
	assert_int_equal(executor_count(fixture_executor), 0);
	/* Every process of it was waited for. */
	if (!fixture_with_spare) {
		assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
		assert_int_equal(errno, ECHILD);
	}
	return outcome;
}

struct outcome fixture_run_script(const char *script)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(script);

	start.script = copy;
	return fixture_run(&start);
}

void fixture_expect_exit(const struct outcome *outcome, int code)
{
	if (outcome->error)
		fail_msg("%s", outcome->error);
	assert_true(outcome->started);
	assert_int_equal(outcome->exit.reason, WORKER__V1__RUN_EXIT__REASON__EXITED);
	assert_true(outcome->exit.has_code);
	assert_int_equal(outcome->exit.code, code);
}

int fixture_setup(void **state)
{
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	if (job_root_init("/", "/tmp", &root, &err) < 0)
		return -1;
	fixture_executor = executor_new(&root, false, &err);
	if (fixture_executor && fixture_with_spare)
		executor_keep_spare(fixture_executor, 1000);
	return fixture_executor ? 0 : -1;
}

int fixture_teardown(void **state)
{
	(void)state;
	executor_free(fixture_executor);
	close(root.fd);
	/* Nor is a spare left. */
	return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : -1;
}

int fixture_main(int (*run_group)(const char *name))
{
	int failed = 0;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (geteuid() == 0)
		failed += run_as_nobody(run_group, "worker executor, as nobody");
	failed += run_group("worker executor");
	fixture_with_spare = geteuid() == 0;
	if (fixture_with_spare)
		failed += run_group("worker executor, with a spare job init");
	else
		print_message("NOT VERIFIED with a spare job init: not root\n");
	return failed != 0;
}
