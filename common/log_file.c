/* Libraries write to stderr as well, by its number. So the file is changed beneath the number:
 * dup2() puts the new one there at once for all threads, and a line goes to the one or the other,
 * whole. Between the rename and the dup2 the last lines go to the end of the older file. */
#include "common/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#include "common/log.h"
#include "common/util.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *file_path, *older_path; /* under lock */
static uint64_t file_most;	     /* under lock */

static int open_file(const char *path)
{
	return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
}

static bool is_full(void)
{
	struct stat st;

	return fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode) &&
	       (uint64_t)st.st_size >= file_most;
}

/* Whatever fails here: it is gone on with the file there is, and tried again with the next line. */
static void change_file(void)
{
	struct stat out, err;
	bool both = fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
		    out.st_dev == err.st_dev && out.st_ino == err.st_ino;

	/* Not there: the try before this one came so far. */
	if (rename(file_path, older_path) < 0 && errno != ENOENT)
		return;
	_cleanup_close_ int fd = open_file(file_path);
	if (fd < 0)
		return;
	if (dup2(fd, STDERR_FILENO) >= 0 && both)
		dup2(fd, STDOUT_FILENO);
}

void log_file_check(void)
{
	int saved = errno;

	pthread_mutex_lock(&lock);
	if (file_path && is_full())
		change_file();
	pthread_mutex_unlock(&lock);
	errno = saved;
}

int log_file_open(const char *path, uint64_t most, struct error **err)
{
	_cleanup_close_ int fd = open_file(path);

	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		return error_errno(err, errno, "%s", path);
	pthread_mutex_lock(&lock);
	file_path = xstrdup(path);
	older_path = str_printf("%s.1", path);
	file_most = most;
	pthread_mutex_unlock(&lock);
	log_after_line(log_file_check);
	return 0;
}

void log_file_forget(void)
{
	log_after_line(NULL);
	pthread_mutex_lock(&lock);
	free(steal_ptr(file_path));
	free(steal_ptr(older_path));
	pthread_mutex_unlock(&lock);
}
