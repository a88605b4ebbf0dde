#include "orchestrator/bench_stats.h"

#include <math.h>
#include <stdlib.h>

#include "common/util.h"

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

void bench_samples_add(struct bench_samples *samples, double value)
{
	if (samples->n == samples->room) {
		samples->room = samples->room ? 2 * samples->room : 256;
		samples->values =
			xreallocarray(samples->values, samples->room, sizeof(*samples->values));
	}
	samples->values[samples->n++] = value;
}

void bench_samples_end_round(struct bench_samples *samples)
{
	size_t n = samples->n - samples->round_begin;

	if (!n || samples->rounds == BENCH_ROUNDS_MAX)
		return;
	samples->round_medians[samples->rounds++] =
		bench_median(samples->values + samples->round_begin, n);
	samples->round_begin = samples->n;
}

void bench_samples_clear(struct bench_samples *samples)
{
	free(samples->values);
	*samples = (struct bench_samples){0};
}

double bench_samples_percentile(struct bench_samples *samples, double percent)
{
	if (!samples->n)
		return 0;
	qsort(samples->values, samples->n, sizeof(*samples->values), compare);
	/* 99.9 of 1000 is the 999th, which a plain product may put a hair above. */
	double rank = ceil(percent / 100 * (double)samples->n - 1e-9);
	size_t i = rank < 1 ? 0 : (size_t)rank - 1;

	return samples->values[MIN(i, samples->n - 1)];
}

double bench_samples_spread(const struct bench_samples *samples)
{
	return bench_spread(samples->round_medians, samples->rounds);
}

double bench_median(const double *values, size_t n)
{
	if (!n)
		return 0;
	_cleanup_free_ double *sorted = xmemdup(values, n * sizeof(*values));

	qsort(sorted, n, sizeof(*sorted), compare);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

double bench_spread(const double *values, size_t n)
{
	double least = n ? values[0] : 0, greatest = least, median = bench_median(values, n);

	for (size_t i = 1; i < n; i++) {
		least = fmin(least, values[i]);
		greatest = fmax(greatest, values[i]);
	}
	return n > 1 && median > 0 ? (greatest - least) / median : 0;
}
