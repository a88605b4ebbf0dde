#include "orchestrator/cli/fetch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/file_tree.h"
#include "common/limits.h"
#include "common/util.h"
#include "control.pb-c.h"
#include "orchestrator/cli/progress.h"
#include "orchestrator/control_api.h"

#define RECORD_MS     60000 /* the longest silence of a daemon that reads a slow disk */
#define PROGRESS_STEP UINT64_C(4194304)

static bool is_empty(DIR *dir)
{
	struct dirent *entry;

	while ((entry = readdir(dir)))
		if (!str_eq(entry->d_name, ".") && !str_eq(entry->d_name, ".."))
			return false;
	return true;
}

int fetch_check_directory(const char *path, bool replace, struct error **err)
{
	DIR *dir = opendir(path);

	if (!dir)
		return errno == ENOENT ? 0 : error_errno(err, errno, "--output-dir %s", path);
	bool empty = is_empty(dir);
	closedir(dir);
	if (!empty && !replace)
		return error_set(err, ERR_EXISTS,
			"--output-dir %s: is not empty; --force writes over what is there", path);
	return 0;
}

static void on_missing(void *arg, const char *path, const char *reason)
{
	cli_note(arg, "%s did not come: %s", path, reason);
}

static int take_records(const struct cli *cli, struct rpc_call *call, struct tree_writer *writer,
	struct error **err)
{
	struct progress progress = progress_begin(cli);
	uint64_t bytes = 0, shown = 0;
	int r;

	for (;;) {
		ProtobufCMessage *message = NULL;
		r = rpc_recv(call, RECORD_MS, &message, err);
		if (r <= 0)
			break;
		Job__V1__FileRecord *record = (Job__V1__FileRecord *)message;
		if (record->part_case == JOB__V1__FILE_RECORD__PART_CHUNK)
			bytes += record->chunk.len;
		r = tree_writer_record(writer, record, err);
		rpc_message_free(message);
		if (r < 0)
			break;
		if (bytes - shown >= PROGRESS_STEP) {
			_cleanup_free_ char *size = format_size(bytes);
			progress_show(&progress, "fetching the results: %s", size);
			shown = bytes;
		}
	}
	progress_end(&progress);
	return r;
}

int fetch_results(const struct cli *cli, struct rpc_peer *peer, const char *id, uint32_t attempt,
	const char *dir, bool replace, struct error **err)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	struct tree_writer_options options = {
		/* The job's own limits were kept when its files came home; these bound a daemon. */
		.limits = {.files = LIMIT_FILES * LIMIT_TREE_FILES,
			.depth = LIMIT_TREE_DEPTH + 2,
			.bytes = LIMIT_ARTIFACTS + 4 * LIMIT_OUTPUT},
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0755,
		.replace = replace,
		.on_missing = on_missing,
		.arg = (void *)(uintptr_t)cli,
	};
	struct tree_totals totals;

	if (make_dirs(dir, 0777, err) < 0)
		return error_wrap(err, "--output-dir");
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "--output-dir %s", dir);
	struct rpc_call *call = rpc_open(peer, &control_result, -1, err);
	if (!call)
		return -1;
	request.id = (char *)(uintptr_t)id;
	request.has_attempt = attempt != 0;
	request.attempt = attempt;
	struct tree_writer *writer = tree_writer_new(fd, &options);
	int r = rpc_send(call, &request.base, err) < 0 || rpc_close_send(call, err) < 0
			? -1
			: take_records(cli, call, writer, err);
	if (r == 0)
		r = tree_writer_finish(writer, &totals, err);
	tree_writer_free(writer);
	rpc_close(call);
	/* What is invalid here came from the daemon or the job, not from whoever asked. */
	if (r < 0 && err && *err && (*err)->code == ERR_INVALID)
		(*err)->code = ERR_DATA_LOSS;
	if (r < 0 && err && *err && (*err)->code == ERR_EXISTS) {
		_cleanup_free_ char *said = xstrdup((*err)->text);

		error_free(steal_ptr(*err));
		error_set(err, ERR_EXISTS, "%s; --force writes over it", said);
	}
	if (r < 0)
		return error_wrap(err, "fetching the results of job %s into %s", id, dir);
	_cleanup_free_ char *size = format_size(totals.bytes);
	cli_note(cli, "%llu file%s (%s) in %s", (unsigned long long)totals.files,
		totals.files == 1 ? "" : "s", size, dir);
	return 0;
}
