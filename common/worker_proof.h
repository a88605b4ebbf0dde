/* The mutual proof between host and worker: each shows that it knows this boot's secret, over both
 * nonces, so that neither a process in the guest that took the port nor another local user of the
 * host's vsock can stand in for one of them. HMAC-SHA-512-256 by libsodium, compared in constant
 * time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PROOF_SECRET_BYTES 32
#define PROOF_NONCE_BYTES  32
#define PROOF_BYTES	   32

/* Where the worker finds its secret (hex) in fw_cfg: root-readable in the guest only. */
#define PROOF_FW_CFG_NAME "opt/org.orchestrator/secret"
/* A second line of the same file: the host dials from ports below 1024 only, refuse all others. */
#define PROOF_PRIVILEGED_LINE "privileged-port"

enum proof_side { PROOF_GUEST, PROOF_HOST };

void worker_proof_make(const uint8_t secret[PROOF_SECRET_BYTES], enum proof_side side,
	const uint8_t host_nonce[PROOF_NONCE_BYTES], const uint8_t guest_nonce[PROOF_NONCE_BYTES],
	uint8_t ret_proof[PROOF_BYTES]);
/* proof is hostile; size is checked. */
bool worker_proof_check(const uint8_t secret[PROOF_SECRET_BYTES], enum proof_side side,
	const uint8_t host_nonce[PROOF_NONCE_BYTES], const uint8_t guest_nonce[PROOF_NONCE_BYTES],
	const uint8_t *proof, unsigned long proof_size);
