/* What PID 1 does for a bare kernel before the worker can work, and after. */
#pragma once

#include "common/error.h"
#include "guest-worker/job_root.h"

#define INIT_JOB_ROOT "/job-root"
#define INIT_JOB_DIR  "/home/job"

/* /proc, /sys, /dev, console, cgroups, modules, kernel settings, host name, loopback. */
int init_machine(struct error **err);
/* Find the root disk and make the tree that jobs see at INIT_JOB_ROOT (root_disk.c). */
int init_job_root(struct error **err);

/* End the machine: the host has it destroyed on a reboot, which needs no ACPI. Does not return. */
_Noreturn void init_power_off(void);

/* The boot's secret, from fw_cfg: 1 and the bytes, or 0 when the host gave none. *ret_privileged:
 * the host says that it dials from ports below 1024 only. */
int init_read_secret(unsigned char *ret, bool *ret_privileged, struct error **err);
/* One line to the machine's console. */
void init_say(const char *line);
