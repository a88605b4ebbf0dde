/* What this machine needs to run jobs, one function per need. */
#pragma once

#include <stdbool.h>

#include "orchestrator/config.h"

enum finding_level {
	FINDING_OK,
	FINDING_WARN, /* works, but slower or less than it could */
	FINDING_FAIL, /* no job can run */
};

struct finding {
	enum finding_level level;
	char *text;   /* owned; what was found */
	char *advice; /* owned; what to do about it; NULL: nothing */
};

struct check {
	const char *name;
	/* *ret is zeroed before. */
	void (*run)(const struct config *config, struct finding *ret);
};

/* In the order in which they are shown; ends without a name. */
extern const struct check doctor_checks[];

void finding_set(struct finding *finding, enum finding_level level, char *text, const char *advice);
void finding_clear(struct finding *finding);
