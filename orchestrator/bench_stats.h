/* Numbers of a benchmark and what they come to. Times are microseconds, rates bytes a second. */
#pragma once

#include <stddef.h>

#define BENCH_ROUNDS_MAX 100

/* All measurements of one thing, over all rounds. All zero is empty. */
struct bench_samples {
	double *values; /* owned; in no order once asked about */
	size_t n, room;
	size_t round_begin;
	double round_medians[BENCH_ROUNDS_MAX];
	size_t rounds;
};

void bench_samples_add(struct bench_samples *samples, double value);
/* What was added since the last call was one round. Nothing added: no round. */
void bench_samples_end_round(struct bench_samples *samples);
void bench_samples_clear(struct bench_samples *samples);
/* The least value that at least `percent` of all values do not exceed (0 < percent <= 100); 0 when
 * there are none. Sorts. */
double bench_samples_percentile(struct bench_samples *samples, double percent);
double bench_samples_spread(const struct bench_samples *samples);

/* Of n values, which are left as they are; 0 when n is 0. */
double bench_median(const double *values, size_t n);
/* How far apart the rounds are: (greatest - least) / median; 0 for less than two. */
double bench_spread(const double *values, size_t n);
