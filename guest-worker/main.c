/* The worker inside a guest. As PID 1 it brings the machine up and down as well; on any other Linux
 * guest it is an ordinary daemon.
 *
 * Threads: this one waits for the end; one accepts connections; one reaps, where we are the parent
 * of orphans; one for each execution; one makes the spare job init; and common/rpc's.
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/rpc.h"
#include "common/util.h"
#include "common/worker_proof.h"
#include "guest-worker/bench.h"
#include "guest-worker/init.h"
#include "guest-worker/listener.h"
#include "guest-worker/service.h"

struct options {
	bool init;
	uint32_t port, ready_port; /* ready_port 0: none */
	const char *unix_path;
	const char *secret_file;
	bool privileged; /* refuse the host's ports from 1024 on */
};

static const char help_text[] =
	"usage: guest-worker [OPTION]...\n"
	"\n"
	"Run jobs for an orchestrator on the host of this virtual machine, which dials in by "
	"vsock.\n"
	"As process 1 the worker also brings up the machine; options are then ignored.\n"
	"\n"
	"  --port N         listen on this vsock port (default 9999)\n"
	"  --ready-port N   tell the host on this port that the worker listens (default: do not)\n"
	"  --unix PATH      listen on a Unix socket instead, for tests\n"
	"  --secret-file F  a secret of 32 bytes in hex that the host must prove to know\n"
	"  --privileged     refuse whoever on the host does not dial from a port below 1024\n"
	"  --debug          log more\n"
	"  --help, --version\n";

static int parse_port(const char *text, uint32_t *ret)
{
	uint64_t v;

	if (parse_number(text, 1, UINT32_MAX - 1, &v) < 0) {
		fprintf(stderr, "guest-worker: not a port: %s\n", text);
		return -1;
	}
	*ret = (uint32_t)v;
	return 0;
}

/* 0: go on; 1: done; -1: usage error. */
static int parse_options(int argc, char **argv, struct options *ret)
{
	static const struct option options[] = {
		{"port", required_argument, NULL, 'p'},
		{"ready-port", required_argument, NULL, 'r'},
		{"unix", required_argument, NULL, 'u'},
		{"secret-file", required_argument, NULL, 's'},
		{"privileged", no_argument, NULL, 'P'},
		{"debug", no_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
		switch (c) {
		case 'p':
			if (parse_port(optarg, &ret->port) < 0)
				return -1;
			break;
		case 'r':
			if (parse_port(optarg, &ret->ready_port) < 0)
				return -1;
			break;
		case 'u':
			ret->unix_path = optarg;
			break;
		case 's':
			ret->secret_file = optarg;
			break;
		case 'P':
			ret->privileged = true;
			break;
		case 'd':
			log_setup(LOG_LEVEL_DEBUG, LOG_FORMAT_PLAIN);
			break;
		case 'h':
			fputs(help_text, stdout);
			return 1;
		case 'V':
			puts("guest-worker " ORCHESTRATOR_VERSION);
			return 1;
		default:
			fputs("Try 'guest-worker --help'.\n", stderr);
			return -1;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "guest-worker: unexpected argument: %s\n", argv[optind]);
		return -1;
	}
	return 0;
}

/* 1 and the secret, 0 when there is none. */
static int read_secret(
	const struct options *options, uint8_t *ret, bool *ret_privileged, struct error **err)
{
	size_t size;

	if (options->init)
		return init_read_secret(ret, ret_privileged, err);
	if (!options->secret_file)
		return 0;
	_cleanup_free_ char *hex = read_file(options->secret_file, 4 * KIB, &size, err);
	if (!hex)
		return -1;
	hex[strcspn(hex, "\n")] = 0;
	int r = hex_decode(hex, ret, PROOF_SECRET_BYTES);
	explicit_bzero(hex, size);
	return r < 0 ? error_set(err, ERR_INVALID, "%s: not %d bytes in hex", options->secret_file,
			       PROOF_SECRET_BYTES)
		     : 1;
}

/* Orphans become ours; how they ended matters to nobody. Job inits are waited for by their pidfds
 * and tell their results by pipes, so it does not matter who reaps them. */
static void *reap(void *arg)
{
	sigset_t child;

	(void)arg;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		if (waitpid(-1, NULL, __WALL) < 0 && errno == ECHILD)
			sigwaitinfo(&child, NULL);
	}
	return NULL;
}

/* All signals that we take are blocked in every thread, and read from the fd. */
static int open_signals(struct error **err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	int fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "signalfd");
	sigaddset(&set, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return fd;
}

static void wait_for_end(const struct worker *worker, int signals)
{
	struct pollfd fds[2] = {
		{.fd = worker_shutdown_fd(worker), .events = POLLIN},
		{.fd = signals, .events = POLLIN},
	};

	while (poll(fds, 2, -1) < 0)
		;
}

static void announce(const struct options *options, const struct worker *worker)
{
	if (options->init)
		init_say("orchestrator-worker: ready");
	if (options->ready_port)
		listener_announce(options->ready_port, worker_boot_id(worker));
	log_debug("main", "ready");
}

static int start_reaper(struct error **err)
{
	pthread_t thread;
	int r;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	r = pthread_create(&thread, NULL, reap, NULL);
	if (r)
		return error_errno(err, r, "a thread to reap processes");
	pthread_detach(thread);
	return 0;
}

/* Without a network there is nothing to compare, but the host finds that out, and says it. */
static void start_bench(struct worker *worker)
{
	_cleanup_error_ struct error *err = NULL;

	if (bench_start(worker, &err) < 0)
		log_error("bench", "%s", err->text);
}

/* From a machine that is up to the order to end. */
static int serve(const struct options *options, const struct job_root *root, uint64_t began,
	struct error **err)
{
	uint8_t secret[PROOF_SECRET_BYTES];
	struct listener *listener = NULL;
	int r = -1;

	bool privileged = options->privileged;
	int has_secret = read_secret(options, secret, &privileged, err);
	if (has_secret < 0)
		return -1;
	if (!has_secret && !options->unix_path)
		log_warn("main", "no secret: whoever connects from the host is believed");
	_cleanup_close_ int signals = open_signals(err);
	if (signals < 0 || start_reaper(err) < 0)
		return -1;
	const struct worker_options worker_options = {
		.root = root,
		.init = options->init,
		.secret = has_secret ? secret : NULL,
		.bench = options->init && bench_wanted(),
		.kernel_usec = began,
	};
	rpc_init();
	struct worker *worker = worker_new(&worker_options, err);
	explicit_bzero(secret, sizeof(secret));
	if (worker && (listener = listener_new(
			       worker, options->port, options->unix_path, privileged, err))) {
		worker_set_ready(worker);
		if (worker_options.bench)
			start_bench(worker);
		r = listener_start(listener, err);
	}
	if (r == 0) {
		FAILPOINT("worker.ready");
		announce(options, worker);
		if (options->init)
			worker_keep_spare(worker);
		wait_for_end(worker, signals);
	}
	listener_free(listener);
	worker_free(worker);
	rpc_quit();
	return r;
}

static int run(const struct options *options, uint64_t began, struct error **err)
{
	struct job_root root;

	if (options->init && (init_machine(err) < 0 || init_job_root(err) < 0))
		return -1;
	if (job_root_init(options->init ? INIT_JOB_ROOT : "/",
		    options->init ? INIT_JOB_DIR : "/tmp", &root, err) < 0)
		return -1;
	int r = serve(options, &root, began, err);
	close(root.fd);
	return r;
}

int main(int argc, char **argv)
{
	uint64_t began = now_boot_usec();
	_cleanup_error_ struct error *err = NULL;
	struct options options = {.init = getpid() == 1, .port = WORKER_PORT};

	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_PLAIN);
	if (options.init) {
		options.ready_port = READY_PORT;
	} else {
		int r = parse_options(argc, argv, &options);
		if (r)
			return r > 0 ? 0 : 2;
	}
	int failed = run(&options, began, &err);
	if (failed < 0)
		log_error("orchestrator-worker", "%s", err->text);
	if (options.init)
		init_power_off();
	return failed < 0;
}
