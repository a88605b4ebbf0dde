/* The host's writer for what one attempt brings home, beneath the job's directory:
 *
 *	stdout, stderr    what the program wrote, at most limits.output_bytes of each
 *	artifacts/        its outputs, complete; made by one rename when all of them are there
 *	artifacts.partial what had come when the attempt failed; never both
 *	result.json       the record, written last
 *
 * Every byte comes from the guest. Its names are never used: an output is called by its number, and
 * the host names it after the path that the job's owner declared. A full disk ends a stream as its
 * cap does, and results_fill() tells; elsewhere it is ERR_LIMIT "disk full while ...". What was
 * written stays.
 *
 * Used by one thread, except results_kept(), which any may call.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "job.pb-c.h"
#include "orchestrator/job.h"

struct results;

enum results_stream { RESULTS_STDOUT, RESULTS_STDERR, RESULTS_STREAMS };

/* Begin an attempt: stdout and stderr are there and empty, and what an earlier attempt left is
 * gone. job_dir must exist; the spec is borrowed until results_close(). */
struct results *results_open(const char *job_dir, const Job__V1__Spec *spec, struct error **err);
/* Go on with an attempt of an earlier daemon's: stdout and stderr keep what they have, artifacts
 * come anew. */
struct results *results_reopen(const char *job_dir, const Job__V1__Spec *spec, struct error **err);
/* NULL is allowed. Files stay as they are. */
void results_close(struct results *results);

static inline void results_closep(struct results **results)
{
	results_close(*results);
}
#define _cleanup_results_ __attribute__((cleanup(results_closep)))

/* Call first_byte once, at the first byte of either stream, with the host's clock. */
void results_on_first_byte(
	struct results *results, void (*first_byte)(void *arg, uint64_t usec), void *arg);

/* n bytes of the program's. What goes beyond the cap, or does not fit on the disk, is counted and
 * dropped, which is no error. */
int results_output(struct results *results, enum results_stream stream, const void *data, size_t n,
	struct error **err);
/* What the guest says about a stream at the end: it may have dropped bytes that never came here.
 * Its word only ever adds to what was seen here. */
void results_guest_counted(
	struct results *results, enum results_stream stream, uint64_t bytes, bool truncated);
/* Bytes in the stream's file so far. */
uint64_t results_kept(const struct results *results, enum results_stream stream);

/* One record of the outputs: "N" or "N/below/it" for the spec's output number N. Any -1 is final
 * for the artifacts. Its artifacts.partial stays. */
int results_record(struct results *results, const Job__V1__FileRecord *record, struct error **err);

struct results_artifacts {
	struct job_artifact *artifacts; /* owned; regular files, paths below artifacts/ */
	size_t n_artifacts;
	uint64_t bytes;
	char *missing; /* owned; a required output that did not come, and why; NULL: all came */
	char *skipped; /* owned; what is missing below an output that did come ("out/l: is a
			* symbolic link, and 2 more"); NULL: nothing */
};
void results_artifacts_clear(struct results_artifacts *artifacts);

/* The records ended properly: publish artifacts/. Without declared outputs there is none. */
int results_artifacts_finish(
	struct results *results, struct results_artifacts *ret, struct error **err);

/* The counts and flags of both streams into a result, and what the disk had no room for. Once. */
void results_fill(const struct results *results, struct job_result *result);

/* Everything written so far survives a power cut. Before the outcome is recorded. */
int results_sync(struct results *results, struct error **err);

/* result.json, replaced as a whole, durable. */
int results_write_json(const char *job_dir, const char *text, struct error **err);
