/* What all VMs of this daemon share: the libvirt connection, the watcher, CIDs, the accelerator's
 * answer, and where their files are. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "orchestrator/config.h"

struct host;

/* Opens nothing yet: libvirt is connected at the first attempt. */
struct host *host_new(const struct config *config, struct error **err);
/* A VM that a daemon before us left behind. */
struct host_left {
	const char *id; /* "vm-3f2a91c0" */
	int qemu;	/* its pid, and when it started (process.h) */
	uint64_t qemu_start;
	bool there; /* set by host_sweep(): its domain runs */
};
/* Domains, processes and files that a daemon before us left behind, by our metadata and name
 * prefix: destroy all but those of keep. Without an answer from libvirt within some seconds (-1)
 * those of keep are there whose QEMU runs; domains are looked for, and the rest removed, when it
 * answers. */
int host_sweep(struct host *host, struct host_left *keep, size_t n_keep, struct error **err);
void host_free(struct host *host);
const char *host_accelerator(struct host *host);  /* NULL until known */
const char *host_vsock_device(struct host *host); /* NULL until known */
