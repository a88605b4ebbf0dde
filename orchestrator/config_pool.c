/* The configuration's key `pool`: images, and how many VMs of each stand ready. */
#include <stdio.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/config_keys.h"

#define MINUTE_MS UINT64_C(60000)
#define DAY_MS	  (24 * 60 * MINUTE_MS)
#define MAX_VMS	  1000

static char *check_pool(const void *target)
{
	const struct config_pool *pool = target;

	if (pool->max && pool->max < pool->min_idle)
		return str_printf("max is %u and min_idle %u: max counts the idle ones too",
			pool->max, pool->min_idle);
	return NULL;
}

#define AT(member) YAML_AT(struct config_pool, member)

static const struct yaml_key keys[] = {
	{"min_idle", YT_UINT, AT(min_idle), .min = 1, .max = MAX_VMS},
	{"max", YT_UINT, AT(max), .min = 1, .max = MAX_VMS},
	{"cpus", YT_UINT, AT(cpus), .min = 1, .max = LIMIT_CPUS},
	{"memory", YT_SIZE, AT(memory_bytes), .min = LIMIT_MEMORY_LEAST, .max = LIMIT_MEMORY},
	{"disk", YT_SIZE, AT(disk_bytes), .min = LIMIT_DISK_LEAST, .max = LIMIT_DISK},
	{"max_age", YT_DURATION, AT(max_age_ms), .min = 1000, .max = 7 * DAY_MS},
};

static const struct config_pool initial = {.min_idle = 1, .max_age_ms = 30 * MINUTE_MS};

const struct yaml_table config_pool_table = {"pool", sizeof(struct config_pool), YAML_KEYS(keys),
	.initial = &initial, .check = check_pool};

void config_pool_fill(struct config *config)
{
	for (size_t i = 0; i < config->n_pools; i++) {
		struct config_pool *pool = config->pools[i];

		if (!pool->max)
			pool->max = MIN(pool->min_idle + 1, (uint32_t)MAX_VMS);
		if (!pool->cpus)
			pool->cpus = config->default_cpus;
		if (!pool->memory_bytes)
			pool->memory_bytes = config->default_memory;
	}
}

/* "{min_idle: 1, max: 2, ...}"; a key of the value 0 is not set. */
static void describe_one(FILE *out, const struct config_pool *pool)
{
	const char *comma = "";

	fprintf(out, "  %s: {", pool->image);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		_cleanup_free_ char *value = yaml_key_format(&keys[i], pool);

		if (keys[i].offset == offsetof(struct config_pool, disk_bytes) && !pool->disk_bytes)
			continue;
		fprintf(out, "%s%s: %s", comma, keys[i].name, value);
		comma = ", ";
	}
	fputs("}\n", out);
}

void config_pool_describe(const struct config *config, const char *origin, FILE *out)
{
	fprintf(out, "%-47s # %s\n", config->n_pools ? "pool:" : "pool: {}",
		origin ? origin : "default");
	for (size_t i = 0; i < config->n_pools; i++)
		describe_one(out, config->pools[i]);
}
