#include "orchestrator/capacity.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

uint64_t capacity_memory(uint64_t machine, const char *const *limit_files, size_t n)
{
	uint64_t least = machine;

	for (size_t i = 0; i < n; i++) {
		size_t size;
		char *end;
		_cleanup_free_ char *text = read_file(limit_files[i], 64, &size, NULL);

		if (!text || !isdigit((unsigned char)*text))
			continue;
		errno = 0;
		uint64_t limit = strtoull(text, &end, 10);
		if (errno == 0 && limit > 0 && limit < least)
			least = limit;
	}
	return least;
}

/* In a container the group's own limit is seen at the root of the mount; outside of one these files
 * are not there, or say that there is none. */
static uint64_t memory(void)
{
	static const char *const files[] = {
		"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
	uint64_t pages = (uint64_t)MAX(sysconf(_SC_PHYS_PAGES), 0L);

	return capacity_memory(pages * (uint64_t)sysconf(_SC_PAGESIZE), files, ARRAY_SIZE(files));
}

static uint32_t processors(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

struct scheduler_capacity capacity_read(const struct config *config)
{
	return scheduler_capacity_of(
		memory(), processors(), config->memory_overcommit, config->cpu_overcommit);
}
