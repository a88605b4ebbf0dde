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
#include "orchestrator/attempt_files.h"
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
	const char *id;
	struct watch *watch; /* NULL: the job is not live, or not followed */
	unsigned attempt;    /* whose files the streams are */
	int dir_fd;
	struct stream streams[2];
	size_t n_streams;
	uint8_t *buffer;
};

static bool is_last_attempt(struct follower *f)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	struct watch_news news;
	uint32_t position;

	if (f->watch) {
		watch_look(f->watch, &news);
		return news.attempt <= f->attempt;
	}
	return control_get(f->daemon, f->id, &record, &position, NULL) == 0 &&
	       record->attempt <= f->attempt;
}

/* The files of an attempt go away when the next one is about to begin: whose a file in the job's
 * directory is, is known when it is open. */
static int open_file(struct follower *f, const char *name)
{
	bool shared;
	int fd = attempt_files_open(f->dir_fd, f->attempt, is_last_attempt(f), name, &shared);

	if (fd < 0 || !shared || is_last_attempt(f))
		return fd;
	close(fd);
	return attempt_files_open(f->dir_fd, f->attempt, false, name, &shared);
}

/* One chunk: 1 sent, 0 nothing there now, -1. */
static int send_chunk(struct follower *f, struct stream *stream, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;

	if (stream->fd < 0)
		stream->fd = open_file(f, stream->file);
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
	reply.has_attempt = true;
	reply.attempt = f->attempt;
	return rpc_send(f->call, &reply.base, err);
}

static int send_ended(struct follower *f, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;
	_cleanup_job_record_ struct job_record *record = NULL;
	uint32_t position;

	if (control_get(f->daemon, f->id, &record, &position, err) < 0)
		return -1;
	_cleanup_job_info_ Control__V1__JobInfo *info =
		control_info_of(f->daemon, record, position);
	reply.ended = info;
	return rpc_send(f->call, &reply.base, err);
}

static void close_streams(struct follower *f)
{
	for (size_t i = 0; i < f->n_streams; i++)
		close_fd(&f->streams[i].fd);
}

/* The attempt is over, and has been shown to its end: on to the next one. */
static int go_to_next(struct follower *f, struct error **err)
{
	Control__V1__LogsReply reply = CONTROL__V1__LOGS_REPLY__INIT;
	_cleanup_job_record_ struct job_record *record = NULL;

	if (control_get_attempt(f->daemon, f->id, f->attempt, &record, err) < 0)
		return -1;
	_cleanup_job_info_ Control__V1__JobInfo *info = record_to_info(record, NULL, RECORD_BRIEF);
	reply.retried = info;
	if (rpc_send(f->call, &reply.base, err) < 0)
		return -1;
	close_streams(f);
	for (size_t i = 0; i < f->n_streams; i++)
		f->streams[i].offset = 0;
	f->attempt++;
	return 0;
}

/* All there is by now: the rest of attempts that are over, then what the last one has. */
static int catch_up(struct follower *f, const struct watch_news *news, struct error **err)
{
	for (;;) {
		if (f->attempt <= news->attempt && send_all(f, err) < 0)
			return -1;
		if (f->attempt > news->attempt ||
			(f->attempt == news->attempt && news->state != JOB_QUEUED))
			return 0;
		if (go_to_next(f, err) < 0)
			return -1;
	}
}

static int follow(struct follower *f, struct error **err)
{
	struct watch_news news = {0};
	bool console = f->streams[0].which == CONTROL__V1__LOGS_REPLY__STREAM__CONSOLE;
	enum job_state told = 0;

	for (;;) {
		watch_wait(f->watch, console ? CONSOLE_MS : GONE_MS, &news);
		if (rpc_call_cancelled(f->call))
			return error_set(err, ERR_CANCELLED, "the caller went away");
		if (news.state != told && send_state(f, news.state, err) < 0)
			return -1;
		told = news.state;
		/* Looked at after the news: once it is finished, the files grow no more. */
		if (catch_up(f, &news, err) < 0)
			return -1;
		if (news.finished)
			return 0;
		if (news.stopping)
			return error_set(err, ERR_UNAVAILABLE,
				"the daemon is stopping; job %s is %s", f->id,
				job_state_name(news.state));
	}
}

/* Nothing more will happen to it. */
static int show_ended(struct follower *f, struct error **err)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	uint32_t position;

	if (control_get(f->daemon, f->id, &record, &position, err) < 0)
		return -1;
	struct watch_news news = {
		.state = record->state, .attempt = record->attempt, .finished = true};
	return catch_up(f, &news, err);
}

static int run(struct follower *f, bool following, struct error **err)
{
	struct watch watch;
	int r;

	if (!following)
		return send_all(f, err);
	if (control_watch(f->daemon, f->id, &watch)) {
		f->watch = &watch;
		r = follow(f, err);
		f->watch = NULL;
		control_unwatch(f->daemon, &watch);
	} else {
		r = show_ended(f, err);
	}
	return r < 0 ? -1 : send_ended(f, err);
}

/* Who follows may wait for the attempt behind the last one. */
static int choose_attempt(
	struct follower *f, const Control__V1__LogsRequest *request, struct error **err)
{
	_cleanup_job_record_ struct job_record *record = NULL;
	uint32_t position;

	if (control_get(f->daemon, f->id, &record, &position, err) < 0)
		return -1;
	f->attempt = request->attempt ? request->attempt : MAX(record->attempt, 1u);
	if (f->attempt > MAX(record->attempt + request->follow, 1u))
		return error_set(err, ERR_NOT_FOUND, "job %s has no attempt %u; so far there %s %u",
			f->id, f->attempt, record->attempt == 1 ? "was" : "were", record->attempt);
	return 0;
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
	f.id = id;
	if (dir_fd < 0 || choose_attempt(&f, request, err) < 0)
		return -1;
	_cleanup_free_ uint8_t *buffer = xmalloc(CHUNK);
	f.dir_fd = dir_fd;
	f.buffer = buffer;
	choose_streams(&f, request);
	int r = run(&f, request->follow, err);
	close_streams(&f);
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
static int restore_result_json(const char *dir, const struct job_record *record, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/result.json", dir);

	if (access(path, F_OK) == 0)
		return 0;
	_cleanup_free_ char *text = record_result_json(record);
	return results_write_json(dir, text, err);
}

/* The job's own result.json is in its directory, even where its last attempt has one besides. */
static bool find_file(int dir_fd, unsigned attempt, bool of_job, const char *name, char **ret_path)
{
	_cleanup_free_ char *kept = str_printf("attempts/%u/%s", attempt, name);

	if (of_job && faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		*ret_path = xstrdup(name);
	else if (faccessat(dir_fd, kept, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		*ret_path = steal_ptr(kept);
	else
		return false;
	return true;
}

/* of_job: the files in the job's directory are the attempt's. */
static int send_files(
	struct rpc_call *call, int dir_fd, unsigned attempt, bool of_job, struct error **err)
{
	struct tree_limits limits = {
		.files = LIMIT_TREE_FILES + 16, .depth = LIMIT_TREE_DEPTH + 1, .bytes = UINT64_MAX};
	struct tree_totals totals = {0};

	for (size_t i = 0; attempt_file_names[i]; i++) {
		const char *name = attempt_file_names[i];
		_cleanup_free_ char *path = NULL;

		if (!find_file(dir_fd, attempt, of_job, name, &path))
			continue; /* a job that never ran has no output */
		if (tree_send(dir_fd, path, name, &limits, emit, call, &totals, err) < 0)
			return -1;
	}
	return 0;
}

static int handle_result(struct rpc_call *call, void *arg, struct error **err)
{
	struct daemon *daemon = arg;
	_cleanup_message_ Control__V1__JobRequest *request = NULL;
	_cleanup_job_record_ struct job_record *record = NULL, *job = NULL;
	char id[JOB_ID_SIZE];
	uint32_t position;

	if (control_recv(call, &request, err) < 0 ||
		control_find(daemon, request->id, id, err) < 0 ||
		control_get_attempt(daemon, id, request->attempt, &record, err) < 0 ||
		control_get(daemon, id, &job, &position, err) < 0)
		return -1;
	if (record->state != JOB_FINISHED)
		return error_set(err, ERR_STATE, "job %s is still %s; it has no result yet", id,
			job_state_name(record->state));
	_cleanup_free_ char *dir = config_job_dir(daemon->config, id);
	_cleanup_free_ char *own =
		request->attempt ? attempt_files_dir(dir, request->attempt) : xstrdup(dir);
	_cleanup_close_ int dir_fd = open_dir(daemon, id, err);
	if (dir_fd < 0 || restore_result_json(own, record, err) < 0)
		return -1;
	/* An attempt whose files have gone to its own directory finds them there. */
	bool of_job = job->attempt == record->attempt && str_eq(own, dir);
	return send_files(call, dir_fd, record->attempt, of_job, err);
}

int control_handle_result(struct rpc_call *call, void *arg, struct error **err)
{
	if (control_sit(SEATS_MOVING, err) < 0)
		return -1;
	int r = handle_result(call, arg, err);
	control_rise(SEATS_MOVING);
	return r;
}
