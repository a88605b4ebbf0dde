/* Logs and Result: what a job left in its directory, or is leaving there just now.
 *
 * A follower holds one buffer and one watch, however much output there is: it reads the files at
 * its own pace, and the watch says when to look again. */
#include "orchestrator/control_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "common/limits.h"
#include "orchestrator/results.h"

#define CHUNK	(64 * KIB)
#define GONE_MS 1000 /* between two looks at whether the caller went away */
/* Between two looks at the console: it is written by the thread that watches all VMs, which knows
 * no jobs. A look is a pread(), and few people look at consoles. */
#define CONSOLE_MS 200

struct stream {
	Control__V1__LogsReply__Stream which;
	const char *file;
	uint64_t offset;
	int fd; /* -1: not opened yet; the file comes with the first output */
};

struct follower {
	struct rpc_call *call;
	struct daemon *daemon;
	int dir_fd;
	struct stream streams[2];
	size_t n_streams;
	uint8_t *buffer;
};

/* One chunk: 1 sent, 0 nothing there now, -1. */
static int send_chunk(struct follower *f, struct stream *stream, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;

	if (stream->fd < 0)
		stream->fd = openat(f->dir_fd, stream->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (stream->fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "%s", stream->file);
	ssize_t n = pread(stream->fd, f->buffer, CHUNK, (off_t)stream->offset);
	if (n < 0)
		return error_errno(err, errno, "%s", stream->file);
	if (n == 0)
		return 0;
	reply.has_stream = true;
	reply.stream = stream->which;
	reply.has_data = true;
	reply.data.data = f->buffer;
	reply.data.len = (size_t)n;
	stream->offset += (uint64_t)n;
	return rpc_send(f->call, &reply.base, err) < 0 ? -1 : 1;
}

/* What there is of all streams now, in turns, so that neither waits for the other's end. */
static int send_all(struct follower *f, struct error **err)
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < f->n_streams; i++) {
			int r = send_chunk(f, &f->streams[i], err);

			if (r < 0)
				return -1;
			more |= r > 0;
		}
	}
	return 0;
}

static int send_state(struct follower *f, enum job_state state, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;

	reply.has_state = true;
	reply.state = (Control__V1__State)state;
	return rpc_send(f->call, &reply.base, err);
}

static int send_ended(struct follower *f, const char *id, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;
	_cleanup_job_record_ struct job_record *record = NULL;
	uint32_t position;

	if (control_get(f->daemon, id, &record, &position, err) < 0)
		return -1;
	_cleanup_job_info_ Control__V1__JobInfo *info =
		control_info_of(f->daemon, record, position);
	reply.ended = info;
	return rpc_send(f->call, &reply.base, err);
}

static int follow(struct follower *f, struct watch *watch, const char *id, struct error **err)
{
	struct watch_news news = {0};
	bool console = f->streams[0].which == CONTROL__V1__LOGS_REPLY__STREAM__CONSOLE;
	enum job_state told = 0;

	for (;;) {
		watch_wait(watch, console ? CONSOLE_MS : GONE_MS, &news);
		if (rpc_call_cancelled(f->call))
			return error_set(err, ERR_CANCELLED, "the caller went away");
		if (news.state != told && send_state(f, news.state, err) < 0)
			return -1;
		told = news.state;
		/* Looked at after the news: once it is finished, the files grow no more. */
		if (send_all(f, err) < 0)
			return -1;
		if (news.finished)
			return 0;
		if (news.stopping)
			return error_set(err, ERR_UNAVAILABLE,
				"the daemon is stopping; job %s is %s", id,
				job_state_name(news.state));
	}
}

static int run(struct follower *f, const char *id, bool following, struct error **err)
{
	struct watch watch;
	int r;

	if (!following)
		return send_all(f, err);
	if (control_watch(f->daemon, id, &watch)) {
		r = follow(f, &watch, id, err);
		control_unwatch(f->daemon, &watch);
	} else {
		r = send_all(f, err);
	}
	return r < 0 ? -1 : send_ended(f, id, err);
}

static int open_dir(struct daemon *daemon, const char *id, struct error **err)
{
	_cleanup_free_ char *dir = config_job_dir(daemon->config, id);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* One that waits may have none yet, and its files will come there. */
	if (fd < 0 && errno == ENOENT && (mkdir(dir, 0700) == 0 || errno == EEXIST))
		fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_errno(err, errno, "%s", dir) : fd;
}

static void choose_streams(struct follower *f, const Control__V1__LogsRequest *request)
{
	if (request->console) {
		f->streams[f->n_streams++] = (struct stream){
			CONTROL__V1__LOGS_REPLY__STREAM__CONSOLE, "console.log", 0, -1};
		return;
	}
	f->streams[f->n_streams++] = (struct stream){
		CONTROL__V1__LOGS_REPLY__STREAM__STDOUT, "stdout", request->stdout_offset, -1};
	f->streams[f->n_streams++] = (struct stream){
		CONTROL__V1__LOGS_REPLY__STREAM__STDERR, "stderr", request->stderr_offset, -1};
}

static int handle_logs(struct rpc_call *call, void *arg, struct error **err)
{
	_cleanup_message_ Control__V1__LogsRequest *request = NULL;
	struct follower f = {.call = call, .daemon = arg};
	char id[JOB_ID_SIZE];

	if (control_recv(call, &request, err) < 0 ||
		control_find(f.daemon, request->id, id, err) < 0)
		return -1;
	if (request->stdout_offset > INT64_MAX || request->stderr_offset > INT64_MAX)
		return error_set(err, ERR_RANGE, "no file is so long");
	_cleanup_close_ int dir_fd = open_dir(f.daemon, id, err);
	if (dir_fd < 0)
		return -1;
	_cleanup_free_ uint8_t *buffer = xmalloc(CHUNK);
	f.dir_fd = dir_fd;
	f.buffer = buffer;
	choose_streams(&f, request);
	int r = run(&f, id, request->follow, err);
	for (size_t i = 0; i < f.n_streams; i++)
		close_fd(&f.streams[i].fd);
	return r;
}

int control_handle_logs(struct rpc_call *call, void *arg, struct error **err)
{
	if (control_sit(SEATS_WATCHING, err) < 0)
		return -1;
	int r = handle_logs(call, arg, err);
	control_rise(SEATS_WATCHING);
	return r;
}

/* --- Result ---------------------------------------------------------------------------------- */

static int emit(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	return rpc_send(arg, &record->base, err);
}

/* A job that an earlier daemon did not see to its end has none yet; the store's record is what
 * counts, and the file a copy of it. */
static int restore_result_json(
	int dir_fd, const char *dir, const struct job_record *record, struct error **err)
{
	if (faccessat(dir_fd, "result.json", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	_cleanup_free_ char *text = record_result_json(record);
	return results_write_json(dir, text, err);
}

static int send_files(struct rpc_call *call, int dir_fd, struct error **err)
{
	static const char *const names[] = {
		"result.json", "stdout", "stderr", "console.log", "artifacts", "artifacts.partial"};
	struct tree_limits limits = {
		.files = LIMIT_TREE_FILES + 16, .depth = LIMIT_TREE_DEPTH + 1, .bytes = UINT64_MAX};
	struct tree_totals totals = {0};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (faccessat(dir_fd, names[i], F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			continue; /* a job that never ran has no output */
		if (tree_send(dir_fd, names[i], names[i], &limits, emit, call, &totals, err) < 0)
			return -1;
	}
	return 0;
}

static int handle_result(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__JobRequest *request = NULL;
	_cleanup_job_record_ struct job_record *record = NULL;
	char id[JOB_ID_SIZE];
	uint32_t position;

	if (control_recv(call, &request, err) < 0 ||
		control_find(daemon, request->id, id, err) < 0 ||
		control_get(daemon, id, &record, &position, err) < 0)
		return -1;
	if (record->state != JOB_FINISHED)
		return error_set(err, ERR_STATE, "job %s is still %s; it has no result yet", id,
			job_state_name(record->state));
	_cleanup_free_ char *dir = config_job_dir(daemon->config, id);
	_cleanup_close_ int dir_fd = open_dir(daemon, id, err);
	if (dir_fd < 0 || restore_result_json(dir_fd, dir, record, err) < 0)
		return -1;
	return send_files(call, dir_fd, err);
}

int control_handle_result(struct rpc_call *call, void *arg, struct error **err)
{
	if (control_sit(SEATS_MOVING, err) < 0)
		return -1;
	int r = handle_result(call, arg, err);
	control_rise(SEATS_MOVING);
	return r;
}
