/* The configuration: defaults < /etc/orchestrator/orchestrator.yaml < ~/.config/orchestrator/
 * orchestrator.yaml < ORCHESTRATOR_* < flags. One table in config.c describes every key. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/error.h"

enum config_accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG };
enum config_vsock { VSOCK_AUTO, VSOCK_KERNEL, VSOCK_USER };

/* VMs of one image that are booted before a job wants them. */
struct config_pool {
	char *image;	   /* first: its name in the file */
	uint32_t min_idle; /* so many stand ready; default 1 */
	uint32_t max;	   /* those that boot and that leave counted too; default min_idle + 1 */
	uint32_t cpus;	   /* of each; the defaults are those of a job */
	uint64_t memory_bytes;
	uint64_t disk_bytes; /* 0: none, as for jobs that ask for none */
	uint64_t max_age_ms; /* an idle one is replaced then; default 30 min */
};

struct config {
	/* Strings are owned. */
	char *state_dir;     /* the store, results; root: /var/lib/orchestrator, else
			      * $XDG_STATE_HOME/orchestrator */
	char *runtime_dir;   /* sockets; STATE_DIR/run where state_dir was set; else root:
			      * /run/orchestrator, others: $XDG_RUNTIME_DIR/orchestrator, else
			      * STATE_DIR/run. At most 60 bytes. */
	char *image_dir;     /* where `image build` puts bundles; root: STATE_DIR/images, else
			      * $XDG_DATA_HOME/orchestrator/images. Searched first; then
			      * /var/lib/orchestrator/images, then PREFIX/share/orchestrator/images */
	char *default_image; /* for `run -- CMD` without --image: debian */
	char *libvirt_uri;   /* qemu:///embed, qemu:///system, qemu:///session, or "embed" for the
			      * default   root below state_dir */
	enum config_accel accel;
	enum config_vsock vsock;
	char *cids;		    /* "FIRST-LAST": cid_range_parse() */
	uint32_t max_vms;	    /* at once; default: number of cores, at least 2 */
	uint32_t memory_overcommit; /* percent of the host's memory that VMs may have in all;
				     * default 80 */
	uint32_t cpu_overcommit;    /* the same for its processors; default 400 */
	struct config_pool **pools; /* owned; in files only */
	size_t n_pools;
	uint64_t boot_timeout_ms; /* from domain created to worker ready; default 60 s (TCG is slow)
				   */
	uint64_t kvm_probe_timeout_ms; /* default 10 s */
	uint64_t idle_timeout_ms;      /* an auto-started daemon leaves after this; default 5 min */
	uint64_t min_free_disk;	       /* below it submits are refused; default 256M */
	uint64_t ballast; /* bytes kept for records when the disk is full; default 16M; 0: none */
	uint64_t default_timeout_ms;
	uint64_t default_memory;
	uint32_t default_cpus;
	uint64_t retain_ms; /* results of finished jobs are kept so long; 0: for ever */
	char *log_level;
};

/* All sources but the flags. file: an explicit file (--config), which must exist, read instead of
 * the two default ones. Errors name file:line:column, or the variable. */
struct config *config_load(const char *file, struct error **err);
/* Log a warning for each ORCHESTRATOR_* variable that nobody reads: a misspelt one would be ignored
 * in silence. No error: what a later version knows must not stop this one. */
void config_warn_of_variables(void);
/* One key as if by its variable, for a flag: origin is how errors and config_describe() call it
 * ("--accel"). The directories made from others' defaults do not follow. */
int config_set(struct config *config, const char *name, const char *value, const char *origin,
	struct error **err);
void config_free(struct config *config);
/* Every key with its value and where it came from, for `orchestrator config`: YAML that reads back
 * the same. config is what config_load() returned. */
char *config_describe(const struct config *config);

/* STATE_DIR/jobs/ID and so on; owned by the caller. */
char *config_job_dir(const struct config *config, const char *job_id);
char *config_control_socket(const struct config *config); /* RUNTIME_DIR/control.sock */

/* QEMU is started by libvirt's driver inside the daemon, not by a libvirtd. */
bool config_embeds_libvirt(const struct config *config);

/* For state_dir and runtime_dir: where we are root QEMU runs as another user and must get through;
 * what is nobody else's business below them has a stricter mode of its own. */
static inline mode_t config_dir_mode(void)
{
	return geteuid() == 0 ? 0711 : 0700;
}
