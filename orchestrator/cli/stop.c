/* orchestrator stop */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/control_api.h"

#define STOP_MS 60000 /* it destroys its VMs, and says good-bye to each of them */

/* Until the process is gone; by a pidfd taken while it still answered, so that no other is meant.
 */
static int wait_gone(int pidfd, uint32_t pid, struct error **err)
{
	uint64_t deadline = now_mono_usec() + STOP_MS * UINT64_C(1000);

	for (;;) {
		uint64_t now = now_mono_usec();
		struct pollfd pfd = {.fd = pidfd, .events = POLLIN};

		if (now >= deadline)
			return error_set(err, ERR_TIMEOUT,
				"the daemon (process %u) is still there after %d s", pid,
				STOP_MS / 1000);
		if (poll(&pfd, 1, (int)((deadline - now + 999) / 1000)) > 0)
			return 0;
	}
}

static int run(const struct cli *cli, int argc, char **argv)
{
	Control__V1__StopRequest request = CONTROL__V1__STOP_REQUEST__INIT;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_message_ Control__V1__InfoReply *info = NULL;
	_cleanup_message_ Control__V1__StopReply *reply = NULL;
	int code = cli_operands(cli, argc, argv, 0, 0, NULL);

	if (code)
		return code;
	if (connect_daemon(cli, CONNECT_IF_RUNNING, &peer, &info, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	if (!peer) {
		cli_note(cli, "no daemon is running");
		return 0;
	}
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)info->pid, 0);
	if (connect_call(peer, &control_stop, &request, STOP_MS, &reply, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	/* It may wait for this connection to end. */
	connect_close(steal_ptr(peer));
	if (pidfd >= 0 && wait_gone(pidfd, info->pid, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	cli_note(cli, "the daemon (process %u) has stopped", info->pid);
	return 0;
}

const struct cli_command command_stop = {
	.name = "stop",
	.summary = "Stop the daemon",
	.synopsis = "",
	.about = "Jobs that run are cancelled, and what they wrote is kept; those that wait are\n"
		 "taken up by the next daemon, which the next command starts. Returns when the\n"
		 "daemon is gone.",
	.example = "orchestrator stop",
	.run = run,
};
