/* orchestrator bench: vsock against TCP/IP, in a VM of its own. It is made by this process, not by
 * the daemon: no job waits for it, and the daemon's VMs cannot come to have its interface. */
#include <errno.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>

#include "common/log.h"
#include "common/rpc.h"
#include "common/util.h"
#include "orchestrator/bench_measure.h"
#include "orchestrator/bench_plot.h"
#include "orchestrator/bench_report.h"
#include "orchestrator/cli/cli.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/cli/progress.h"
#include "orchestrator/cli/report.h"
#include "orchestrator/job.h"

#define CALLS_MAX	1000000
#define CONNECTIONS	10
#define STREAM_MS_LEAST 10
#define STREAM_MS_MOST	60000

static const struct bench_plan usual = {
	.rounds = 5, .calls = 400, .connections = CONNECTIONS, .stream_ms = 300};
static const struct bench_plan quick = {
	.rounds = 2, .calls = 40, .connections = 2, .stream_ms = 20};

static const struct cli_option options[] = {
	{'i', "image", "NAME", "the VM's image (default: the configuration's default_image)"},
	{'r', "rounds", "N", "how often all is measured (default 5)"},
	{'c', "calls", "N", "calls in each round, by each way (default 400)"},
	{'t', "stream-time", "TIME", "about how long each stream is (default 300ms)"},
	{0, "quick", NULL, "a few of each: shows that it works, not how fast"},
	{0, "csv", "FILE", "write the numbers to FILE as CSV too"},
	{0, "plot", "FILE", "draw them: FILE.svg or FILE.png, by gnuplot"},
	{0, NULL, NULL, NULL},
};

/* The command line. ------------------------------------------------------------------------------
 */

static int take_number(
	const struct cli *cli, const char *name, unsigned max, unsigned *ret, struct error **err)
{
	const char *value = cli_value(cli, name);
	uint64_t n;

	if (!value)
		return 0;
	if (parse_number(value, 1, max, &n) < 0)
		return error_set(err, ERR_INVALID, "--%s '%s': must be a number from 1 to %u", name,
			value, max);
	*ret = (unsigned)n;
	return 0;
}

/* Found out before minutes of measuring, not behind them. */
static int check_target(const char *option, const char *path, struct error **err)
{
	_cleanup_free_ char *copy = xstrdup(path);
	const char *dir = path ? dirname(copy) : NULL;

	if (dir && access(dir, W_OK) < 0)
		return error_set(err, ERR_INVALID, "--%s %s: %s", option, path, strerror(errno));
	return 0;
}

static int take_plan(const struct cli *cli, struct bench_plan *ret, struct error **err)
{
	const char *time = cli_value(cli, "stream-time"), *plot = cli_value(cli, "plot");
	uint64_t ms;

	*ret = cli_flag(cli, "quick") ? quick : usual;
	if (take_number(cli, "rounds", BENCH_ROUNDS_MAX, &ret->rounds, err) < 0 ||
		take_number(cli, "calls", CALLS_MAX, &ret->calls, err) < 0 ||
		check_target("csv", cli_value(cli, "csv"), err) < 0 ||
		(plot && bench_plot_check_name(plot, err) < 0) ||
		check_target("plot", plot, err) < 0)
		return -1;
	if (time && (parse_duration(time, &ms) < 0 || ms < STREAM_MS_LEAST || ms > STREAM_MS_MOST))
		return error_set(
			err, ERR_INVALID, "--stream-time '%s': must be from 10ms to 60s", time);
	if (time)
		ret->stream_ms = (unsigned)ms;
	return 0;
}

/* Measuring. -------------------------------------------------------------------------------------
 */

struct watcher {
	struct progress progress;
	unsigned rounds;
};

static void on_round(void *arg, unsigned round)
{
	struct watcher *watcher = arg;

	if (round == 0)
		progress_show(&watcher->progress, "warming up");
	else
		progress_show(&watcher->progress, "round %u of %u", round, watcher->rounds);
}

/* Blocked in all threads, which begin later; a signal shows as a readable descriptor, so that what
 * it ends is cleaned up. */
static int catch_signals(struct error **err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? error_errno(err, errno, "signalfd") : fd;
}

static double load(void)
{
	double one[1];

	return getloadavg(one, 1) == 1 ? one[0] : 0;
}

static char *time_now(void)
{
	char text[32];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return xstrdup(text);
}

static int measure(
	const struct cli *cli, int signals, struct bench_result *result, struct error **err)
{
	const char *image = cli_value(cli, "image");
	struct watcher watcher = {progress_begin(cli), result->plan.rounds};
	int r = -1;

	result->conditions.load_before = load();
	result->conditions.time = time_now();
	progress_show(&watcher.progress, "starting a VM");
	struct bench_vm *vm =
		bench_vm_new(cli->config, image ? image : cli->config->default_image, signals, err);
	if (vm) {
		r = bench_vm_conditions(vm, &result->conditions, err);
		if (r == 0)
			r = bench_measure(vm, signals, on_round, &watcher, result, err);
		progress_show(&watcher.progress, "destroying the VM");
		bench_vm_free(vm);
	}
	result->conditions.load_after = load();
	progress_end(&watcher.progress);
	return r;
}

/* Showing. ---------------------------------------------------------------------------------------
 */

static int write_csv(struct bench_result *result, const char *path, struct error **err)
{
	_cleanup_free_ char *csv = path ? bench_report_csv(result) : NULL;

	return path ? write_file(path, csv, strlen(csv), 0644, false, err) : 0;
}

static void show(const struct cli *cli, struct bench_result *result)
{
	struct output output = output_stdout(cli);

	if (output.format != OUTPUT_JSON && output.format != OUTPUT_YAML) {
		bench_report_text(result, stdout);
		return;
	}
	json_t *value = bench_report_json(result);
	output_value(&output, value);
	json_decref(value);
}

/* A picture that cannot be made costs the picture, not the numbers. */
static int draw(const struct cli *cli, struct bench_result *result)
{
	const char *path = cli_value(cli, "plot");
	_cleanup_error_ struct error *err = NULL;

	if (!path || (bench_plot_available(&err) == 0 && bench_plot(result, path, &err) == 0))
		return 0;
	report_error(cli, err);
	return 1;
}

static int interrupted(int signals)
{
	struct signalfd_siginfo info;

	return read(signals, &info, sizeof(info)) == sizeof(info) ? 128 + (int)info.ssi_signo
								  : EXIT_CANCELLED;
}

static bool is_readable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	return poll(&pfd, 1, 0) == 1;
}

static int run(const struct cli *cli, int argc, char **argv)
{
	_cleanup_error_ struct error *missing = NULL;
	struct bench_result result = {0};
	struct error *err = NULL;
	int code = cli_operands(cli, argc, argv, 0, 0, NULL);

	if (code)
		return code;
	if (cli->output == OUTPUT_NAME)
		return cli_usage(cli, "bench has no -o name");
	if (take_plan(cli, &result.plan, &err) < 0) {
		code = cli_usage(cli, "%s", err->text);
		error_free(err);
		return code;
	}
	if (cli_value(cli, "plot") && bench_plot_available(&missing) < 0)
		cli_note(cli, "%s", missing->text);
	_cleanup_close_ int signals = catch_signals(&err);
	if (signals < 0)
		return cli_fail(cli, err);
	if (!cli->verbose)
		log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	rpc_init();
	int r = measure(cli, signals, &result, &err);
	rpc_quit();
	/* Ctrl-C reaches QEMU and the device too, and what fails first may be one of them. */
	if (r < 0 && (err->code == ERR_CANCELLED || is_readable(signals))) {
		code = interrupted(signals);
		error_free(err);
	} else if (r < 0 || write_csv(&result, cli_value(cli, "csv"), &err) < 0) {
		code = cli_fail(cli, err);
	} else {
		show(cli, &result);
		code = draw(cli, &result);
	}
	bench_result_clear(&result);
	return code;
}

const struct cli_command command_bench = {
	.name = "bench",
	.summary = "Compare vsock with TCP/IP on this machine",
	.synopsis = "[OPTIONS]",
	.about = "In a VM of its own, which alone gets a network interface for it, the same gRPC "
		 "calls\n"
		 "go over vsock and over TCP, in turns: time of a call and of a new connection,\n"
		 "throughput each way by size of message, processor time; and the same without "
		 "gRPC as\n"
		 "the floor. The VM is made by this command, beside the daemon and its queue.",
	.options = options,
	.example = "orchestrator bench --plot bench.svg\n"
		   "orchestrator bench --rounds 10 -o json",
	.run = run,
};
