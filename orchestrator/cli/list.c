/* orchestrator list */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/cli/spec_options.h"
#include "orchestrator/control_api.h"
#include "orchestrator/image.h"
#include "orchestrator/job.h"

#define RECORD_MS     30000
#define DEFAULT_LIMIT 50

static const struct cli_option options[] = {
	{'s', "state", "STATE", "jobs: queued, starting, running, collecting, finished (repeats)"},
	{'l', "label", "K=V", "jobs: only those with this label (repeats)"},
	{'n', "limit", "N", "jobs: at most N, the newest (0: all; usually 50)"},
	{0, "no-start", NULL, "jobs: where no daemon runs, list none rather than start one"},
	{0, NULL, NULL, NULL},
};

static const struct output_type image_columns = {
	.name_key = "name",
	.columns =
		(const struct output_column[]){
			{.title = "NAME", .key = "name"},
			{.title = "SIZE", .key = "size_bytes", .kind = COLUMN_SIZE, .right = true},
			{.title = "ROOT", .key = "root_type"},
			{.title = "KERNEL", .key = "kernel_kind"},
			{.title = "RELEASE", .key = "kernel_release"},
			{.title = "CREATED", .key = "created"},
			{.title = "DIRECTORY", .key = "dir", .gives = true},
			{.title = NULL},
		},
};

static json_t *view_job(const ProtobufCMessage *message)
{
	return job_view((const Control__V1__JobInfo *)message);
}

static json_t *view_vm(const ProtobufCMessage *message)
{
	return vm_view((const Control__V1__VmInfo *)message);
}

static int parse_state(const char *text, Control__V1__State *ret, struct error **err)
{
	for (enum job_state state = JOB_QUEUED; state <= JOB_FINISHED; state++) {
		if (str_eq(text, job_state_name(state))) {
			*ret = (Control__V1__State)state;
			return 0;
		}
	}
	return error_set(err, ERR_INVALID,
		"--state '%s': the states are queued, starting, running, collecting and finished",
		text);
}

/* What the options ask for. The pieces are arrays on the stack of list_jobs(). */
struct filter {
	Control__V1__State states[16];
	Job__V1__Label labels[LIMIT_LABELS];
	Job__V1__Label *label_list[LIMIT_LABELS];
};

static int fill_filter(const struct cli *cli, struct filter *filter,
	Control__V1__ListJobsRequest *request, struct error **err)
{
	const char *value = cli_value(cli, "limit");
	uint64_t limit = DEFAULT_LIMIT;

	if (value && parse_number(value, 0, UINT32_MAX, &limit) < 0)
		return error_set(err, ERR_INVALID, "--limit '%s': is not a number", value);
	request->has_limit = true;
	request->limit = (uint32_t)limit;
	request->states = filter->states;
	for (size_t i = 0; (value = cli_value_nth(cli, "state", i)); i++) {
		if (i == ARRAY_SIZE(filter->states))
			return error_set(err, ERR_INVALID, "too many --state");
		if (parse_state(value, &filter->states[request->n_states++], err) < 0)
			return -1;
	}
	request->labels = filter->label_list;
	for (size_t i = 0; (value = cli_value_nth(cli, "label", i)); i++) {
		if (i == LIMIT_LABELS)
			return error_set(err, ERR_INVALID, "more than %d --label", LIMIT_LABELS);
		Job__V1__Label *label = &filter->labels[i];
		job__v1__label__init(label);
		if (spec_split_pair(value, &label->name, &label->value, err) < 0)
			return error_wrap(err, "--label");
		filter->label_list[request->n_labels++] = label;
	}
	return 0;
}

static int list_jobs(const struct cli *cli, json_t *rows, struct error **err)
{
	Control__V1__ListJobsRequest request = CONTROL__V1__LIST_JOBS_REQUEST__INIT;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	struct filter filter = {0};

	int r = fill_filter(cli, &filter, &request, err);
	enum connect_mode mode = cli_flag(cli, "no-start") ? CONNECT_IF_RUNNING : CONNECT_START;
	if (r == 0)
		r = connect_daemon(cli, mode, &peer, NULL, err);
	if (r == 0 && peer)
		r = connect_list(
			peer, &control_list_jobs, &request.base, RECORD_MS, view_job, rows, err);
	for (size_t i = 0; i < LIMIT_LABELS; i++) {
		free(filter.labels[i].name);
		free(filter.labels[i].value);
	}
	if (r == 0 && !cli_flag(cli, "limit") && json_array_size(rows) == DEFAULT_LIMIT)
		cli_note(cli, "the newest %d jobs; --limit 0 lists all", DEFAULT_LIMIT);
	return r;
}

static int list_vms(const struct cli *cli, json_t *rows, struct error **err)
{
	Control__V1__ListVmsRequest request = CONTROL__V1__LIST_VMS_REQUEST__INIT;
	_cleanup_peer_ struct rpc_peer *peer = NULL;

	if (connect_daemon(cli, CONNECT_IF_RUNNING, &peer, NULL, err) < 0)
		return -1;
	if (!peer)
		return 0;
	return connect_list(peer, &control_list_vms, &request.base, RECORD_MS, view_vm, rows, err);
}

static json_t *view_pool(const ProtobufCMessage *message)
{
	return pool_view((const Control__V1__PoolInfo *)message);
}

static int list_pools(const struct cli *cli, json_t *rows, struct error **err)
{
	Control__V1__ListPoolsRequest request = CONTROL__V1__LIST_POOLS_REQUEST__INIT;
	_cleanup_peer_ struct rpc_peer *peer = NULL;

	if (connect_daemon(cli, CONNECT_IF_RUNNING, &peer, NULL, err) < 0)
		return -1;
	if (!peer)
		return 0;
	if (!cli->config->n_pools)
		cli_note(cli, "no pools are configured here (pool: in the configuration)");
	return connect_list(
		peer, &control_list_pools, &request.base, RECORD_MS, view_pool, rows, err);
}

static json_t *image_view(const struct image *image)
{
	json_t *object = json_object();

	json_object_set_new(object, "name", output_string(image->name));
	json_object_set_new(object, "size_bytes", json_integer((json_int_t)image->size));
	json_object_set_new(object, "root_type", output_string(image->root_type));
	json_object_set_new(object, "kernel_kind", output_string(image->kernel_kind));
	json_object_set_new(object, "kernel_release", output_string(image->kernel_release));
	json_object_set_new(object, "created", output_string(image->created));
	json_object_set_new(object, "digest", output_string(image->digest));
	json_object_set_new(object, "dir", output_string(image->dir));
	return object;
}

static void say_broken(const char *name, const char *why)
{
	fprintf(stderr, "orchestrator: image %s is broken: %s\n", name, why);
}

static int list_images(const struct cli *cli, json_t *rows, struct error **err)
{
	struct image **images = NULL;
	size_t n = 0;

	if (image_list(cli->config, &images, &n, say_broken, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(rows, image_view(images[i]));
		image_free(images[i]);
	}
	free(images);
	if (!n)
		cli_note(cli, "no images in %s; make one: orchestrator image build %s",
			cli->config->image_dir, cli->config->default_image);
	return 0;
}

static int run(const struct cli *cli, int argc, char **argv)
{
	static const struct {
		const char *one, *many;
		const struct output_type *type;
		int (*list)(const struct cli *, json_t *, struct error **);
	} kinds[] = {
		{"job", "jobs", &job_columns, list_jobs},
		{"vm", "vms", &vm_columns, list_vms},
		{"image", "images", &image_columns, list_images},
		{"pool", "pools", &pool_columns, list_pools},
	};
	_cleanup_error_ struct error *err = NULL;
	struct output output = output_stdout(cli);
	int code = cli_operands(cli, argc, argv, 1, 1, "what to list: jobs, vms, images or pools");

	if (code)
		return code;
	for (size_t i = 0; options[i].name; i++)
		if (cli_flag(cli, options[i].name) && !str_eq(argv[1], "jobs") &&
			!str_eq(argv[1], "job"))
			return cli_usage(cli, "--%s is for 'list jobs' only", options[i].name);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!str_eq(argv[1], kinds[i].one) && !str_eq(argv[1], kinds[i].many))
			continue;
		json_t *rows = json_array();
		if (kinds[i].list(cli, rows, &err) < 0)
			code = cli_fail(cli, steal_ptr(err));
		else
			output_list(&output, kinds[i].type, rows);
		json_decref(rows);
		return code;
	}
	return cli_usage(cli, "'%s' cannot be listed: jobs, vms, images and pools can", argv[1]);
}

const struct cli_command command_list = {
	.name = "list",
	.summary = "List jobs, VMs, images or warm pools",
	.synopsis = "jobs|vms|images|pools [OPTIONS]",
	.about = "Jobs come newest first. VMs and pools are listed without starting a daemon: "
		 "where none\n"
		 "runs there are none. A pool's state is well, backing off (after a failure, soon "
		 "again),\n"
		 "open (it failed too often, and is tried every five minutes) or trial.",
	.options = options,
	.example = "orchestrator list jobs --state running -l team=build\n"
		   "orchestrator list vms -o json\n"
		   "orchestrator cancel $(orchestrator list jobs -s queued -o name)",
	.run = run,
};
