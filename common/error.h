/* What went wrong, as one line for a person and one code for a program.
 *
 * Functions that can fail take `struct error **err` last and return -1 or NULL. *err is set exactly
 * on failure, and belongs to the caller. A caller that adds what it was doing calls error_wrap().
 * Log an error or return it, never both.
 */
#pragma once

/* The codes are gRPC's canonical ones, so that an error crosses an RPC unchanged. */
enum err_code {
	ERR_CANCELLED = 1,
	ERR_UNKNOWN = 2,
	ERR_INVALID = 3,	 /* the caller's input is wrong */
	ERR_TIMEOUT = 4,	 /* a deadline passed */
	ERR_NOT_FOUND = 5,	 /* the thing named is not there */
	ERR_EXISTS = 6,		 /* the thing to be made is there already */
	ERR_DENIED = 7,		 /* no permission */
	ERR_LIMIT = 8,		 /* a cap was reached, or memory or disk is full */
	ERR_STATE = 9,		 /* not possible in this state */
	ERR_ABORTED = 10,	 /* lost against a concurrent change */
	ERR_RANGE = 11,		 /* out of range */
	ERR_UNSUPPORTED = 12,	 /* this build, peer or host cannot */
	ERR_INTERNAL = 13,	 /* a promise inside this project was broken */
	ERR_UNAVAILABLE = 14,	 /* the peer or service is not there */
	ERR_DATA_LOSS = 15,	 /* bytes are missing or wrong */
	ERR_UNAUTHENTICATED = 16 /* who the peer is was not proven */
};

struct error {
	enum err_code code;
	char *text; /* owned; one line, no final full stop or newline */
};

/* Set *err (which may be NULL: the caller does not care). Always return -1. */
int error_set(struct error **err, enum err_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same for a failed system call: appends ": " and errnum's text, code by errnum. */
int error_errno(struct error **err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put "what the caller was doing: " before the text. Returns -1. */
int error_wrap(struct error **err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What is wrong is what the caller named, whatever the system calls it: ERR_INVALID. Returns -1. */
int error_blame_caller(struct error **err);

/* Move src into *err (freeing it if err is NULL). Returns -1. */
int error_move(struct error **err, struct error *src);

void error_free(struct error *err);

/* "INVALID" and so on; "UNKNOWN" for a number that is none. */
const char *err_code_name(enum err_code code);

static inline void error_freep(struct error **err)
{
	error_free(*err);
}
#define _cleanup_error_ __attribute__((cleanup(error_freep)))
