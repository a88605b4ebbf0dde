/* What libvirt's embedded driver wrote, in its root below our state directory, of VMs that are
 * gone.
 *
 * A daemon that is killed while libvirt starts a VM leaves files that no driver looks at again, and
 * perhaps a status: by that the next driver would believe that a QEMU is to be found, and let
 * nobody touch the domain for half a minute. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Is there anything of any VM of ours? */
bool embed_left_any(const char *root);
/* Before the driver is opened, and when no QEMU of these VMs runs: all but what is of those in
 * keep.
 */
void embed_left_sweep(const char *root, const char *const *keep, size_t n_keep);
/* libvirt asks a QEMU of its own what QEMU can do, and that one leaves its parent: if we end
 * meanwhile it stays for ever. Call this when no driver is open, or libvirt's answer is no longer
 * waited for. */
void embed_left_end_probes(const char *root);
/* What libvirt keeps of a VM whose domain is gone: QEMU's log, of each VM that ever was. */
void embed_left_remove_log(const char *root, const char *vm_id);
