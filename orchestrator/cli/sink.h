/* Where a stream of a job's goes: bytes unchanged into a file or pipe; on a terminal every byte
 * that could drive it is shown escaped, because what a job writes is hostile. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct sink {
	int fd;
	bool escape;   /* it is a terminal, and --raw was not given */
	bool mid_line; /* the last byte was no newline */
	char held[4]; /* the beginning of a character, or a \r, whose rest comes with the next bytes
		       */
	size_t n_held;
};

struct sink sink_new(int fd, bool raw);
/* 0, or -1 with errno. */
int sink_write(struct sink *sink, const void *data, size_t n);
/* Write what is held. */
int sink_end(struct sink *sink);
