#include "orchestrator/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common/log.h"
#include "common/log_file.h"
#include "common/rpc.h"
#include "common/util.h"
#include "orchestrator/daemon.h"
#include "orchestrator/spawn.h"

#define LOG_BYTES (16 * MIB) /* of daemon.log, and as much of the one before it */

/* The lock goes with the process, however it ends; the file stays and says who holds it. */
static int lock_state_dir(const struct config *config, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/lock", config->state_dir);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char pid[32] = "";

	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return error_errno(err, errno, "locking %s", path);
		ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? strspn(pid, "0123456789") : 0] = '\0';
		return error_set(err, ERR_EXISTS, "a daemon (pid %s) serves %s already",
			pid[0] ? pid : "unknown", config->state_dir);
	}
	snprintf(pid, sizeof(pid), "%d\n", getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, strlen(pid), 0) < 0)
		return error_errno(err, errno, "%s", path);
	return steal_fd(fd);
}

static int log_to_file(const struct config *config, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/daemon.log", config->state_dir);

	return log_file_open(path, LOG_BYTES, err);
}

static void set_up_log(const struct config *config)
{
	enum log_level level = LOG_LEVEL_INFO;

	if (config->log_level)
		log_level_parse(config->log_level, &level);
	log_setup(level, LOG_FORMAT_TIMED);
}

/* Each VM, client and job costs a few descriptors: take what the system allows. */
static void raise_fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void say_ready(int *fd, const struct error *error)
{
	if (*fd < 0)
		return;
	_cleanup_free_ char *line =
		error ? str_printf("error: %s\n", error->text) : xstrdup("ready\n");
	if (write_all(*fd, line, strlen(line)) < 0)
		log_debug(NULL, "nobody waits for this daemon: %s", strerror(errno));
	close_fd(fd);
}

static struct daemon *begin(const struct config *config, const struct serve_options *options,
	int *ret_lock, struct error **err)
{
	/* To be passed, not to be read: QEMU may run as another user, whose files are below. What
	 * is nobody else's business is of mode 0600 or 0700 itself. */
	if (make_dirs(config->state_dir, config_dir_mode(), err) < 0 ||
		make_dirs(config->runtime_dir, config_dir_mode(), err) < 0)
		return NULL;
	*ret_lock = lock_state_dir(config, err);
	if (*ret_lock < 0)
		return NULL;
	if (!options->foreground && log_to_file(config, err) < 0)
		return NULL;
	return daemon_new(config, options->idle_exit, err);
}

int serve(const struct config *config, const struct serve_options *options, struct error **err)
{
	_cleanup_close_ int lock = -1;
	_cleanup_error_ struct error *why = NULL;
	int ready_fd = options->ready_fd;

	signal(SIGPIPE, SIG_IGN);
	umask(022);
	set_up_log(config);
	raise_fd_limit();
	spawn_search_sbin();
	rpc_init();
	struct daemon *daemon = begin(config, options, &lock, &why);
	say_ready(&ready_fd, why);
	if (daemon) {
		log_info(NULL, "serving %s, pid %d", config->state_dir, getpid());
		daemon_run(daemon);
		daemon_free(daemon);
		log_info(NULL, "ended");
	}
	rpc_quit();
	log_file_forget();
	return daemon ? 0 : error_move(err, steal_ptr(why));
}
