/* Submitting many jobs by one command. */
#pragma once

#include "orchestrator/cli/cli.h"
#include "orchestrator/cli/job_source.h"

/* All jobs of these files (n of them; a name that cannot be read is one refusal), changed by the
 * command's options. Their ids go to stdout in the order of the command line, each as soon as it is
 * committed and those before it are settled; what is refused is said on stderr, and stops no other.
 * Returns 0, or the exit code that the first refusal stands for; 128 + n after a signal, when what
 * was committed until then is printed. */
int submit_many(const struct cli *cli, char **names, size_t n);
