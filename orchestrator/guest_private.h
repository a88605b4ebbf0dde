/* What guest.c (the connection, hello, files) and guest_run.c (programs) share. */
#pragma once

#include <pthread.h>

#include "common/rpc.h"
#include "orchestrator/guest.h"

struct guest {
	struct rpc_peer *peer;
	pthread_mutex_t lock;  /* below: */
	struct rpc_call *call; /* the one under way; borrowed */
	bool call_is_run;
	bool interrupted;
};

/* One call at a time is registered, so that guest_interrupt() finds it. */
struct rpc_call *guest_call_open(
	struct guest *guest, const struct rpc_method *method, int timeout_ms, struct error **err);
void guest_call_close(struct guest *guest, struct rpc_call *call);
bool guest_is_interrupted(struct guest *guest);
