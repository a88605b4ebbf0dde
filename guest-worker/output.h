/* One output stream of a job: read from its pipe as it appears, held in a bounded ring until it is
 * sent, and cut at a cap behind which bytes are counted and dropped.
 *
 * A reader that is slow fills the ring; then the pipe is not read, and the job waits in write(2).
 * Memory never grows with what a job writes. Not thread-safe: the owner locks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTPUT_RING  (128 * 1024)
#define OUTPUT_CHUNK (64 * 1024) /* the most that output_take() gives at once */

struct output {
	int fd;		/* owned; non-blocking; -1 after the end */
	uint64_t keep;	/* bytes that may go into the ring, over the stream's life */
	uint64_t total; /* bytes that the job wrote */
	uint64_t kept;	/* bytes that went into the ring */
	size_t head, used;
	char *ring; /* owned */
};

/* Takes fd. keep: the cap in bytes. */
void output_init(struct output *output, int fd, uint64_t keep);
void output_free(struct output *output);

/* Is there room for more, or is all that comes dropped anyway? */
bool output_wants(const struct output *output);
/* Read what the pipe has now, without waiting. False when the stream has ended. */
bool output_pump(struct output *output);
/* Take up to size bytes out of the ring. */
size_t output_take(struct output *output, void *buf, size_t size);
static inline bool output_truncated(const struct output *output)
{
	return output->total > output->kept;
}
