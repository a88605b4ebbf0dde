/* Any bytes as a job file: a spec that obeys the rules and survives its way as a message, or an
 * error whose every line has its place. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/jobspec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds, const char *what, const char *detail)
{
	if (holds)
		return;
	fprintf(stderr, "%s: %s\n", what, detail);
	abort();
}

static void check_spec(const Job__V1__Spec *spec)
{
	_cleanup_error_ struct error *err = NULL;
	Job__V1__Spec *copy = jobspec_copy(spec);

	if (jobspec_verify(spec, &err) < 0)
		must(false, "parsed, but not verified", err->text);
	must(job__v1__spec__get_packed_size(copy) == job__v1__spec__get_packed_size(spec),
		"the copy differs", spec->image);
	job__v1__spec__free_unpacked(copy, NULL);
}

static void check_error(const struct error *err)
{
	const char *line = err->text;

	must(err->code == ERR_INVALID, "code", err->text);
	must(utf8_valid(line, strlen(line)), "no UTF-8", line);
	_cleanup_free_ char *escaped = str_escape(line, strlen(line), true);
	must(str_eq(escaped, line), "drives the terminal", escaped);
	while (line) {
		unsigned row, column;
		size_t more;
		must(sscanf(line, "f:%u:%u: ", &row, &column) == 2 ||
				sscanf(line, "f: and %zu more", &more) == 1,
			"no place", err->text);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error *err = NULL;
	Job__V1__Spec *spec = jobspec_parse((const char *)data, size, "f", &err);

	must(!spec == !!err, "both or neither of spec and error", "");
	if (spec)
		check_spec(spec);
	else
		check_error(err);
	job__v1__spec__free_unpacked(spec, NULL);
	return 0;
}
