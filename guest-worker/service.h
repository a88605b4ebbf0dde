/* What the worker offers over RPC (proto/worker.proto), and who may have it.
 *
 * Where the boot gave a secret, a connection gets nothing but Hello and Prove until the host has
 * proven that it knows it too. A connection that has proven itself is the controller's, and takes
 * the place of the one that was: the host dials anew when a connection is lost, which it may know
 * before we do.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "guest-worker/job_root.h"

struct worker;

struct worker_options {
	const struct job_root *root; /* borrowed */
	bool init;		     /* we are PID 1 */
	const uint8_t *secret;	     /* PROOF_SECRET_BYTES, copied; or NULL */
	bool bench;		     /* this VM is `orchestrator bench`'s (bench.h) */
	uint64_t kernel_usec;	     /* uptime when the program began */
};

struct worker *worker_new(const struct worker_options *options, struct error **err);
/* From now on hosts can come. Before worker_serve(). */
void worker_set_ready(struct worker *worker);
/* From now on have a job init ready when nothing else has been to do for a while (spare.h). */
void worker_keep_spare(struct worker *worker);
/* Serve a connected fd, taken in every case, whose peer has been checked. ERR_LIMIT when there are
 * too many connections. */
int worker_serve(struct worker *worker, int fd, struct error **err);
/* Readable once the host has ordered the shutdown. Borrowed. */
int worker_shutdown_fd(const struct worker *worker);
const char *worker_boot_id(const struct worker *worker);
/* Ends jobs and connections. */
void worker_free(struct worker *worker);
