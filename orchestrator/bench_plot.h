/* A benchmark's picture: distribution of call times, and throughput by message size each way, by
 * gnuplot. */
#pragma once

#include "common/error.h"
#include "orchestrator/bench_result.h"

/* May a picture be called so? .svg or .png; ERR_INVALID. */
int bench_plot_check_name(const char *path, struct error **err);
/* Is gnuplot there? ERR_NOT_FOUND says what to install. */
int bench_plot_available(struct error **err);
/* What gnuplot is told; the picture goes to its stdout. Sorts samples. To be freed. */
char *bench_plot_script(struct bench_result *result, bool png);
/* Make the picture; path is replaced when it is whole. */
int bench_plot(struct bench_result *result, const char *path, struct error **err);
