/* Questions to the host's apt (vm-images/apt). Each takes a second or three, so answers are
 * remembered as long as nothing of apt's changed. */
#pragma once

#include "common/error.h"
#include "orchestrator/image_tools.h"

struct image_apt {
	struct image_tools *tools; /* borrowed */
	const char *script;	   /* vm-images/apt; borrowed */
	const char *cache;	   /* a directory; borrowed */
};

/* What the script prints for these arguments (args[0] is its command, the cache is put behind it).
 * To be freed. */
char *image_apt_ask(const struct image_apt *apt, const char *what, const struct arg_list *args,
	struct error **err);

/* Hex digest of names, sizes, times and modes of a file, or of all in a directory and below. For
 * noticing changes; not for trust. To be freed; NULL: it cannot be read. */
char *image_stamp(const char *path, struct error **err);
