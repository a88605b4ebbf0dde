/* A second directory of the same files. */
#pragma once

#include <stddef.h>

#include "common/error.h"

/* Make directory `to` (which must not be there) a tree of hard links to the files of `from`, or
 * copies where the file system has no links. Directories and regular files only. All of it is on
 * the disk afterwards. On failure what was made stays. *ret_files: how many files. */
int link_tree(const char *from, const char *to, size_t *ret_files, struct error **err);
