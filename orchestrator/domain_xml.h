/* The domain's XML: one function per section, nothing in the machine that the job does not need,
 * and no network interface but the benchmark's own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/* What `orchestrator bench`, and nothing else, adds: a network interface on QEMU's own user-mode
 * network, by which the guest reaches nobody (restrict=on), and two ports of 127.0.0.1 that lead to
 * it (common/bench.h). */
struct domain_bench {
	uint16_t rpc_port, raw_port;
};

/* Everything is borrowed. */
struct domain_spec {
	const char *name;
	const char *uuid;
	/* metadata: who owns the domain (a digest of the state directory), and for what */
	const char *owner, *vm_id, *job_id;
	unsigned attempt;
	bool kvm;
	uint32_t tsc_khz;     /* tsc.h; of an emulated guest; 0: it finds out itself */
	const char *emulator; /* NULL: libvirt's choice */
	const char *firmware; /* ROM; NULL: the machine's own */
	uint32_t cpus;
	uint64_t memory_bytes;
	const char *kernel, *initramfs, *cmdline;
	const char *root;	 /* read-only image, shared by all VMs */
	const char *scratch;	 /* raw disk of this VM; NULL: none */
	const char *console;	 /* Unix socket which QEMU connects to */
	const char *secret_file; /* hex, handed over by fw_cfg */
	uint32_t cid;		 /* kernel device */
	const char *vhost_user;	 /* Unix socket of the userspace device; NULL: kernel device */
	const struct domain_bench *bench; /* NULL, unless the VM is the benchmark's */
	/* Run QEMU as this user (libvirt running as root); (uid_t)-1: libvirt's configuration
	 * decides */
	uid_t uid;
	gid_t gid;
};

/* Of our metadata. */
#define DOMAIN_NAMESPACE	"urn:orchestrator:vm:1"
#define DOMAIN_NAMESPACE_PREFIX "orchestrator"

/* Our metadata alone, as virDomainSetMetadata() wants them; to be freed. */
char *domain_xml_metadata(
	const char *owner, const char *vm_id, const char *job_id, unsigned attempt);
/* To be freed. */
char *domain_xml_make(const struct domain_spec *spec, struct error **err);

/* The owner in a domain's XML, or NULL if it has no metadata of ours; *ret_vm_id may be NULL. To be
 * freed. */
char *domain_xml_owner(const char *xml, char **ret_vm_id);

/* "disk virtio", "vsock virtio", ...: what the live XML says the guest can touch. */
int domain_xml_devices(const char *xml, char ***ret_devices, size_t *ret_n,
	bool *ret_network_interface, struct error **err);
