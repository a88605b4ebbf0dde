/* A benchmark's result for people and programs. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "orchestrator/bench_result.h"

/* What stands in the way of trusting the numbers, one line each; *ret_n may be 0. Each string and
 * the array are the caller's. */
char **bench_report_warnings(const struct bench_result *result, size_t *ret_n);
/* Everything; the caller's. Sorts samples. */
json_t *bench_report_json(struct bench_result *result);
/* Conditions, latency, throughput, processor time, warnings. Sorts samples. */
void bench_report_text(struct bench_result *result, FILE *to);
/* One line per number: kind,layer,transport,direction,message_bytes,statistic,unit,value. To be
 * freed. Sorts samples. */
char *bench_report_csv(struct bench_result *result);
