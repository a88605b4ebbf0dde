#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#include "common/util.h"
#include "orchestrator/vsock-device/memory.h"
#include "orchestrator/vsock-device/vring.h"

#define ENTRIES	 8u
#define BASE	 0x40000000u /* guest-physical */
#define BYTES	 4096u
#define NEXT	 1
#define WRITE	 2
#define INDIRECT 4

/* A guest: two blocks of memory, neighbours in its eyes, and a ring in the first one. */
struct guest {
	_Alignas(16) uint8_t low[BYTES];
	uint8_t gap[64]; /* not the guest's */
	_Alignas(16) uint8_t high[BYTES];
	struct memory memory;
	struct vring ring;
	struct vring_chain chain;
	struct vring_desc *desc;
	uint16_t *avail, *used;
};

static struct guest *guest_new(uint16_t base, bool event_idx)
{
	struct guest *g = aligned_alloc(16, (sizeof(*g) + 15) / 16 * 16);

	memset(g, 0, sizeof(*g));
	g->memory = (struct memory){.n = 2,
		.regions = {{.guest = BASE, .user = 0x1000, .size = BYTES, .host = g->low},
			{.guest = BASE + BYTES, .user = 0x9000, .size = BYTES, .host = g->high}}};
	g->desc = (struct vring_desc *)(void *)g->low;
	g->avail = (uint16_t *)(void *)(g->low + 256);
	g->used = (uint16_t *)(void *)(g->low + 512);
	g->avail[1] = g->used[1] = base;
	vring_start(&g->ring, ENTRIES, g->desc, g->avail, g->used, base, event_idx);
	return g;
}

static void offer(struct guest *g, uint16_t head)
{
	g->avail[2 + g->avail[1] % ENTRIES] = head;
	g->avail[1]++;
}

static int pop(struct guest *g, enum vring_kind kind)
{
	return vring_pop(&g->ring, &g->memory, kind, &g->chain);
}

static void chains_come_in_order_and_go_back_once(void **state)
{
	(void)state;
	/* From just below the wrap of the 16-bit index. */
	struct guest *g = guest_new(0xfffe, false);

	g->desc[0] = (struct vring_desc){BASE + 1024, 44, NEXT, 5};
	g->desc[5] = (struct vring_desc){BASE + 2048, 100, 0, 0};
	g->desc[1] = (struct vring_desc){BASE + 1100, 44, 0, 0};
	assert_int_equal(pop(g, VRING_FROM_GUEST), 0);
	offer(g, 0);
	offer(g, 1);
	offer(g, 1);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
	assert_int_equal(g->chain.head, 0);
	assert_int_equal(g->chain.n, 2);
	assert_int_equal(g->chain.size, 144);
	assert_ptr_equal(g->chain.iov[0].iov_base, g->low + 1024);
	assert_ptr_equal(g->chain.iov[1].iov_base, g->low + 2048);
	vring_push(&g->ring, g->chain.head, 7);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
	vring_unpop(&g->ring, 1);
	vring_push(&g->ring, 1, 0);
	assert_int_equal(g->used[1], 0xfffe); /* nothing is shown before publish */
	assert_true(vring_publish(&g->ring));
	assert_int_equal(g->used[1], 0);
	const uint32_t *elem = (const uint32_t *)(const void *)(g->used + 2);
	assert_int_equal(elem[2 * (0xfffe % ENTRIES)], 0);
	assert_int_equal(elem[2 * (0xfffe % ENTRIES) + 1], 7);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1); /* the one that was given back */
	assert_int_equal(pop(g, VRING_FROM_GUEST), 0);
	assert_null(g->ring.broken);
	free(g);
}

static void buffers_may_cross_from_region_to_region(void **state)
{
	(void)state;
	struct guest *g = guest_new(0, false);

	g->desc[0] = (struct vring_desc){BASE + BYTES - 10, 30, WRITE, 0};
	offer(g, 0);
	assert_int_equal(pop(g, VRING_TO_GUEST), 1);
	assert_int_equal(g->chain.n, 2);
	assert_ptr_equal(g->chain.iov[0].iov_base, g->low + BYTES - 10);
	assert_int_equal(g->chain.iov[0].iov_len, 10);
	assert_ptr_equal(g->chain.iov[1].iov_base, g->high);
	assert_int_equal(g->chain.iov[1].iov_len, 20);
	free(g);
}

static void indirect_tables_are_followed(void **state)
{
	(void)state;
	struct guest *g = guest_new(0, false);
	struct vring_desc *table = (struct vring_desc *)(void *)(g->low + 1024);

	table[0] = (struct vring_desc){BASE + 2048, 44, NEXT, 2};
	table[2] = (struct vring_desc){BASE + 3000, 500, 0, 0};
	g->desc[3] = (struct vring_desc){BASE + 1024, 3 * 16, INDIRECT, 0};
	offer(g, 3);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
	assert_int_equal(g->chain.head, 3);
	assert_int_equal(g->chain.size, 544);
	free(g);
}

/* Each of these breaks the ring, for good. */
static void hostile_rings_are_broken(void **state)
{
	static const struct {
		const char *what;
		struct vring_desc desc[2], table[2];
		uint16_t head;
		uint16_t ahead; /* chains offered */
	} cases[] = {
		{"index far ahead", {{BASE, 1, 0, 0}}, {{0}}, 0, ENTRIES + 1},
		{"head too large", {{BASE, 1, 0, 0}}, {{0}}, ENTRIES, 1},
		{"next too large", {{BASE, 1, NEXT, ENTRIES}}, {{0}}, 0, 1},
		{"loop of one", {{BASE, 1, NEXT, 0}}, {{0}}, 0, 1},
		{"loop of two", {{BASE, 1, NEXT, 1}, {BASE, 1, NEXT, 0}}, {{0}}, 0, 1},
		{"loop of nothing", {{BASE, 0, NEXT, 0}}, {{0}}, 0, 1},
		{"below memory", {{BASE - 1, 1, 0, 0}}, {{0}}, 0, 1},
		{"behind memory", {{BASE + 2 * BYTES, 1, 0, 0}}, {{0}}, 0, 1},
		{"runs out of memory", {{BASE + 2 * BYTES - 1, 2, 0, 0}}, {{0}}, 0, 1},
		{"wraps", {{UINT64_MAX, 2, 0, 0}}, {{0}}, 0, 1},
		{"longest", {{BASE, UINT32_MAX, 0, 0}}, {{0}}, 0, 1},
		{"wrong way", {{BASE, 1, WRITE, 0}}, {{0}}, 0, 1},
		{"table of nothing", {{BASE + 1024, 0, INDIRECT, 0}}, {{0}}, 0, 1},
		{"table of a half", {{BASE + 1024, 24, INDIRECT, 0}}, {{0}}, 0, 1},
		{"table not there", {{BASE + 2 * BYTES - 16, 32, INDIRECT, 0}}, {{0}}, 0, 1},
		{"table and more", {{BASE + 1024, 32, INDIRECT | NEXT, 1}}, {{0}}, 0, 1},
		{"crooked table", {{BASE + 1025, 32, INDIRECT, 0}}, {{0}}, 0, 1},
		{"table in a table", {{BASE + 1024, 32, INDIRECT, 0}},
			{{BASE + 1024, 32, INDIRECT, 0}}, 0, 1},
		{"loop in a table", {{BASE + 1024, 32, INDIRECT, 0}},
			{{BASE, 1, NEXT, 1}, {BASE, 1, NEXT, 0}}, 0, 1},
		{"out of the table", {{BASE + 1024, 32, INDIRECT, 0}}, {{BASE, 1, NEXT, 2}}, 0, 1},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct guest *g = guest_new(0, false);
		memcpy(g->low + 1024, cases[i].table, sizeof(cases[i].table));
		memcpy(g->desc, cases[i].desc, sizeof(cases[i].desc));
		for (unsigned n = 0; n < cases[i].ahead; n++)
			offer(g, cases[i].head);
		if (pop(g, VRING_FROM_GUEST) != -1 || !g->ring.broken)
			fail_msg("%s: not broken", cases[i].what);
		g->desc[0] = (struct vring_desc){BASE, 1, 0, 0};
		if (pop(g, VRING_FROM_GUEST) != -1)
			fail_msg("%s: does not stay broken", cases[i].what);
		free(g);
	}
}

static void a_chain_has_an_end(void **state)
{
	(void)state;
	struct guest *g = guest_new(0, false);
	struct vring_desc *table = (struct vring_desc *)(void *)(g->low + 1024);

	for (uint16_t i = 0; i <= VRING_CHAIN_MAX; i++)
		table[i] = (struct vring_desc){BASE, 1, NEXT, (uint16_t)(i + 1)};
	table[VRING_CHAIN_MAX - 1].flags = 0;
	g->desc[0] = (struct vring_desc){BASE + 1024, 16 * (VRING_CHAIN_MAX + 1), INDIRECT, 0};
	offer(g, 0);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
	assert_int_equal(g->chain.n, VRING_CHAIN_MAX);
	table[VRING_CHAIN_MAX - 1].flags = NEXT;
	table[VRING_CHAIN_MAX].flags = 0;
	offer(g, 0);
	assert_int_equal(pop(g, VRING_FROM_GUEST), -1);
	free(g);
}

static void the_guest_is_told_when_it_asked(void **state)
{
	(void)state;
	struct guest *g = guest_new(0, true);
	uint16_t *used_event = g->avail + 2 + ENTRIES, *avail_event = g->used + 2 + 4 * ENTRIES;

	g->desc[0] = (struct vring_desc){BASE, 1, 0, 0};
	*used_event = 1; /* after the second one, please */
	for (unsigned i = 0; i < 3; i++) {
		offer(g, 0);
		assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
		vring_push(&g->ring, 0, 0);
		assert_int_equal(vring_publish(&g->ring), i == 1);
	}
	assert_false(vring_publish(&g->ring)); /* nothing new */
	assert_false(vring_arm(&g->ring));
	assert_int_equal(*avail_event, 3);
	offer(g, 0);
	assert_true(vring_arm(&g->ring)); /* it came before we asked */
	free(g);

	g = guest_new(0, false);
	g->desc[0] = (struct vring_desc){BASE, 1, 0, 0};
	g->avail[0] = 1; /* no interrupts */
	vring_disarm(&g->ring);
	assert_int_equal(g->used[0], 1);
	offer(g, 0);
	assert_int_equal(pop(g, VRING_FROM_GUEST), 1);
	vring_push(&g->ring, 0, 0);
	assert_false(vring_publish(&g->ring));
	assert_false(vring_arm(&g->ring));
	assert_int_equal(g->used[0], 0);
	free(g);
}

static void addresses_are_looked_up_whole(void **state)
{
	(void)state;
	struct guest *g = guest_new(0, false);
	const struct memory *m = &g->memory;

	assert_ptr_equal(memory_at_guest(m, BASE, BYTES), g->low);
	assert_null(memory_at_guest(m, BASE, BYTES + 1)); /* never across regions */
	assert_null(memory_at_guest(m, BASE + 1, BYTES));
	assert_null(memory_at_guest(m, BASE + BYTES * 2, 0));
	assert_null(memory_at_guest(m, BASE + 1, UINT64_MAX));
	assert_null(memory_at_guest(m, BASE - 1, 1));
	assert_ptr_equal(memory_at_user(m, 0x9000 + BYTES - 1, 1), g->high + BYTES - 1);
	assert_null(memory_at_user(m, 0x9000 + BYTES - 1, 2));
	free(g);
}

static void memory_is_mapped_only_if_it_is_there(void **state)
{
	_cleanup_close_ int fd = memfd_create("ram", MFD_CLOEXEC);
	_cleanup_error_ struct error *err = NULL;
	struct memory m = {0};

	(void)state;
	assert_int_equal(ftruncate(fd, 8192), 0);
	assert_int_equal(memory_add(&m, BASE, 0, 4096, 4096, fd, &err), 0);
	((uint8_t *)memory_at_guest(&m, BASE, 1))[0] = 77;
	uint8_t c = 0;
	assert_int_equal(pread(fd, &c, 1, 4096), 1);
	assert_int_equal(c, 77);
	assert_int_equal(memory_add(&m, BASE, 0, 4097, 4096, fd, &err), -1);
	assert_int_equal(memory_add(&m, BASE, 0, 0, 0, fd, NULL), -1);
	assert_int_equal(memory_add(&m, UINT64_MAX, 0, 4096, 0, fd, NULL), -1);
	assert_int_equal(memory_add(&m, 0, UINT64_MAX, 4096, 0, fd, NULL), -1);
	assert_int_equal(memory_add(&m, 0, 0, 4096, UINT64_MAX - 4095, fd, NULL), -1);
	assert_int_equal(memory_add(&m, 0, 0, 4096, 0, STDIN_FILENO, NULL), -1);
	assert_int_equal(m.n, 1);
	for (unsigned i = 1; i < MEMORY_REGIONS_MAX; i++)
		assert_int_equal(memory_add(&m, 0, 0, 4096, 0, fd, NULL), 0);
	assert_int_equal(memory_add(&m, 0, 0, 4096, 0, fd, NULL), -1);
	memory_clear(&m);
	assert_null(memory_at_guest(&m, BASE, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chains_come_in_order_and_go_back_once),
		cmocka_unit_test(buffers_may_cross_from_region_to_region),
		cmocka_unit_test(indirect_tables_are_followed),
		cmocka_unit_test(hostile_rings_are_broken),
		cmocka_unit_test(a_chain_has_an_end),
		cmocka_unit_test(the_guest_is_told_when_it_asked),
		cmocka_unit_test(addresses_are_looked_up_whole),
		cmocka_unit_test(memory_is_mapped_only_if_it_is_there),
	};
	return cmocka_run_group_tests_name("vsock_vring", tests, NULL, NULL);
}
