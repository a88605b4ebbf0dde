#include "tests/unit/faulty_vfs.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct file {
	sqlite3_file base;
	sqlite3_file real[]; /* as long as the usual VFS wants it */
};

static struct vfs_faults *faults;
static sqlite3_vfs *usual;

struct vfs_faults *vfs_faults_map(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *map = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof(struct vfs_faults)) == 0)
		map = mmap(
			NULL, sizeof(struct vfs_faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		abort();
	close(fd);
	return map;
}

/* Calls are one at a time: all are the store's thread's. */
static int fault(int code)
{
	faults->calls++;
	if (faults->fail <= 0)
		return SQLITE_OK;
	if (faults->skip > 0) {
		faults->skip--;
		return SQLITE_OK;
	}
	faults->fail--;
	faults->made++;
	return faults->code == SQLITE_FULL ? SQLITE_FULL : code;
}

static sqlite3_file *real(sqlite3_file *file)
{
	return ((struct file *)file)->real;
}

static int do_close(sqlite3_file *file)
{
	return real(file)->pMethods->xClose(real(file));
}

static int do_read(sqlite3_file *file, void *to, int n, sqlite3_int64 at)
{
	return real(file)->pMethods->xRead(real(file), to, n, at);
}

static int do_write(sqlite3_file *file, const void *from, int n, sqlite3_int64 at)
{
	int rc = fault(SQLITE_IOERR_WRITE);

	/* A disk that fails may have written a part. */
	if (rc != SQLITE_OK && n > 1)
		real(file)->pMethods->xWrite(real(file), from, n / 2, at);
	return rc ? rc : real(file)->pMethods->xWrite(real(file), from, n, at);
}

static int do_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	int rc = fault(SQLITE_IOERR_TRUNCATE);

	return rc ? rc : real(file)->pMethods->xTruncate(real(file), size);
}

static int do_sync(sqlite3_file *file, int flags)
{
	int rc = fault(SQLITE_IOERR_FSYNC);

	return rc ? rc : real(file)->pMethods->xSync(real(file), flags);
}

static int do_size(sqlite3_file *file, sqlite3_int64 *ret)
{
	return real(file)->pMethods->xFileSize(real(file), ret);
}

static int do_lock(sqlite3_file *file, int level)
{
	return real(file)->pMethods->xLock(real(file), level);
}

static int do_unlock(sqlite3_file *file, int level)
{
	return real(file)->pMethods->xUnlock(real(file), level);
}

static int do_check_lock(sqlite3_file *file, int *ret)
{
	return real(file)->pMethods->xCheckReservedLock(real(file), ret);
}

static int do_control(sqlite3_file *file, int op, void *arg)
{
	return real(file)->pMethods->xFileControl(real(file), op, arg);
}

static int do_sector(sqlite3_file *file)
{
	return real(file)->pMethods->xSectorSize(real(file));
}

static int do_characteristics(sqlite3_file *file)
{
	return real(file)->pMethods->xDeviceCharacteristics(real(file));
}

/* The first version has no shared memory: none is needed where one process has the store. */
static const sqlite3_io_methods methods = {
	.iVersion = 1,
	.xClose = do_close,
	.xRead = do_read,
	.xWrite = do_write,
	.xTruncate = do_truncate,
	.xSync = do_sync,
	.xFileSize = do_size,
	.xLock = do_lock,
	.xUnlock = do_unlock,
	.xCheckReservedLock = do_check_lock,
	.xFileControl = do_control,
	.xSectorSize = do_sector,
	.xDeviceCharacteristics = do_characteristics,
};

static int do_open(
	sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *ret_flags)
{
	int rc = usual->xOpen(usual, name, real(file), flags, ret_flags);

	(void)vfs;
	file->pMethods = real(file)->pMethods ? &methods : NULL;
	return rc;
}

void vfs_faults_install(struct vfs_faults *orders)
{
	static sqlite3_vfs vfs;

	faults = orders;
	usual = sqlite3_vfs_find(NULL);
	vfs = *usual;
	vfs.zName = "faulty";
	vfs.szOsFile += (int)sizeof(struct file);
	vfs.xOpen = do_open;
	if (sqlite3_vfs_register(&vfs, 1) != SQLITE_OK)
		abort();
}
