/* What a step of the queue and the scheduler costs, and what a job takes, as the queue grows.
 *
 * With n jobs of 50 shares and 5 priorities waiting and 1,000 VMs in use, one step is: a VM ends,
 * the next job is chosen and taken, a new job comes. Besides: all n positions, as a list asks for
 * them. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/util.h"
#include "orchestrator/scheduler.h"

#define VMS	1000
#define STEPS	20000
#define ROUNDS	5
#define SHARES	50
#define LEVELS	5
#define LEAST_N 1000
#define MOST_N	128000

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct bench {
	char names[SHARES][16];
	struct queue queue;
	struct queue_item *items; /* n + VMS of them */
	struct queue_item **running;
	uint32_t random;
	uint64_t now;
};

static uint32_t next_random(struct bench *b)
{
	b->random = b->random * 1664525u + 1013904223u;
	return b->random >> 8;
}

static void add(struct bench *b, struct queue_item *item)
{
	/* A heavy share has half of all. */
	uint32_t share = next_random(b) % (2 * SHARES);

	*item = (struct queue_item){.share = b->names[share < SHARES ? share : 0],
		.priority = (int)(next_random(b) % LEVELS) - LEVELS / 2,
		.since = b->now++,
		.demand = {.memory = 512 * MIB, .cpus = 1 + next_random(b) % 2}};
	queue_add(&b->queue, item, b->now);
}

static struct queue_item *start(struct bench *b, uint32_t vms)
{
	struct scheduler_view view = {.max_vms = VMS,
		.capacity = {UINT64_MAX, UINT32_MAX},
		.vms = vms,
		.now_usec = b->now};
	struct scheduler_lack lack;
	struct queue_item *item = scheduler_next(&view, &b->queue, &lack);

	if (!item)
		abort();
	queue_take(&b->queue, item);
	return item;
}

static void run(size_t n)
{
	struct bench b = {.random = 1};
	double steps[ROUNDS], positions[ROUNDS];
	size_t sum = 0;

	for (int i = 0; i < SHARES; i++)
		snprintf(b.names[i], sizeof(b.names[i]), "queue:%d", i);
	size_t before = mallinfo2().uordblks;
	b.items = calloc(n + VMS, sizeof(*b.items));
	b.running = calloc(VMS, sizeof(struct queue_item *));
	if (!b.items || !b.running)
		abort();
	queue_init(&b.queue);
	for (size_t i = 0; i < n + VMS; i++)
		add(&b, &b.items[i]);
	for (uint32_t i = 0; i < VMS; i++)
		b.running[i] = start(&b, i);
	size_t bytes = mallinfo2().uordblks - before;
	for (int round = 0; round < ROUNDS; round++) {
		double began = now_ns();

		for (int i = 0; i < STEPS; i++) {
			struct queue_item **slot = &b.running[next_random(&b) % VMS];
			struct queue_item *ended = *slot;

			*slot = start(&b, VMS - 1);
			add(&b, ended);
		}
		steps[round] = (now_ns() - began) / STEPS;
		began = now_ns();
		for (size_t i = 0; i < n + VMS; i++)
			sum += queue_position(&b.queue, &b.items[i]);
		positions[round] = (now_ns() - began) / (double)(n + VMS);
	}
	qsort(steps, ROUNDS, sizeof(*steps), by_value);
	qsort(positions, ROUNDS, sizeof(*positions), by_value);
	if (sum != ROUNDS * n * (n + 1) / 2)
		abort(); /* each position once */
	printf("%8zu %12.0f %16.0f %14.1f\n", n, steps[ROUNDS / 2], positions[ROUNDS / 2],
		(double)bytes / (double)(n + VMS));
	queue_clear(&b.queue);
	free(b.items);
	free(b.running);
}

int main(void)
{
	mallopt(M_MMAP_THRESHOLD, 1 << 30); /* all of it is counted in one place */
	printf("%d VMs, %d shares, %d priorities; medians of %d rounds of %d steps\n", VMS, SHARES,
		LEVELS, ROUNDS, STEPS);
	printf("%8s %12s %16s %14s\n", "queued", "ns per step", "ns per position", "bytes per job");
	for (size_t n = LEAST_N; n <= MOST_N; n *= 2)
		run(n);
	run(10000);
	return 0;
}
