/* What `orchestrator bench` measured, and on what: filled by bench_measure.c, shown by
 * bench_report.c and bench_plot.c. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bench.h"
#include "orchestrator/bench_stats.h"

enum bench_transport { BENCH_VSOCK, BENCH_TCP, BENCH_TRANSPORTS };
enum bench_layer { BENCH_GRPC, BENCH_RAW, BENCH_LAYERS };
enum bench_direction { BENCH_TO_GUEST, BENCH_FROM_GUEST, BENCH_DIRECTIONS };
/* QEMU (vCPU, and for TCP its user-mode network), the userspace vsock device, this command. */
enum bench_process { BENCH_QEMU, BENCH_DEVICE, BENCH_SELF, BENCH_PROCESSES };

#define BENCH_SIZES 6
extern const uint32_t bench_sizes[BENCH_SIZES]; /* payload of one message, bytes, growing */
#define BENCH_RAW_SIZE 3			/* raw streams are compared with this one */

const char *bench_transport_name(enum bench_transport transport); /* "vsock" */
const char *bench_layer_name(enum bench_layer layer);		  /* "grpc" */
const char *bench_direction_name(enum bench_direction direction); /* "to_guest" */
const char *bench_process_name(enum bench_process process);	  /* "qemu" */

struct bench_plan {
	unsigned rounds;      /* at most BENCH_ROUNDS_MAX; one more, not counted, goes before */
	unsigned calls;	      /* per round, transport and layer */
	unsigned connections; /* the same */
	unsigned stream_ms;   /* about so long is each stream */
};

struct bench_stream {
	double rates[BENCH_ROUNDS_MAX]; /* payload bytes a second, by round */
	unsigned rounds;
	uint64_t bytes;		     /* over all rounds */
	double cpu[BENCH_PROCESSES]; /* seconds, over all rounds */
	uint64_t budget;	     /* bytes of the next stream */
};

struct bench_conditions {
	/* Strings are owned. */
	char *accelerator, *vsock_device, *image, *guest_kernel, *host_kernel, *qemu, *time;
	char **devices; /* of the VM */
	size_t n_devices;
	unsigned network_interfaces;
	unsigned host_cpus, guest_cpus;
	double load_before, load_after; /* of one minute */
};

struct bench_result {
	struct bench_plan plan;
	struct bench_conditions conditions;
	struct bench_samples calls[BENCH_LAYERS][BENCH_TRANSPORTS]; /* usec */
	/* gRPC: dial, HTTP/2, hello, mutual proof. Raw: dial to the first byte echoed. usec */
	struct bench_samples connects[BENCH_LAYERS][BENCH_TRANSPORTS];
	struct bench_stream streams[BENCH_TRANSPORTS][BENCH_DIRECTIONS][BENCH_SIZES]; /* gRPC */
	struct bench_stream raw_streams[BENCH_TRANSPORTS][BENCH_DIRECTIONS];
};

void bench_result_clear(struct bench_result *result);
/* Seconds per GiB; all processes together with process BENCH_PROCESSES. */
double bench_cpu_per_gib(const struct bench_stream *stream, enum bench_process process);
