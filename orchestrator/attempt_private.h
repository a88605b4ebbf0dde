/* What attempt.c (the way of a job from its inputs to its end) and attempt_vm.c (how it gets its
 * VM) share. */
#pragma once

#include <pthread.h>

#include "orchestrator/attempt.h"
#include "orchestrator/guest.h"
#include "orchestrator/vm.h"
#include "orchestrator/vm_note.h"

struct attempt {
	struct host *host;		   /* borrowed */
	const struct attempt_order *order; /* borrowed */
	attempt_listener listener;
	void *arg;
	pthread_t thread;
	int cancel_fd; /* readable once cancelled */

	pthread_mutex_t lock; /* below: */
	char *cancelled;      /* owned; why; NULL: it is not */
	pthread_cond_t changed;
	bool recorded;
	struct guest *guest; /* while guest_interrupt() may be called */

	/* The thread's own. */
	struct job_result result;
	struct image *image;
	char *console; /* owned */
	struct vm_order vm_order;
	struct vm *vm;
	struct results *results;
	struct vm_note note;
	bool noted;
	enum job_state state; /* the last that was told */
};

/* attempt.c: telling the owner. */
void attempt_emit(struct attempt *a, const struct attempt_event *event);
void attempt_stage_at(struct attempt *a, enum job_stage stage, uint64_t usec);
void attempt_stage(struct attempt *a, enum job_stage stage);
void attempt_tell_output(struct attempt *a);

/* attempt.c: outcomes. */
bool attempt_is_cancelled(struct attempt *a);
void attempt_conclude_ours(struct attempt *a, enum job_outcome outcome, const struct error *err);
void attempt_conclude_cancelled(struct attempt *a);
/* A call to the worker failed: was it us, the disk, the worker, or the VM under it? */
void attempt_conclude_call_failed(struct attempt *a, struct error **err);

void attempt_hang_up(struct attempt *a);

/* attempt_vm.c: a VM whose worker has proved itself. On failure -1, and the outcome is set. */
int attempt_get_vm(struct attempt *a);
