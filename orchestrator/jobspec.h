/* job.yaml to job.v1.Spec, by libyaml's event API against one table of keys. */
#pragma once

#include <stddef.h>

#include "common/error.h"
#include "job.pb-c.h"

/* Parse a job file's text. name is how errors call it ("job.yaml", "-"). On failure NULL, and
 * *err's text has ALL errors, one a line, each "name:line:column: what is wrong and what to do".
 * The spec is complete in itself and has passed jobspec_verify(), but defaults are not filled in.
 * Free with job__v1__spec__free_unpacked(spec, NULL). */
Job__V1__Spec *jobspec_parse(const char *text, size_t size, const char *name, struct error **err);

/* The same rules for a spec that came over the control socket. First error only. */
int jobspec_verify(const Job__V1__Spec *spec, struct error **err);

Job__V1__Spec *jobspec_copy(const Job__V1__Spec *spec);
