#include "orchestrator/cid.h"

#include <pthread.h>

#include "common/util.h"

/* 0-2 are reserved, and 0xffffffff is "any". The guest's CID is 32 bits of a 64-bit field. */
#define CID_LEAST 3u
#define CID_MOST  0xfffffffeu
/* From a range so wide, chance alone seldom gives what another has. */
#define CID_WIDE  0x10000u
#define REST_USEC (UINT64_C(600) * 1000000)
#define IN_USE	  0

struct entry {
	uint32_t cid;
	uint64_t until; /* usec; IN_USE while a VM has it */
};

struct cid_pool {
	pthread_mutex_t lock;
	struct cid_range range;
	uint32_t next; /* of a narrow range: where to look first */
	struct entry *entries;
	size_t n;
};

static const char *parse_cid(const char *s, uint32_t *ret)
{
	uint64_t v = 0;
	const char *p = s;

	for (; *p >= '0' && *p <= '9' && v <= CID_MOST; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	if (p == s || v < CID_LEAST || v > CID_MOST)
		return NULL;
	*ret = (uint32_t)v;
	return p;
}

char *cid_range_parse(const char *text, struct cid_range *ret)
{
	struct cid_range range;
	const char *p = parse_cid(text, &range.first);

	if (p && *p == '-')
		p = parse_cid(p + 1, &range.last);
	else
		p = NULL;
	if (!p || *p)
		return str_printf("must be FIRST-LAST, both from %u to %u", CID_LEAST, CID_MOST);
	if (range.first > range.last)
		return xstrdup("ends before it begins");
	*ret = range;
	return NULL;
}

struct cid_pool *cid_pool_new(struct cid_range range)
{
	struct cid_pool *pool = xcalloc(1, sizeof(*pool));

	pool->range = range;
	pool->next = range.first;

	pthread_mutex_init(&pool->lock, NULL);
	return pool;
}

void cid_pool_free(struct cid_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_destroy(&pool->lock);
	free(pool->entries);
	free(pool);
}

static struct entry *find(struct cid_pool *pool, uint32_t cid)
{
	for (size_t i = 0; i < pool->n; i++)
		if (pool->entries[i].cid == cid)
			return &pool->entries[i];
	return NULL;
}

static void forget_rested(struct cid_pool *pool, uint64_t now_usec)
{
	size_t kept = 0;

	for (size_t i = 0; i < pool->n; i++)
		if (pool->entries[i].until == IN_USE || pool->entries[i].until > now_usec)
			pool->entries[kept++] = pool->entries[i];
	pool->n = kept;
}

static uint32_t range_size(const struct cid_pool *pool)
{
	return pool->range.last - pool->range.first + 1;
}

/* One that is neither used nor resting; 0: none. A wide range has always one. In order, each CID of
 * a narrow range rests as long as it can. */
static uint32_t pick_fresh(struct cid_pool *pool)
{
	uint32_t cid, size = range_size(pool);

	if (size >= CID_WIDE) {
		do {
			random_bytes(&cid, sizeof(cid));
			cid = pool->range.first + cid % size;
		} while (find(pool, cid));
		return cid;
	}
	for (uint32_t i = 0; i < size; i++) {
		cid = pool->next;
		pool->next = cid == pool->range.last ? pool->range.first : cid + 1;
		if (!find(pool, cid))
			return cid;
	}
	return 0;
}

static struct entry *longest_rested(struct cid_pool *pool)
{
	struct entry *found = NULL;

	for (size_t i = 0; i < pool->n; i++) {
		struct entry *entry = &pool->entries[i];
		if (entry->until != IN_USE && (!found || entry->until < found->until))
			found = entry;
	}
	return found;
}

uint32_t cid_take(struct cid_pool *pool, uint64_t now_usec)
{
	pthread_mutex_lock(&pool->lock);
	forget_rested(pool, now_usec);
	uint32_t cid = pick_fresh(pool);
	struct entry *rested = cid ? NULL : longest_rested(pool);
	if (cid) {
		pool->entries = xreallocarray(pool->entries, pool->n + 1, sizeof(*pool->entries));
		pool->entries[pool->n++] = (struct entry){.cid = cid, .until = IN_USE};
	} else if (rested) {
		rested->until = IN_USE;
		cid = rested->cid;
	}
	pthread_mutex_unlock(&pool->lock);
	return cid;
}

void cid_hold(struct cid_pool *pool, uint32_t cid)
{
	pthread_mutex_lock(&pool->lock);
	struct entry *entry = find(pool, cid);
	if (!entry) {
		pool->entries = xreallocarray(pool->entries, pool->n + 1, sizeof(*pool->entries));
		entry = &pool->entries[pool->n++];
		entry->cid = cid;
	}
	entry->until = IN_USE;
	pthread_mutex_unlock(&pool->lock);
}

void cid_release(struct cid_pool *pool, uint32_t cid, uint64_t now_usec)
{
	pthread_mutex_lock(&pool->lock);
	struct entry *entry = find(pool, cid);
	if (entry)
		entry->until = now_usec + REST_USEC;
	pthread_mutex_unlock(&pool->lock);
}

bool cid_is_known(struct cid_pool *pool, uint32_t cid)
{
	pthread_mutex_lock(&pool->lock);
	bool known = find(pool, cid) != NULL;
	pthread_mutex_unlock(&pool->lock);
	return known;
}
