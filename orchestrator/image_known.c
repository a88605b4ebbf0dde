#include "orchestrator/image_known.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/image.h"

#define KNOWN 16 /* images in use at once; the oldest goes */

struct known {
	char name[LIMIT_NAME + 1];
	char *manifest;	  /* owned: its path; NULL: an empty place */
	struct stat stat; /* of the manifest, before it was read */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct known known[KNOWN]; /* under lock */
static size_t next_place;	  /* under lock */

static bool is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

bool image_is_known(const char *name)
{
	bool yes = false;

	if (strlen(name) > LIMIT_NAME)
		return false;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < KNOWN && !yes; i++) {
		struct stat now;

		yes = known[i].manifest && str_eq(known[i].name, name) &&
		      stat(known[i].manifest, &now) == 0 && is_same(&now, &known[i].stat);
	}
	pthread_mutex_unlock(&lock);
	return yes;
}

static void remember(const char *name, char *manifest, const struct stat *seen)
{
	pthread_mutex_lock(&lock);
	struct known *place = &known[next_place++ % KNOWN];
	for (size_t i = 0; i < KNOWN; i++) {
		if (known[i].manifest && str_eq(known[i].name, name))
			place = &known[i];
	}
	free(place->manifest);
	place->manifest = manifest;
	place->stat = *seen;
	snprintf(place->name, sizeof(place->name), "%s", name);
	pthread_mutex_unlock(&lock);
}

int image_known(const struct config *config, const char *name, struct error **err)
{
	struct stat before, after;

	if (image_is_known(name))
		return 0;
	/* Twice: the first tells where it is, the second that this very manifest is a whole image.
	 */
	struct image *image = image_find(config, name, err);
	if (!image)
		return -1;
	_cleanup_free_ char *manifest =
		str_printf("%s/manifest.json", image->dir ? image->dir : "");
	image_free(image);
	if (strlen(name) > LIMIT_NAME || stat(manifest, &before) < 0)
		return 0;
	image = image_find(config, name, err);
	if (!image)
		return -1;
	bool same = stat(manifest, &after) == 0 && is_same(&before, &after) &&
		    str_starts(manifest, image->dir);
	image_free(image);
	if (same)
		remember(name, steal_ptr(manifest), &before);
	return 0;
}
