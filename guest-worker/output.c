#include "guest-worker/output.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

#include "common/util.h"

void output_init(struct output *output, int fd, uint64_t keep)
{
	*output = (struct output){.fd = fd, .keep = keep, .ring = xmalloc(OUTPUT_RING)};
}

void output_free(struct output *output)
{
	close_fd(&output->fd);
	free(output->ring);
	output->ring = NULL;
}

static size_t room(const struct output *output)
{
	return (size_t)MIN((uint64_t)(OUTPUT_RING - output->used), output->keep - output->kept);
}

bool output_wants(const struct output *output)
{
	return output->fd >= 0 && (output->kept == output->keep || room(output) > 0);
}

/* Read straight into the free part of the ring, which may go round its end. */
static ssize_t read_into_ring(struct output *output)
{
	size_t tail = (output->head + output->used) % OUTPUT_RING;
	size_t n = room(output), first = MIN(n, OUTPUT_RING - tail);
	struct iovec parts[2] = {
		{.iov_base = output->ring + tail, .iov_len = first},
		{.iov_base = output->ring, .iov_len = n - first},
	};
	ssize_t got = readv(output->fd, parts, n > first ? 2 : 1);

	if (got > 0) {
		output->used += (size_t)got;
		output->kept += (size_t)got;
	}
	return got;
}

static ssize_t read_and_drop(struct output *output)
{
	char waste[64 * 1024];

	return read(output->fd, waste, sizeof(waste));
}

bool output_pump(struct output *output)
{
	/* Bounded, so that a stream that never pauses does not keep the other one waiting. */
	for (int i = 0; i < 16 && output_wants(output); i++) {
		ssize_t got = output->kept == output->keep ? read_and_drop(output)
							   : read_into_ring(output);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return true;
		if (got <= 0) {
			close_fd(&output->fd);
			return false;
		}
		output->total += (uint64_t)got;
	}
	return output->fd >= 0;
}

size_t output_take(struct output *output, void *buf, size_t size)
{
	size_t n = MIN(MIN(size, output->used), (size_t)OUTPUT_CHUNK);
	size_t first = MIN(n, OUTPUT_RING - output->head);

	memcpy(buf, output->ring + output->head, first);
	memcpy((char *)buf + first, output->ring, n - first);
	output->head = (output->head + n) % OUTPUT_RING;
	output->used -= n;
	return n;
}
