/* The worker inside a guest, as typed calls. Used by one thread, but for guest_interrupt(). Every
 * call has a deadline; everything that comes back is hostile. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "job.pb-c.h"
#include "worker.pb-c.h"

struct guest;
struct rpc_peer; /* common/rpc.h */

struct guest_hello {
	char version[32], kernel[80]; /* escaped */
	uint64_t kernel_usec;	      /* guest's uptime when the kernel had started the worker */
	uint64_t ready_usec;	      /* guest's uptime when it listened */
};

/* Takes the connected fd in every case. name: for error texts. Nothing is sent yet. */
struct guest *guest_new(int fd, const char *name, struct error **err);
void guest_free(struct guest *guest);

/* From any thread: what is under way returns soon, guest_run() after having asked the program to
 * end, everything else with ERR_CANCELLED. */
void guest_interrupt(struct guest *guest);

/* Before anything else: say hello, and prove both sides to each other with this boot's secret. A
 * guest without the secret is refused with ERR_UNAUTHENTICATED; one that speaks another version of
 * the protocol with ERR_STATE and what to do. */
int guest_hello(struct guest *guest, const uint8_t *secret, struct guest_hello *ret_hello,
	struct error **err);

/* The connection itself, for calls that are only measured. Borrowed. */
struct rpc_peer *guest_peer(const struct guest *guest);

/* Does it answer, within timeout_ms? */
int guest_ping(struct guest *guest, int timeout_ms, struct error **err);

/* Send the inputs that the submitter gave, from inputs_dir (holding 0, 1, ... by their number). */
int guest_put_inputs(
	struct guest *guest, const Job__V1__Spec *spec, const char *inputs_dir, struct error **err);

enum guest_stream { GUEST_STDOUT, GUEST_STDERR };

struct guest_sink {
	void (*started)(void *arg);
	/* The program is told to end next, because of guest_interrupt(). May be NULL. */
	void (*stopping)(void *arg);
	/* Bytes of the job. -1 with *err ends the run. */
	int (*output)(void *arg, enum guest_stream stream, const void *data, size_t n,
		struct error **err);
	void *arg;
};

/* Run the program and follow it to its end. What sink->output has taken is acknowledged to the
 * worker, which holds the rest and the exit for guest_attach(). *ret_exit is to be freed by
 * worker__v1__run_exit__free_unpacked(exit, NULL). */
int guest_run(struct guest *guest, const char *id, const Job__V1__Spec *spec,
	const struct guest_sink *sink, Worker__V1__RunExit **ret_exit, struct error **err);

/* Run `sh -c echo` and forget it: what the worker, the guest's kernel and, under emulation, QEMU do
 * for the first time for a program they have then done. How the program ended does not matter, for
 * an image need not have a shell. */
int guest_rehearse(struct guest *guest, struct error **err);

/* Follow a program that another connection started, from the bytes on that are at hand already.
 * started() is called again, if it did start. ERR_NOT_FOUND: it was not started. */
int guest_attach(struct guest *guest, const char *id, const Job__V1__Spec *spec,
	uint64_t stdout_bytes, uint64_t stderr_bytes, const struct guest_sink *sink,
	Worker__V1__RunExit **ret_exit, struct error **err);

/* Fetch the outputs; each record goes to take(). */
int guest_get_outputs(struct guest *guest, const Job__V1__Spec *spec,
	int (*take)(void *arg, const Job__V1__FileRecord *record, struct error **err), void *arg,
	struct error **err);
