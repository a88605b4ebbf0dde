#include "orchestrator/ballast.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"

static struct {
	pthread_mutex_t lock; /* one gives or makes at a time */
	char *dir, *path;     /* owned */
	uint64_t size;
	atomic_bool given, waiting;
} ballast = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int free_disk(uint64_t *ret, struct error **err)
{
	struct statvfs fs;

	if (statvfs(ballast.dir, &fs) < 0)
		return error_errno(err, errno, "%s", ballast.dir);
	*ret = (uint64_t)fs.f_bavail * fs.f_frsize;
	return 0;
}

static bool is_there(void)
{
	struct stat st;

	return stat(ballast.path, &st) == 0 && (uint64_t)st.st_size == ballast.size &&
	       (uint64_t)st.st_blocks * 512 >= ballast.size;
}

/* Its blocks, not only its length. */
static int make(void)
{
	_cleanup_close_ int fd =
		open(ballast.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int errnum = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)ballast.size);

	if (errnum == 0)
		return 0;
	log_warn("ballast", "%s: %s", ballast.path, strerror(errnum));
	unlink(ballast.path);
	return -1;
}

/* Under the lock. */
static void make_again(uint64_t free_bytes)
{
	if (!ballast.given || free_bytes < 2 * ballast.size || make() < 0)
		return;
	ballast.given = false;
	log_info("ballast", "%s has room again", ballast.dir);
}

void ballast_open(const char *state_dir, uint64_t size)
{
	uint64_t free_bytes = 0;

	free(ballast.dir);
	free(ballast.path);
	ballast.dir = xstrdup(state_dir);
	ballast.path = str_printf("%s/ballast", state_dir);
	ballast.size = size;
	ballast.given = false;
	if (!size) {
		unlink(ballast.path);
		return;
	}
	if (free_disk(&free_bytes, NULL) < 0)
		return;
	if (is_there()) {
		if (free_bytes < size)
			ballast_give();
		return;
	}
	unlink(ballast.path);
	if (free_bytes >= 2 * size && make() == 0)
		return;
	ballast.given = true;
	log_warn("ballast", "%s has no room for %s", ballast.dir, ballast.path);
}

bool ballast_give(void)
{
	pthread_mutex_lock(&ballast.lock);
	bool gave = ballast.size && !ballast.given && unlink(ballast.path) == 0;
	if (gave) {
		ballast.given = true;
		log_warn("ballast",
			"%s is full: its ballast is given up, and no more output is kept",
			ballast.dir);
	}
	pthread_mutex_unlock(&ballast.lock);
	return gave;
}

bool ballast_is_given(void)
{
	return ballast.given;
}

int ballast_free_disk(uint64_t *ret, struct error **err)
{
	uint64_t free_bytes = 0;
	int r;

	pthread_mutex_lock(&ballast.lock);
	r = free_disk(&free_bytes, err);
	if (r == 0) {
		bool was_given = ballast.given;

		make_again(free_bytes);
		*ret = was_given ? free_bytes - MIN(free_bytes, ballast.size) : free_bytes;
	}
	pthread_mutex_unlock(&ballast.lock);
	return r;
}

int ballast_check_room(struct error **err)
{
	uint64_t free_bytes = 0;

	if (!ballast.size)
		return 0;
	if (ballast_free_disk(&free_bytes, err) < 0)
		return -1;
	bool waiting = ballast.given || free_bytes < ballast.size;
	if (waiting && !atomic_exchange(&ballast.waiting, true))
		log_warn("ballast", "%s is full: no job is started", ballast.dir);
	if (!waiting) {
		ballast.waiting = false;
		return 0;
	}
	return error_set(err, ERR_LIMIT, "%s is full", ballast.dir);
}
