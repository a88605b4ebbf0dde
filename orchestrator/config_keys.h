/* The configuration's insides, for config.c and its tests: the table of keys, and loading from
 * named places. */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "orchestrator/config.h"
#include "orchestrator/yaml_table.h"

extern const struct yaml_table config_table;

/* config_pool.c: one pool's keys; what was left out filled in; and its lines of config_describe().
 */
extern const struct yaml_table config_pool_table;
void config_pool_fill(struct config *config);
void config_pool_describe(const struct config *config, const char *origin, FILE *out);

struct config_sources {
	const char *files[2]; /* the later wins; NULL: none */
	bool must_exist;      /* else a file that is not there is passed over */
	uid_t uid;	      /* whose defaults */
	const char *home;     /* "~"; NULL: none, an error where a default needs it */
};

/* The environment is read in any case: ORCHESTRATOR_*, XDG_*. */
struct config *config_load_from(const struct config_sources *sources, struct error **err);

/* What is wrong with NAME=VALUE of the environment; NULL if it is set to nothing, a key's variable,
 * another that we know, or not called ORCHESTRATOR_*. */
char *config_variable_problem(const char *assignment);

/* "ORCHESTRATOR_MAX_VMS" for "max_vms"; owned by the caller. */
char *config_variable(const char *key);
