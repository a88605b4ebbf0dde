#include "orchestrator/cli/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "common/util.h"
#include "control.pb-c.h"
#include "orchestrator/cli/interrupt.h"
#include "orchestrator/cli/progress.h"
#include "orchestrator/control_api.h"

#define REPLY_MS	60000 /* the daemon syncs the files before it answers */
#define PROGRESS_STEP	UINT64_C(4194304)
#define LIMIT_READ_LINK 4096

void job_files_free(struct job_files *files)
{
	if (!files)
		return;
	if (files->spec)
		job__v1__spec__free_unpacked(files->spec, NULL);
	free(files->name);
	close_fd(&files->base_fd);
	free(files);
}

/* The entry's place and the path it means: "job.yaml: input 2, data/x: /home/me/data/x". */
static char *input_place(const struct job_files *files, size_t i)
{
	const char *src = files->spec->inputs[i]->src;
	char base[LIMIT_READ_LINK], link[64];
	ssize_t n = -1;

	if (*src != '/') {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", files->base_fd);
		n = readlink(link, base, sizeof(base) - 1);
	}
	if (n < 0)
		return str_printf("%s: inputs[%zu]: %s", files->name, i, src);
	base[n] = 0;
	return str_printf("%s: inputs[%zu]: %s (%s/%s)", files->name, i, src, base, src);
}

int upload_check_inputs(const struct job_files *files, struct error **err)
{
	for (size_t i = 0; i < files->spec->n_inputs; i++) {
		const char *src = files->spec->inputs[i]->src;
		struct stat st;
		_cleanup_free_ char *place = input_place(files, i);
		/* Not to hang on a FIFO, not to rewind a tape. */
		_cleanup_close_ int fd =
			openat(files->base_fd, src, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

		if (fd < 0 || fstat(fd, &st) < 0) {
			error_errno(err, errno, "%s", place);
			return error_blame_caller(err);
		}
		if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
			return error_set(
				err, ERR_INVALID, "%s: is neither a file nor a directory", place);
	}
	return 0;
}

struct upload {
	struct rpc_call *call;
	const struct job_files *files;
	size_t input; /* which is being sent */
	uint64_t bytes, shown;
	struct progress progress;
};

static int emit(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	struct upload *upload = arg;
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;

	if (record->part_case == JOB__V1__FILE_RECORD__PART_MISSING) {
		_cleanup_free_ char *place = input_place(upload->files, upload->input);
		const char *below = strchr(record->missing->path, '/');
		return error_set(err, ERR_NOT_FOUND, "%s%s%s: %s", place, below ? ": " : "",
			below ? below + 1 : "", record->missing->reason);
	}
	if (record->part_case == JOB__V1__FILE_RECORD__PART_CHUNK)
		upload->bytes += record->chunk.len;
	if (upload->bytes - upload->shown >= PROGRESS_STEP) {
		_cleanup_free_ char *size = format_size(upload->bytes);
		upload->shown = upload->bytes;
		progress_show(&upload->progress, "sending the inputs: %s", size);
	}
	request.record = (Job__V1__FileRecord *)(uintptr_t)record;
	return rpc_send(upload->call, &request.base, err);
}

static int send_all(struct upload *upload, const char *key, struct error **err)
{
	const Job__V1__Spec *spec = upload->files->spec;
	Control__V1__SubmitRequest first = CONTROL__V1__SUBMIT_REQUEST__INIT;
	struct tree_totals totals = {0};

	first.spec = upload->files->spec;
	first.key = (char *)(uintptr_t)key;
	if (rpc_send(upload->call, &first.base, err) < 0)
		return -1;
	for (size_t i = 0; i < spec->n_inputs; i++) {
		char name[24];

		snprintf(name, sizeof(name), "%zu", i);
		upload->input = i;
		if (tree_send(upload->files->base_fd, spec->inputs[i]->src, name,
			    &tree_limits_default, emit, upload, &totals, err) < 0)
			return -1;
	}
	return rpc_close_send(upload->call, err);
}

/* What the daemon answers. Also where sending failed: then its refusal says more than a broken
 * stream does. */
static int take_reply(struct rpc_call *call, char **ret_id, struct error **err)
{
	ProtobufCMessage *message = NULL;
	int r = rpc_recv(call, REPLY_MS, &message, err);

	if (r == 0)
		return error_set(err, ERR_UNAVAILABLE, "the daemon gave no answer");
	if (r < 0)
		return -1;
	*ret_id = xstrdup(((Control__V1__SubmitReply *)message)->id);
	rpc_message_free(message);
	return 0;
}

static bool is_broken_stream(const struct error *err)
{
	return err->code == ERR_CANCELLED || err->code == ERR_UNAVAILABLE ||
	       err->code == ERR_ABORTED || err->code == ERR_STATE;
}

int upload_job(const struct cli *cli, struct rpc_peer *peer, const struct job_files *files,
	const char *key, char **ret_id, struct error **err)
{
	_cleanup_error_ struct error *why = NULL, *refusal = NULL;
	struct upload upload = {.files = files, .progress = progress_begin(cli)};

	*ret_id = NULL;
	upload.call = rpc_open(peer, &control_submit, -1, err);
	if (!upload.call)
		return -1;
	interrupt_watch(upload.call);
	int r = send_all(&upload, key, &why);
	if (r < 0 && is_broken_stream(why) && take_reply(upload.call, ret_id, &refusal) < 0)
		error_move(&why, steal_ptr(refusal));
	else if (r == 0)
		r = take_reply(upload.call, ret_id, &why);
	interrupt_watch(NULL);
	rpc_close(upload.call);
	progress_end(&upload.progress);
	if (*ret_id)
		return 0;
	return error_move(err, steal_ptr(why));
}
