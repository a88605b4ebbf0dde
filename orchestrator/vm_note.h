/* What a daemon has to know to take up a VM that another one started: jobs/ID/vm.json.
 *
 * It is written just before the program is ordered to start, so it says also that the program may
 * have started; before that, a VM whose daemon has gone is thrown away and the job starts again. It
 * stands in the job's directory and not in the VM's: what runs as QEMU's user may change that one.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/worker_proof.h"
#include "orchestrator/job.h"
#include "orchestrator/vsock.h"

struct vm_note {
	unsigned attempt;
	char id[32], uuid[40], image[64];
	char image_digest[96];
	uint8_t secret[PROOF_SECRET_BYTES];
	uint32_t cid;
	enum vsock_kind vsock_kind;
	bool kvm;
	bool pooled; /* as in vm_facts */
	uid_t uid;   /* of QEMU; (uid_t)-1: not ours to say */
	gid_t gid;
	uint32_t cpus;
	uint64_t memory_bytes, started_usec;
	pid_t device, qemu;		   /* 0: none, or not known */
	uint64_t device_start, qemu_start; /* process_start_time() */
	uint64_t times[STAGES];
	/* Why the program was told to end, written before it is told; "": it was not. ASCII. */
	char cancelled[80];
};

int vm_note_write(const char *job_dir, const struct vm_note *note, struct error **err);
/* ERR_NOT_FOUND: there is none. */
int vm_note_read(const char *job_dir, struct vm_note *ret, struct error **err);
void vm_note_remove(const char *job_dir);
