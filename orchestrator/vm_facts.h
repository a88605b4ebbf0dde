/* What is told of a VM while it is there. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct vm_facts {
	char id[32]; /* "vm-3f2a91c0" */
	char domain[64];
	char uuid[37];
	uint32_t cid; /* 0: not assigned yet */
	char image[64];
	const char *state; /* "creating", "booting", "ready", "running", "stopping"; static */
	const char *vsock_device;
	const char *accelerator;
	uint32_t cpus;
	uint64_t memory_bytes;
	uint64_t started_usec;
	int pid;     /* of QEMU; 0: not known */
	bool pooled; /* it was booted for its image's pool */
};
