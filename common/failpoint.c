#include "common/failpoint.h"

#ifdef FAILPOINTS
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FROZEN "/sys/fs/cgroup/frozen"

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		abort(); /* the order cannot be obeyed */
	close(fd);
}

/* All threads, as in a process that is stopped; but PID 1 cannot be, and gRPC's threads block
 * every signal. */
static void hang(void)
{
	mkdir(FROZEN, 0755);
	put(FROZEN "/cgroup.procs", "0");
	put(FROZEN "/cgroup.freeze", "1");
}

void failpoint_pass(const char *name)
{
	static _Atomic long passed;
	const char *order = getenv("ORCHESTRATOR_FAILPOINT");
	size_t n = strlen(name);
	char *action;

	if (!order || strncmp(order, name, n) != 0 || order[n] != ':')
		return;
	/* Only one name is ordered, so one counter is enough. */
	if (++passed != strtol(order + n + 1, &action, 10))
		return;
	if (strcmp(action, ":crash") == 0)
		__builtin_trap(); /* PID 1 cannot kill itself otherwise */
	if (strcmp(action, ":hang") == 0)
		hang();
	else
		kill(getpid(), SIGKILL);
	for (;;)
		pause();
}
#endif
