#include "guest-worker/output.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

#include "common/util.h"

void output_init(struct output *output, int fd, uint64_t keep, bool hold)
{
	size_t size = hold ? OUTPUT_RING_HOLD : OUTPUT_RING;

	*output = (struct output){
		.fd = fd, .keep = keep, .hold = hold, .size = size, .ring = xmalloc(size)};
}

void output_free(struct output *output)
{
	close_fd(&output->fd);
	free(output->ring);
	output->ring = NULL;
}

static size_t room(const struct output *output)
{
	uint64_t used = output->kept - output->freed;

	return (size_t)MIN(output->size - used, output->keep - output->kept);
}

bool output_wants(const struct output *output)
{
	return output->fd >= 0 && (output->kept == output->keep || room(output) > 0);
}

/* Read straight into the free part of the ring, which may go round its end. */
static ssize_t read_into_ring(struct output *output)
{
	size_t tail = (size_t)(output->kept % output->size);
	size_t n = room(output), first = MIN(n, output->size - tail);
	struct iovec parts[2] = {
		{.iov_base = output->ring + tail, .iov_len = first},
		{.iov_base = output->ring, .iov_len = n - first},
	};
	ssize_t got = readv(output->fd, parts, n > first ? 2 : 1);

	if (got > 0)
		output->kept += (size_t)got;
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
	size_t n = (size_t)MIN(MIN((uint64_t)size, output_pending(output)), (uint64_t)OUTPUT_CHUNK);
	size_t head = (size_t)(output->taken % output->size);
	size_t first = MIN(n, output->size - head);

	memcpy(buf, output->ring + head, first);
	memcpy((char *)buf + first, output->ring, n - first);
	output->taken += n;
	if (!output->hold)
		output->freed = output->taken;
	return n;
}

void output_ack(struct output *output, uint64_t offset)
{
	output->freed = MAX(output->freed, MIN(offset, output->taken));
}

bool output_has(const struct output *output, uint64_t offset)
{
	return offset >= output->freed && offset <= output->kept;
}

void output_rewind(struct output *output, uint64_t offset)
{
	output->taken = output->freed = offset;
}
