#include "orchestrator/vsock-device/iov.h"

#include <string.h>

#include "common/util.h"

size_t iov_total(const struct iovec *iov, size_t n)
{
	size_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

size_t iov_read(const struct iovec *iov, size_t n, size_t offset, void *buf, size_t size)
{
	size_t done = 0;

	for (size_t i = 0; i < n && done < size; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		size_t part = MIN(iov[i].iov_len - offset, size - done);
		memcpy((char *)buf + done, (const char *)iov[i].iov_base + offset, part);
		done += part;
		offset = 0;
	}
	return done;
}

size_t iov_write(const struct iovec *iov, size_t n, size_t offset, const void *buf, size_t size)
{
	size_t done = 0;

	for (size_t i = 0; i < n && done < size; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		size_t part = MIN(iov[i].iov_len - offset, size - done);
		memcpy((char *)iov[i].iov_base + offset, (const char *)buf + done, part);
		done += part;
		offset = 0;
	}
	return done;
}

size_t iov_slice(const struct iovec *iov, size_t n, size_t offset, size_t size, struct iovec *ret,
	size_t max)
{
	size_t pieces = 0;

	for (size_t i = 0; i < n && size && pieces < max; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		size_t part = MIN(iov[i].iov_len - offset, size);
		ret[pieces].iov_base = (char *)iov[i].iov_base + offset;
		ret[pieces++].iov_len = part;
		size -= part;
		offset = 0;
	}
	return pieces;
}
