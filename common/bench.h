/* What host and worker agree on for `orchestrator bench`. A VM for a job has none of it: the word
 * is not on its kernel's command line, and it has no network interface. */
#pragma once

#include "common/limits.h"

/* On the guest kernel's command line: bring the interface up, listen on TCP, offer Bench. */
#define BENCH_WORD "orchestrator.bench"

/* The addresses of QEMU's user-mode network. */
#define BENCH_GUEST_ADDRESS "10.0.2.15"
#define BENCH_GUEST_MASK    "255.255.255.0"
#define BENCH_HOST_ADDRESS  "10.0.2.2"

/* The worker's RPC is on WORKER_PORT, by vsock and by TCP. Here, by both, is the raw service, which
 * shows what the transport does without gRPC. A connection begins with a request of
 * BENCH_RAW_REQUEST bytes: the letter and a count of bytes, little-endian in eight; then
 *
 *   'E'  every byte comes back, until the caller ends the connection (count is not used)
 *   'S'  count bytes come from the caller; when the last is here, one byte goes back
 *   'R'  count bytes go to the caller
 *
 * and after 'S' and 'R' the next request may follow. */
#define BENCH_RAW_PORT	  9997u
#define BENCH_RAW_REQUEST 9
#define BENCH_RAW_CHUNK	  (64 * KIB)

/* The largest payload: with what protobuf puts around it, it stays below the message limit. */
#define BENCH_PAYLOAD_MAX (LIMIT_GUEST_MESSAGE - 64)
