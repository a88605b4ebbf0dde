/* Whole files and directories. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

int write_all(int fd, const void *buf, size_t n); /* 0, or -1 with errno */
/* All of a file, with a NUL behind it. More than cap bytes: ERR_LIMIT. */
char *read_file(const char *path, size_t cap, size_t *ret_size, struct error **err);
/* Write beside it and rename; fsync of file and directory if durable. */
int write_file(
	const char *path, const void *buf, size_t n, mode_t mode, bool durable, struct error **err);
int make_dirs(const char *path, mode_t mode, struct error **err); /* mkdir -p */
/* rm -rf that neither follows a link below path's last directory nor crosses a mount, also while
 * others change the tree (remove_tree.c). A path that is not there is success. Mounted below it:
 * ERR_STATE; changed faster than it can be removed: ERR_ABORTED. */
int remove_tree(const char *path, struct error **err);
int fd_set_nonblock(int fd, bool on); /* 0, or -1 with errno */
