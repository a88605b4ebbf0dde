/* SQLite's way to the disk, with faults: a VFS around the usual one whose writes, syncs and
 * truncations fail when told to. What it is told is in a file that the process which orders them
 * maps too. */
#pragma once

#include <stdatomic.h>

struct vfs_faults {
	atomic_int skip;  /* so many go well first */
	atomic_int fail;  /* then so many fail */
	atomic_int code;  /* SQLITE_FULL; else an error of the kind of the call */
	atomic_int calls; /* all that came */
	atomic_int made;  /* all that failed */
};

/* Map the file, which is made if it is not there. */
struct vfs_faults *vfs_faults_map(const char *path);
/* From now on all that SQLite opens in this process goes through it. */
void vfs_faults_install(struct vfs_faults *faults);
