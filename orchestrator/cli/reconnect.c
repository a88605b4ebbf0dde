#include "orchestrator/cli/reconnect.h"

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/interrupt.h"

#define PAUSE_MS     100
#define PAUSE_MAX_MS 5000
#define SLICE_MS     50 /* between two looks at whether a signal came */

int reconnect_patience_ms = 60000;

void reconnect_good(struct reconnect *reconnect)
{
	*reconnect = (struct reconnect){0};
}

/* Would the next try say the same? */
static bool is_final(const struct error *err)
{
	return err->code == ERR_DENIED || err->code == ERR_INVALID ||
	       err->code == ERR_UNSUPPORTED || err->code == ERR_STATE;
}

static int pause_before(struct reconnect *reconnect, struct error **err)
{
	for (int slept = 0; slept < reconnect->pause_ms; slept += SLICE_MS) {
		if (interrupt_signal())
			return error_set(err, ERR_CANCELLED, "interrupted");
		sleep_ms(SLICE_MS);
	}
	reconnect->pause_ms =
		reconnect->pause_ms ? MIN(reconnect->pause_ms * 2, PAUSE_MAX_MS) : PAUSE_MS;
	return 0;
}

static int give_up(const char *what, const struct error *last, struct error **err)
{
	return error_set(err, ERR_UNAVAILABLE,
		"the daemon went away while %s, and did not come back for %d s: %s", what,
		reconnect_patience_ms / 1000, last ? last->text : "it died each time");
}

int reconnect_daemon(const struct cli *cli, struct reconnect *reconnect, const char *what,
	struct rpc_peer **peer, struct error **err)
{
	_cleanup_error_ struct error *last = NULL;

	connect_close(steal_ptr(*peer));
	if (!reconnect->since)
		reconnect->since = now_mono_usec();
	for (;;) {
		_cleanup_error_ struct error *why = NULL;
		uint64_t passed_ms = (now_mono_usec() - reconnect->since) / 1000;

		if (passed_ms >= (uint64_t)reconnect_patience_ms)
			return give_up(what, last, err);
		if (pause_before(reconnect, err) < 0)
			return -1;
		int r = connect_daemon(cli, CONNECT_AGAIN, peer, NULL, &why);
		if (r == 0 && *peer)
			return 0;
		/* One that is still leaving, or that does not listen yet, has the directory. */
		if (r == 0 && !connect_is_locked(cli->config))
			return error_set(
				err, ERR_UNAVAILABLE, "the daemon was stopped while %s", what);
		if (r < 0 && is_final(why))
			return error_move(err, steal_ptr(why));
		if (r < 0) {
			error_free(last);
			last = steal_ptr(why);
		}
	}
}
