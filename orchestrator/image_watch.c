#include "orchestrator/image_watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/util.h"
#include "orchestrator/image.h"

struct image_watch {
	const struct config *config; /* borrowed */
	image_watch_fn fn;
	void *arg;
	pthread_t thread;
	int stop_fd;
	struct seen {
		bool told;
		char *digest, *why; /* owned */
	} * seen;		    /* the thread's; one for each pool */
};

static void look(struct image_watch *watch, size_t i)
{
	_cleanup_error_ struct error *err = NULL;
	struct seen *seen = &watch->seen[i];
	struct image *image = image_find(watch->config, watch->config->pools[i]->image, &err);
	const char *digest = image ? image->digest : NULL;
	const char *why = image ? NULL : err->text;

	if (!seen->told || !str_eq(seen->digest, digest) || !str_eq(seen->why, why)) {
		watch->fn(watch->arg, i, digest, why);
		free(seen->digest);
		free(seen->why);
		*seen = (struct seen){
			true, digest ? xstrdup(digest) : NULL, why ? xstrdup(why) : NULL};
	}
	image_free(image);
}

static void *run(void *arg)
{
	struct image_watch *watch = arg;
	struct pollfd stop = {.fd = watch->stop_fd, .events = POLLIN};

	do {
		for (size_t i = 0; i < watch->config->n_pools; i++)
			look(watch, i);
	} while (poll(&stop, 1, IMAGE_WATCH_MS) == 0 || errno == EINTR);
	return NULL;
}

static void watch_free(struct image_watch *watch)
{
	for (size_t i = 0; i < watch->config->n_pools; i++) {
		free(watch->seen[i].digest);
		free(watch->seen[i].why);
	}
	close_fd(&watch->stop_fd);
	free(watch->seen);
	free(watch);
}

struct image_watch *image_watch_start(
	const struct config *config, image_watch_fn fn, void *arg, struct error **err)
{
	struct image_watch *watch = xcalloc(1, sizeof(*watch));

	watch->config = config;
	watch->fn = fn;
	watch->arg = arg;
	watch->seen = xcalloc(config->n_pools, sizeof(*watch->seen));
	watch->stop_fd = eventfd(0, EFD_CLOEXEC);
	int e = watch->stop_fd < 0 ? errno : pthread_create(&watch->thread, NULL, run, watch);
	if (!e)
		return watch;
	error_errno(err, e, "watching the pools' images");
	watch_free(watch);
	return NULL;
}

void image_watch_stop(struct image_watch *watch)
{
	if (!watch)
		return;
	eventfd_write(watch->stop_fd, 1);
	pthread_join(watch->thread, NULL);
	watch_free(watch);
}
