/* The store's promises, by its interface alone: every backend runs these. What is a backend's own
 * (its file, its versions, its damage) is in the tests of that backend. */
#pragma once

#include "orchestrator/store.h"

struct store_backend {
	const char *name;
	/* The store of that directory, which is empty the first time; it has been closed before
	 * it is opened again. */
	struct store *(*open)(const char *dir, struct error **err);
};

/* The number of tests that failed. */
int store_conformance_run(const struct store_backend *backend);
