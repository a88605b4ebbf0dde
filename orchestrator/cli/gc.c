/* orchestrator gc */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/control_api.h"
#include "control.pb-c.h"

#define REPLY_MS (5 * 60 * 1000) /* directories may be large */

static const struct cli_option options[] = {
	{0, "dry-run", NULL, "only list them"},
	{0, NULL, NULL, NULL},
};

static const struct output_type columns = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "FINISHED", .key = "finished", .kind = COLUMN_TIME},
			{.title = "EXPIRED", .key = "expired", .kind = COLUMN_TIME},
			{.title = NULL},
		},
};

static json_t *view_expired(const ProtobufCMessage *message)
{
	const Control__V1__GcReply *reply = (const Control__V1__GcReply *)message;
	json_t *row = json_object();

	json_object_set_new(row, "id", output_string(reply->id));
	json_object_set_new(row, "finished", json_integer((json_int_t)reply->finished));
	json_object_set_new(row, "expired", json_integer((json_int_t)reply->expired));
	return row;
}

static int run(const struct cli *cli, int argc, char **argv)
{
	Control__V1__GcRequest request = CONTROL__V1__GC_REQUEST__INIT;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	struct output output = output_stdout(cli);
	bool dry_run = cli_flag(cli, "dry-run");
	int code = cli_operands(cli, argc, argv, 0, 0, "");

	if (code)
		return code;
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	request.has_dry_run = true;
	request.dry_run = dry_run;
	json_t *rows = json_array();
	/* What went before a failure is gone, and is shown. */
	int r = connect_list(peer, &control_gc, &request.base, REPLY_MS, view_expired, rows, &err);
	if (r == 0 || json_array_size(rows))
		output_list(&output, &columns, rows);
	if (r < 0)
		code = cli_fail(cli, steal_ptr(err));
	else
		cli_note(cli, "%zu job%s %s", json_array_size(rows),
			json_array_size(rows) == 1 ? "" : "s",
			dry_run ? "would be removed" : "removed");
	json_decref(rows);
	return code;
}

const struct cli_command command_gc = {
	.name = "gc",
	.summary = "Remove finished jobs whose time is over",
	.synopsis = "[--dry-run]",
	.about = "That is: those whose ttl_after_finished is over, and, with `retain` in the "
		 "configuration, those\n"
		 "without one that ended longer ago. Their results go with them. The daemon does "
		 "the same every\n"
		 "minute; no job goes in the first minute after its end.",
	.options = options,
	.example = "orchestrator gc --dry-run\n"
		   "orchestrator gc -o name",
	.run = run,
};
