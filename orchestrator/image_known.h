/* Is there such an image? For submits, of which there may be thousands in a second: what was found
 * complete once is not read again while its manifest is the same file, unchanged. That its files
 * are still there is seen when a VM is made of it. */
#pragma once

#include <stdbool.h>

#include "orchestrator/config.h"

/* From any thread, without reading it. False says nothing. */
bool image_is_known(const char *name);
/* From any thread. -1 with image_find()'s *err. */
int image_known(const struct config *config, const char *name, struct error **err);
