/* One output stream of a job: read from its pipe as it appears, held in a bounded ring until it is
 * sent, or (hold) until the host says that it is safe, and cut at a cap behind which bytes are
 * counted and dropped.
 *
 *        freed          taken (sent)          kept
 *   gone   |   held, sent  |   held, to be sent |   still in the pipe
 *
 * A reader that is slow fills the ring; then the pipe is not read, and the job waits in write(2).
 * Memory never grows with what a job writes. Not thread-safe: the owner locks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTPUT_RING (128 * 1024)
/* With hold: what the host has not acknowledged yet must not stop a stream that flows, so this is
 * several times what it lets come together (guest.c). */
#define OUTPUT_RING_HOLD (1024 * 1024)
#define OUTPUT_CHUNK	 (64 * 1024) /* the most that output_take() gives at once */

struct output {
	int fd;		/* owned; non-blocking; -1 after the end */
	uint64_t keep;	/* bytes that may go into the ring, over the stream's life */
	uint64_t total; /* bytes that the job wrote */
	uint64_t kept;	/* bytes that went into the ring */
	uint64_t taken; /* of these, given out by output_take() */
	uint64_t freed; /* of these, no longer held */
	bool hold;
	size_t size;
	char *ring; /* owned; size bytes */
};

/* Takes fd. keep: the cap in bytes. hold: what is taken stays until output_ack(). */
void output_init(struct output *output, int fd, uint64_t keep, bool hold);
void output_free(struct output *output);

/* Is there room for more, or is all that comes dropped anyway? */
bool output_wants(const struct output *output);
/* Read what the pipe has now, without waiting. False when the stream has ended. */
bool output_pump(struct output *output);
/* Take the next bytes, up to size. */
size_t output_take(struct output *output, void *buf, size_t size);
/* Bytes to be taken. */
static inline uint64_t output_pending(const struct output *output)
{
	return output->kept - output->taken;
}
/* The bytes before this offset are safe. What was not taken yet cannot be; an offset that was
 * acknowledged before is no news. */
void output_ack(struct output *output, uint64_t offset);
/* Can output_rewind() go there? */
bool output_has(const struct output *output, uint64_t offset);
/* The next byte taken is the one at this offset; what is before it is safe. */
void output_rewind(struct output *output, uint64_t offset);
static inline bool output_truncated(const struct output *output)
{
	return output->total > output->kept;
}
