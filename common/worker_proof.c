#include "common/worker_proof.h"

#include <sodium.h>
#include <string.h>

void worker_proof_make(const uint8_t secret[PROOF_SECRET_BYTES], enum proof_side side,
	const uint8_t host_nonce[PROOF_NONCE_BYTES], const uint8_t guest_nonce[PROOF_NONCE_BYTES],
	uint8_t ret_proof[PROOF_BYTES])
{
	/* The side's name goes in, so that a proof cannot be sent back to who made it. */
	static const char names[2][24] = {"orchestrator guest v1", "orchestrator host v1"};
	unsigned char message[24 + 2 * PROOF_NONCE_BYTES];

	_Static_assert(PROOF_SECRET_BYTES == crypto_auth_KEYBYTES, "secret size");
	_Static_assert(PROOF_BYTES == crypto_auth_BYTES, "proof size");
	memcpy(message, names[side], 24);
	memcpy(message + 24, host_nonce, PROOF_NONCE_BYTES);
	memcpy(message + 24 + PROOF_NONCE_BYTES, guest_nonce, PROOF_NONCE_BYTES);
	crypto_auth(ret_proof, message, sizeof(message), secret);
}

bool worker_proof_check(const uint8_t secret[PROOF_SECRET_BYTES], enum proof_side side,
	const uint8_t host_nonce[PROOF_NONCE_BYTES], const uint8_t guest_nonce[PROOF_NONCE_BYTES],
	const uint8_t *proof, unsigned long proof_size)
{
	uint8_t wanted[PROOF_BYTES];

	if (proof_size != PROOF_BYTES)
		return false;
	worker_proof_make(secret, side, host_nonce, guest_nonce, wanted);
	return sodium_memcmp(wanted, proof, PROOF_BYTES) == 0;
}
