/* Which CIDs our VMs have. Random from a wide range, in order from a narrow one, and not used again
 * for ten minutes: a peer that still talks to a CID must not reach another VM. On one host CIDs are
 * global with the kernel's device, so one of ours may be taken by somebody else: the caller picks
 * again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cid_pool;

struct cid_range {
	uint32_t first, last; /* both belong to it */
};

/* "FIRST-LAST". NULL, or what is wrong with it, to be freed; then *ret is untouched. */
char *cid_range_parse(const char *text, struct cid_range *ret);

struct cid_pool *cid_pool_new(struct cid_range range);
void cid_pool_free(struct cid_pool *pool);
/* A CID that is not used, and not resting either unless all of the range are; then the one that has
 * rested longest. 0: all are used. Thread-safe. now_usec is monotonic. */
uint32_t cid_take(struct cid_pool *pool, uint64_t now_usec);
/* One that a VM of an earlier daemon has. */
void cid_hold(struct cid_pool *pool, uint32_t cid);
void cid_release(struct cid_pool *pool, uint32_t cid, uint64_t now_usec);
/* Used or resting. */
bool cid_is_known(struct cid_pool *pool, uint32_t cid);
