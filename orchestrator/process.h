/* Processes that are not our children, because a daemon before us started them. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* When it started, in the kernel's ticks: with the pid, the name of a process for good. 0: there is
 * none. */
uint64_t process_start_time(pid_t pid);
/* A pidfd of exactly that process, or -1 when it has ended. */
int process_open(pid_t pid, uint64_t start_time);
/* Wait at most grace_ms for its end, then SIGKILL, and wait a little for that. */
void process_end(int pidfd, int grace_ms);

/* Kill what a daemon before us started for VMs that are not kept, and that libvirt does not know
 * (it died between the start and the note of it): each QEMU and vsock device whose command line
 * names a file below vms/ID/, where ID is not in keep. */
void process_kill_orphans(const char *vms, const char *const *keep, size_t n_keep);
/* End those of this VM. */
void process_kill_vm(const char *vms, const char *vm_id);
/* End each QEMU and vsock device in whose command line is this beginning of a path. */
void process_kill_naming(const char *prefix);
