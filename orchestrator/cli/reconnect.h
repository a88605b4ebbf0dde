/* The way back to a daemon that went away while a command followed a job. */
#pragma once

#include <stdint.h>

#include "common/rpc.h"
#include "orchestrator/cli/cli.h"

struct reconnect {
	uint64_t since; /* when the outage began, monotonic; 0: there is none */
	int pause_ms;	/* before the next try */
};

/* So long an outage may last. The tests' command line has less patience. */
extern int reconnect_patience_ms;

/* The daemon did something for us: the next loss begins an outage of its own. */
void reconnect_good(struct reconnect *reconnect);
/* Close *peer and connect again, starting the daemon if it died; again and again, with growing
 * pauses. A loss soon after is the same outage. ERR_UNAVAILABLE with *peer NULL: it was stopped on
 * purpose, or the time is over. ERR_CANCELLED: a signal came. what: what the daemon was needed for,
 * for the error ("job 0nmv was running"). */
int reconnect_daemon(const struct cli *cli, struct reconnect *reconnect, const char *what,
	struct rpc_peer **peer, struct error **err);
