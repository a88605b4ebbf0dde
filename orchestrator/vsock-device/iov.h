/* Scattered memory: copying and cutting iovecs. All lengths are checked against what is there. */
#pragma once

#include <stddef.h>
#include <sys/uio.h>

size_t iov_total(const struct iovec *iov, size_t n);

/* Copy up to size bytes from (to) the bytes behind offset. Returns how many were copied. */
size_t iov_read(const struct iovec *iov, size_t n, size_t offset, void *buf, size_t size);
size_t iov_write(const struct iovec *iov, size_t n, size_t offset, const void *buf, size_t size);

/* Describe the size bytes behind offset (fewer, if there are fewer, or if max pieces do not
 * suffice) in ret, which has room for max pieces. Returns the number of pieces. */
size_t iov_slice(const struct iovec *iov, size_t n, size_t offset, size_t size, struct iovec *ret,
	size_t max);
