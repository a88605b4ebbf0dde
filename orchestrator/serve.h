/* `orchestrator serve`: one daemon per state directory, in the foreground or started by a command.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "orchestrator/config.h"

struct serve_options {
	bool foreground; /* log to stderr as it is; otherwise to STATE_DIR/daemon.log */
	bool idle_exit;	 /* leave after config->idle_timeout_ms without jobs and clients */
	int ready_fd;	 /* owned; one line is written to it, "ready" or "error: TEXT"; -1: none */
};

/* Returns when the daemon has ended: 0, or -1 with *err if it could not begin. ERR_EXISTS, naming
 * the process, when another daemon has the state directory. */
int serve(const struct config *config, const struct serve_options *options, struct error **err);
