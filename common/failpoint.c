#include "common/failpoint.h"

#ifdef FAILPOINTS
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void failpoint_pass(const char *name)
{
	static _Atomic long passed;
	const char *order = getenv("ORCHESTRATOR_FAILPOINT");
	size_t n = strlen(name);

	if (!order || strncmp(order, name, n) != 0 || order[n] != ':')
		return;
	/* Only one name is ordered, so one counter is enough. */
	if (++passed == strtol(order + n + 1, NULL, 10)) {
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	}
}
#endif
