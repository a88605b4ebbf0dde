/* What the fuzzers share. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold for any input. */
static inline void must(bool holds, const char *what, const char *detail)
{
	if (holds)
		return;
	fprintf(stderr, "%s: %s\n", what, detail ? detail : "");
	abort();
}

/* Text that came from outside is shown: it must not drive the terminal. */
static inline void must_be_harmless(const char *text, const char *what)
{
	_cleanup_free_ char *escaped = str_escape(text, strlen(text), true);

	must(str_eq(escaped, text), what, escaped);
}

/* A directory that is removed at the end of the process. */
static inline const char *fuzz_dir(void)
{
	static char dir[] = "/tmp/fuzz.XXXXXX";
	static bool made;

	if (!made && !mkdtemp(dir))
		abort();
	made = true;
	return dir;
}

static inline void fuzz_dir_remove(void)
{
	remove_tree(fuzz_dir(), NULL);
}
