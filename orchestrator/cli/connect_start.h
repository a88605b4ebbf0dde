/* Starts the daemon, detached from this terminal. */
#pragma once

#include <stdint.h>

#include "orchestrator/cli/cli.h"

/* `orchestrator serve --idle-exit` in a session of its own, its output in STATE_DIR/daemon.log.
 * Returns when it says that it listens, or fails with what it says or with the end of its log.
 * deadline: by now_mono_usec(). Call before rpc_init(). */
int connect_start_daemon(const struct cli *cli, uint64_t deadline, struct error **err);
