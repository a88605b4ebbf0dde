#include "orchestrator/cid.h"

#include <pthread.h>

#include "common/util.h"

/* 0-2 are reserved; libvirt hands out 3 and up. The guest's CID is 32 bits of a 64-bit field. */
#define CID_LEAST  0x10000u
#define CID_BEYOND 0x7fffffffu
#define REST_USEC  (UINT64_C(600) * 1000000)
#define IN_USE	   0

struct entry {
	uint32_t cid;
	uint64_t until; /* usec; IN_USE while a VM has it */
};

struct cid_pool {
	pthread_mutex_t lock;
	struct entry *entries;
	size_t n;
};

struct cid_pool *cid_pool_new(void)
{
	struct cid_pool *pool = xcalloc(1, sizeof(*pool));

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

uint32_t cid_take(struct cid_pool *pool, uint64_t now_usec)
{
	uint32_t cid;

	pthread_mutex_lock(&pool->lock);
	forget_rested(pool, now_usec);
	do {
		random_bytes(&cid, sizeof(cid));
		cid = CID_LEAST + cid % (CID_BEYOND - CID_LEAST);
	} while (find(pool, cid));
	pool->entries = xreallocarray(pool->entries, pool->n + 1, sizeof(*pool->entries));
	pool->entries[pool->n++] = (struct entry){.cid = cid, .until = IN_USE};
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
