/* A job from the command line: a job file, options, or a job file with options that change it. */
#pragma once

#include "orchestrator/cli/job_source.h"
#include "orchestrator/cli/upload.h"

/* For the options of a command that submits. */
#define SPEC_OPTIONS                                                                               \
	{'i', "image", "NAME", "image of the VM"}, {'n', "name", "NAME", "name of the job"},       \
		{'c', "cpus", "N", "virtual CPUs"},                                                \
		{'m', "memory", "SIZE", "memory of the VM: 512M, 2G"},                             \
		{'d', "disk", "SIZE", "writable disk; without it files are kept in memory"},       \
		{0, "priority", "N", "-100 to 100; what is more urgent starts first"},             \
		{'t', "timeout", "TIME", "end the job after this long: 90s, 10m, 1h30m"},          \
		{'e', "env", "K=V",                                                                \
			"set a variable; K alone takes its value from here (repeats)"},            \
		{'u', "user", "USER", "run as this user of the guest"},                            \
		{'w', "workdir", "DIR", "directory to run in"},                                    \
		{0, "input", "SRC:DEST",                                                           \
			"put file or directory SRC at DEST in the guest (repeats)"},               \
		{0, "output", "PATH", "bring this file or directory home (repeats)"},              \
	{                                                                                          \
		'l', "label", "K=V", "label the job (repeats)"                                     \
	}

/* The job that the operands and options describe, verified; or NULL. ERR_INVALID: usage. */
struct job_files *spec_from_command_line(
	const struct cli *cli, int argc, char **argv, struct error **err);

/* The same for one document of a file that may have several. */
struct job_files *spec_from_document(const struct job_source *source, size_t i, struct error **err);
/* What the command's options say, over what the spec says. It is to be verified afterwards. */
int spec_apply_options(const struct cli *cli, Job__V1__Spec *spec, struct error **err);

/* "K=V" taken apart; both owned by the caller. ERR_INVALID if there is no K or no "=". */
int spec_split_pair(const char *pair, char **ret_name, char **ret_value, struct error **err);
