/* The store's promises, by its interface alone: every backend runs these. What is a backend's own
 * (its file, its versions, its damage) is in the tests of that backend. */
#pragma once

#include "tests/unit/store_fixture.h"

/* Over the backend of fixture_use_store(): the number of tests that failed. */
int store_conformance_jobs(void);
int store_conformance_lists(void);
