/* Which accelerator a VM gets. That /dev/kvm exists proves nothing: on some hosts it opens and
 * guests hang or crawl. With `auto` the first VM is the probe: it is started on KVM with a deadline
 * of its own, and if its worker does not come up in time it is started again under emulation. The
 * answer is remembered for this kernel and this QEMU, so a KVM that does not work costs one bounded
 * wait, once. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "orchestrator/config.h"

struct accel;

enum accel_use {
	ACCEL_USE_TCG,
	ACCEL_USE_KVM,
	ACCEL_USE_TRIAL, /* KVM, with kvm_probe_timeout_ms; the answer goes to accel_report() */
};

/* file: where the answer is kept. */
struct accel *accel_new(enum config_accel wanted, const char *file);
void accel_free(struct accel *accel);
/* For a VM that is about to start. Waits while another VM is on trial. qemu_version (virt.h) is
 * part of what the answer is remembered for. remote: QEMU is started by a daemon with rights of its
 * own, so that ours on /dev/kvm say nothing. ERR_UNSUPPORTED: kvm was asked for and is not there.
 * ERR_CANCELLED: cancel_fd (-1: none) became readable while waiting. */
int accel_begin(struct accel *accel, const char *emulator, bool remote, int cancel_fd,
	enum accel_use *ret_use, struct error **err);
/* How it went. Every ACCEL_USE_TRIAL must be answered: worked, failed (why: one line), or, with why
 * NULL, neither, as when it was cancelled. TCG successes confirm an earlier failed trial. */
void accel_report(struct accel *accel, enum accel_use use, bool worked, const char *why);
/* "kvm", "tcg", or NULL while not known. */
const char *accel_name(struct accel *accel);
