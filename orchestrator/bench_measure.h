/* The measuring itself: rounds in which vsock and TCP take turns, so that what else the machine
 * does meets both. */
#pragma once

#include "orchestrator/bench_vm.h"

/* plan and conditions are in ret_result already. on_round is told before each round; 0 is the
 * warm-up, which is not counted. ERR_CANCELLED when cancel_fd became readable. */
int bench_measure(const struct bench_vm *vm, int cancel_fd,
	void (*on_round)(void *arg, unsigned round), void *arg, struct bench_result *ret_result,
	struct error **err);
