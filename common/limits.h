/* Every cap on what a guest, a user or a peer may make us hold, in one place. Each is checked
 * before the allocation it bounds. */
#pragma once

#include "common/util.h"

/* Protocol between host and worker. A worker answers only the version it speaks. */
#define WORKER_PROTOCOL 2u
#define WORKER_PORT	9999u /* the worker listens here */
#define READY_PORT	9998u /* on the host's side: the worker dials it when it listens */
#define WORKER_CID_HOST 2u

/* RPC */
#define LIMIT_GUEST_MESSAGE   (1 * MIB)	  /* one message from a guest */
#define LIMIT_GUEST_UNPACKED  (4 * MIB)	  /* what it may unpack to */
#define LIMIT_CONTROL_MESSAGE (4 * MIB)	  /* one message between CLI and daemon */
#define LIMIT_CHUNK	      (256 * KIB) /* payload of one file or output chunk */

/* Job */
#define LIMIT_JOB_FILE		(64 * KIB)
#define LIMIT_JOB_DEPTH		16
#define LIMIT_SCRIPT		(48 * KIB)
#define LIMIT_SPEC		(256 * KIB) /* a whole job description, packed */
#define LIMIT_ARGS		1024
#define LIMIT_ENV		512
#define LIMIT_FILES		256 /* inputs, outputs: entries in a job */
#define LIMIT_LABELS		64
#define LIMIT_NAME		63 /* names of jobs, images, users, label names */
#define LIMIT_PATH		1024
#define DEFAULT_TIMEOUT_MS	(UINT64_C(10) * 60 * 1000)
#define LIMIT_TIMEOUT_MS	(UINT64_C(7) * 24 * 3600 * 1000)
#define DEFAULT_GRACE_MS	UINT64_C(5000)
#define LIMIT_GRACE_MS		UINT64_C(300000)
#define LIMIT_PRIORITY		100
#define LIMIT_ATTEMPTS		20u
#define DEFAULT_BACKOFF_MS	UINT64_C(2000)
#define DEFAULT_BACKOFF_MOST_MS (UINT64_C(5) * 60 * 1000)
#define LIMIT_BACKOFF_MS	(UINT64_C(24) * 3600 * 1000)
#define LIMIT_TTL_MS		(UINT64_C(3650) * 24 * 3600 * 1000)
#define DEFAULT_CPUS		1u
#define LIMIT_CPUS		64u
#define DEFAULT_MEMORY		(512 * MIB)
#define LIMIT_MEMORY_LEAST	(64 * MIB)
#define LIMIT_MEMORY		(256 * GIB)
#define LIMIT_DISK_LEAST	(16 * MIB)
#define LIMIT_DISK		(1024 * GIB)
#define DEFAULT_OUTPUT		(16 * MIB) /* kept of each stream */
#define LIMIT_OUTPUT		(1 * GIB)
#define DEFAULT_ARTIFACTS	(1 * GIB)
#define LIMIT_ARTIFACTS		(64 * GIB)

/* File trees */
#define LIMIT_TREE_FILES 10000u
#define LIMIT_TREE_DEPTH 32u
#define LIMIT_NAME_BYTES 255u

/* Console */
#define LIMIT_CONSOLE (1 * MIB)
