/* The benchmark's VM: made like a job's, but for its network interface, and outside the daemon. It
 * has a state directory of its own below the daemon's (libvirt's embedded driver cannot be shared
 * with a daemon that runs), which is gone with it. One thread. */
#pragma once

#include "common/rpc.h"
#include "orchestrator/bench_result.h"
#include "orchestrator/config.h"
#include "orchestrator/guest.h"

struct bench_vm;

/* Boots the VM. config's directories are moved; it must outlive the VM. Ends early, with
 * ERR_CANCELLED, when cancel_fd becomes readable. ERR_EXISTS: another benchmark runs with this
 * state directory. */
struct bench_vm *bench_vm_new(
	struct config *config, const char *image_name, int cancel_fd, struct error **err);
/* The VM and all its files. NULL is allowed. */
void bench_vm_free(struct bench_vm *vm);

/* A new connection to the guest's RPC or raw service: a connected blocking fd with deadlines on its
 * reads and writes, or -1. */
int bench_vm_dial(const struct bench_vm *vm, enum bench_layer layer, enum bench_transport transport,
	struct error **err);
/* Hello and proof on a connection to the RPC service; takes fd in every case. */
struct guest *bench_vm_greet(
	const struct bench_vm *vm, int fd, enum bench_transport transport, struct error **err);
/* Of a call that failed for want of an answer: if QEMU or the guest's kernel has ended, *err
 * becomes that. */
void bench_vm_explain(const struct bench_vm *vm, struct error **err);

/* Processor time used so far, in seconds, by each process that has a part in it. */
void bench_vm_cpu(const struct bench_vm *vm, double ret[BENCH_PROCESSES]);
/* What it was measured on, but for the loads and the time. */
int bench_vm_conditions(
	const struct bench_vm *vm, struct bench_conditions *ret, struct error **err);
