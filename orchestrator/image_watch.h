/* Looks at some images now and then, on a thread of its own, and tells when one is another than
 * before, is there, or is not there any more. Reading manifests is no work for the daemon's loop.
 */
#pragma once

#include <stddef.h>

#include "common/error.h"
#include "orchestrator/config.h"

#define IMAGE_WATCH_MS 2000

struct image_watch;

/* Called on the thread: digest of image number i, or NULL and why it cannot be used. At once for
 * each, then after a change. */
typedef void (*image_watch_fn)(void *arg, size_t i, const char *digest, const char *why);

/* The configuration's pools' images, by their numbers there. Borrows config. */
struct image_watch *image_watch_start(
	const struct config *config, image_watch_fn fn, void *arg, struct error **err);
/* Joins the thread. NULL is allowed. */
void image_watch_stop(struct image_watch *watch);
