/* The other end of a connection as a process of its own: this program again, with a role and an fd
 * as its arguments, which runs until it is killed or its parent dies. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/rpc_fixture.h"

struct rpc_child {
	pid_t pid;
	int fd; /* the connection's near end */
};

static inline struct rpc_child rpc_child_start(const char *role)
{
	struct rpc_child child;
	int pair[2];
	char number[16];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	snprintf(number, sizeof(number), "%d", pair[1]);
	child.fd = pair[0];
	child.pid = fork();
	if (child.pid == 0) {
		fcntl(pair[1], F_SETFD, 0);
		execl("/proc/self/exe", "rpc-child", role, number, (char *)NULL);
		_exit(127);
	}
	assert_true(child.pid > 0);
	close(pair[1]);
	/* Both kinds of peers say something first. Only then may our keepalive begin: to start a
	 * program may take longer than a peer may be silent. */
	struct pollfd said = {.fd = child.fd, .events = POLLIN};
	assert_int_equal(poll(&said, 1, PATIENCE_MS), 1);
	return child;
}

static inline void rpc_child_kill(const struct rpc_child *child)
{
	kill(child->pid, SIGKILL);
	while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
