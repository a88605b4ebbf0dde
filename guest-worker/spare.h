/* The spare job init of an executor (launch.h): made by a thread of its own when the executor has
 * had nothing to do for a while, taken by the next execution. There is at most one.
 *
 * A VM that is to wait for its job has one when the job comes; a VM whose job comes at once, before
 * the while is over, has spent nothing on it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "guest-worker/cgroup.h"
#include "guest-worker/launch.h"

struct spares;

/* root, sandbox and cgroups (or NULL) are borrowed. Begins idle. */
int spares_new(const struct job_root *root, const struct sandbox *sandbox,
	struct cgroup_tree *cgroups, uint64_t idle_usec, struct spares **ret, struct error **err);
/* Its job inits have PR_SET_PDEATHSIG on its thread: none that was taken may live any more. */
void spares_free(struct spares *spares);
/* Is there something to do? Else the while begins. */
void spares_set_busy(struct spares *spares, bool busy);

/* Take the one that is there and give it its plan. False: there is none (that works). Then *ret and
 * *ret_cgroup (or NULL) are the caller's, who has to call spares_run(). *ret_oom_kills:
 * machine_oom_kills() when it was made; nothing has run since. */
bool spares_take(struct spares *spares, const struct launch *launch, uint64_t memory_bytes,
	struct launched *ret, struct cgroup **ret_cgroup, uint64_t *ret_oom_kills);
/* Have fn(arg) called by the thread that made the one that was just taken, and which has nothing
 * else to do: another is not made before that returns. */
void spares_run(struct spares *spares, void (*fn)(void *arg), void *arg);
/* Is there one, and how many were taken? */
bool spares_ready(struct spares *spares, unsigned *ret_taken);
