#include "orchestrator/image_tools.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <sodium.h>

#include "common/util.h"
#include "orchestrator/spawn.h"

#define LIMIT_CAPTURE (4 * MIB)
#define TAIL_BYTES    4096
#define TAIL_LINES    8

/* Which Debian package has a tool. */
static const struct {
	const char *tool;
	const char *package;
} tool_packages[] = {
	{"apt-get", "apt"},
	{"bzip2", "bzip2"},
	{"dpkg-deb", "dpkg"},
	{"gzip", "gzip"},
	{"lz4", "lz4"},
	{"lzop", "lzop"},
	{"mkfs.erofs", "erofs-utils"},
	{"mmdebstrap", "mmdebstrap"},
	{"newuidmap", "uidmap"},
	{"tar", "tar"},
	{"unshare", "util-linux"},
	{"xz", "xz-utils"},
	{"zstd", "zstd"},
};

static bool in_path(const char *tool)
{
	_cleanup_free_ char *path = xstrdup(getenv("PATH"));
	char *save = NULL;

	for (char *dir = path ? strtok_r(path, ":", &save) : NULL; dir;
		dir = strtok_r(NULL, ":", &save)) {
		_cleanup_free_ char *file = str_printf("%s/%s", dir, tool);
		if (access(file, X_OK) == 0)
			return true;
	}
	return false;
}

int image_tools_need(const char *const *tools, size_t n, struct error **err)
{
	_cleanup_free_ char *missing = xstrdup(""), *packages = xstrdup("");

	for (size_t i = 0; i < n; i++) {
		const char *package = tools[i];
		if (in_path(tools[i]))
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(tool_packages); k++)
			if (str_eq(tool_packages[k].tool, tools[i]))
				package = tool_packages[k].package;
		char *m = str_printf("%s%s%s", missing, *missing ? ", " : "", tools[i]);
		char *p = str_printf("%s %s", packages, package);
		free(missing);
		free(packages);
		missing = m;
		packages = p;
	}
	if (!*missing)
		return 0;
	return error_set(
		err, ERR_NOT_FOUND, "not installed: %s (apt-get install%s)", missing, packages);
}

int image_tools_start(struct image_tools *tools, const char *log_path, int lock, struct error **err)
{
	*tools = (struct image_tools){.log = -1, .lock = lock};
	spawn_search_sbin();
	/* Tools' messages are searched for known causes, and sorted by byte. */
	setenv("LC_ALL", "C", 1);
	tools->log = open(log_path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (tools->log < 0)
		return error_errno(err, errno, "%s", log_path);
	tools->log_path = xstrdup(log_path);
	return 0;
}

void image_tools_stop(struct image_tools *tools)
{
	close_fd(&tools->log);
	free(tools->log_path);
	tools->log_path = NULL;
}

void arg_add(struct arg_list *list, const char *arg)
{
	list->items = xreallocarray(list->items, list->n + 2, sizeof(*list->items));
	list->items[list->n++] = xstrdup(arg);
	list->items[list->n] = NULL;
}

void arg_addf(struct arg_list *list, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	_cleanup_free_ char *arg = str_vprintf(fmt, ap);
	va_end(ap);
	arg_add(list, arg);
}

void arg_clear(struct arg_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct arg_list){0};
}

/* The log's last lines since `from`, each indented behind a newline. */
static char *log_tail(int log, off_t from)
{
	char buf[TAIL_BYTES + 1];
	off_t end = lseek(log, 0, SEEK_END);
	ssize_t n = pread(log, buf, TAIL_BYTES, MAX(from, end - TAIL_BYTES));
	char *out = xstrdup("");
	unsigned lines = 0;

	while (n > 0 && buf[n - 1] == '\n')
		n--;
	if (n <= 0)
		return out;
	buf[n] = 0;
	while (lines < TAIL_LINES && n > 0) {
		char *newline = memrchr(buf, '\n', (size_t)n);
		char *line = newline ? newline + 1 : buf;
		_cleanup_free_ char *shown = str_escape(line, (size_t)(buf + n - line), false);
		char *longer = str_printf("\n  %s%s", shown, out);
		free(out);
		out = longer;
		lines++;
		n = newline ? newline - buf : 0;
	}
	return out;
}

/* What people can do something about, found in what the tool said. */
static const struct {
	const char *text;
	enum err_code code;
	const char *cause;
} causes[] = {
	{"No space left on device", ERR_LIMIT, "the disk is full"},
	{"Temporary failure resolving", ERR_UNAVAILABLE, "no network (names are not resolved)"},
	{"Could not resolve", ERR_UNAVAILABLE, "no network (names are not resolved)"},
	{"Could not connect", ERR_UNAVAILABLE, "no network (the archive does not answer)"},
	{"Unable to connect", ERR_UNAVAILABLE, "no network (the archive does not answer)"},
	{"Network is unreachable", ERR_UNAVAILABLE, "no network"},
	{"apt-get update failed", ERR_UNAVAILABLE, "no network, or wrong apt sources"},
	{"Unable to locate package", ERR_INVALID, "a package is not known"},
};

/* What was meant, when it was started by way of unshare. */
static const char *tool_name(char *const argv[])
{
	for (size_t i = 1; str_eq(argv[0], "unshare") && argv[i] && argv[i + 1]; i++)
		if (str_eq(argv[i], "--"))
			return argv[i + 1];
	return argv[0];
}

static int tool_failed(struct image_tools *tools, const char *what, const char *tool, int status,
	off_t from, struct error **err)
{
	_cleanup_free_ char *tail = log_tail(tools->log, from);
	_cleanup_free_ char *how = WIFSIGNALED(status)
					   ? str_printf("killed by signal %d", WTERMSIG(status))
					   : str_printf("exit code %d", WEXITSTATUS(status));
	enum err_code code = ERR_UNKNOWN;
	const char *cause = NULL, *slash = strrchr(tool, '/');

	for (size_t i = 0; i < ARRAY_SIZE(causes) && !cause; i++) {
		if (strstr(tail, causes[i].text)) {
			code = causes[i].code;
			cause = causes[i].cause;
		}
	}
	return error_set(err, code, "%s: %s%s%s failed (%s); its output is in %s%s%s", what,
		cause ? cause : "", cause ? ": " : "", slash ? slash + 1 : tool, how,
		tools->log_path, *tail ? ", and ends:" : "", tail);
}

int image_tools_run(struct image_tools *tools, const char *what, char *const argv[], int in,
	int out, int timeout_ms, struct error **err)
{
	struct spawn_fd fds[4] = {{tools->log, 2}, {out >= 0 ? out : tools->log, 1}};
	size_t n = 2;
	off_t from = lseek(tools->log, 0, SEEK_END);
	int status;

	if (in >= 0)
		fds[n++] = (struct spawn_fd){in, 0};
	if (tools->lock >= 0)
		fds[n++] = (struct spawn_fd){tools->lock, 3};
	pid_t pid = spawn_process(argv, fds, n, err);
	if (pid < 0)
		return error_wrap(err, "%s", what);
	if (spawn_wait(pid, timeout_ms, &status) < 0) {
		kill(pid, SIGTERM);
		if (spawn_wait(pid, 10000, &status) < 0) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
		}
		return error_set(err, ERR_TIMEOUT, "%s: %s did not end; its output is in %s", what,
			argv[0], tools->log_path);
	}
	if (status)
		return tool_failed(tools, what, tool_name(argv), status, from, err);
	return 0;
}

char *image_tools_capture(struct image_tools *tools, const char *what, char *const argv[],
	int timeout_ms, struct error **err)
{
	_cleanup_close_ int out = memfd_create("output", MFD_CLOEXEC);
	struct stat st;

	if (out < 0) {
		error_errno(err, errno, "%s", what);
		return NULL;
	}
	if (image_tools_run(tools, what, argv, -1, out, timeout_ms, err) < 0)
		return NULL;
	if (fstat(out, &st) < 0 || (uint64_t)st.st_size > LIMIT_CAPTURE) {
		error_set(err, ERR_LIMIT, "%s: %s says too much", what, argv[0]);
		return NULL;
	}
	char *text = xcalloc((size_t)st.st_size + 1, 1);
	if (pread(out, text, (size_t)st.st_size, 0) != st.st_size) {
		error_errno(err, errno, "%s", what);
		free(text);
		return NULL;
	}
	return text;
}

static int copy_bytes(int from, int to)
{
	_cleanup_free_ char *buf = xmalloc(256 * KIB);

	for (;;) {
		ssize_t n = read(from, buf, 256 * KIB);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return (int)n;
		if (write_all(to, buf, (size_t)n) < 0)
			return -1;
	}
}

int image_tools_share_file(const char *from, const char *to, struct error **err)
{
	unlink(to);
	/* A link may be refused for a file of another user or on another file system; and only a
	 * file that nobody writes to may be shared so. */
	struct stat st;
	if (stat(from, &st) == 0 && !(st.st_mode & 0222) && link(from, to) == 0)
		return 0;
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	if (in < 0)
		return error_errno(err, errno, "%s", from);
	_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		return error_errno(err, errno, "%s", to);
	if ((ioctl(out, FICLONE, in) < 0 && copy_bytes(in, out) < 0) || fchmod(out, 0444) < 0)
		return error_errno(err, errno, "copying %s to %s", from, to);
	return 0;
}

char *image_tools_digest_texts(const char *const *texts)
{
	crypto_hash_sha256_state hash;
	uint8_t raw[crypto_hash_sha256_BYTES];

	crypto_hash_sha256_init(&hash);
	for (; *texts; texts++) {
		_cleanup_free_ char *length = str_printf("%zu:", strlen(*texts));
		crypto_hash_sha256_update(&hash, (const uint8_t *)length, strlen(length));
		crypto_hash_sha256_update(&hash, (const uint8_t *)*texts, strlen(*texts));
	}
	crypto_hash_sha256_final(&hash, raw);
	return hex_encode(raw, sizeof(raw));
}
