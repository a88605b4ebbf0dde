/* Running the tools that make an image: without a shell, their output in a log file whose last
 * lines become part of the error when one fails. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct image_tools {
	char *log_path; /* owned */
	int log;	/* owned */
	int lock;	/* borrowed: held by the children too, so that what outlives us is not
			 * disturbed; -1: none */
};

/* Opens (and empties) the log. Directories for programs that only root has in its PATH are added
 * to PATH. */
int image_tools_start(
	struct image_tools *tools, const char *log_path, int lock, struct error **err);
void image_tools_stop(struct image_tools *tools);

/* A growing argument list. Strings are owned. */
struct arg_list {
	char **items; /* ends with NULL */
	size_t n;
};
void arg_add(struct arg_list *list, const char *arg);
void arg_addf(struct arg_list *list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arg_clear(struct arg_list *list);

/* ERR_NOT_FOUND names the Debian packages of all the tools that are missing. */
int image_tools_need(const char *const *tools, size_t n, struct error **err);

/* Run argv to its end, stdin and stdout as given (-1: nothing, the log). what is the step for the
 * error text. */
int image_tools_run(struct image_tools *tools, const char *what, char *const argv[], int in,
	int out, int timeout_ms, struct error **err);
/* The same, with stdout as a text of at most 4 MiB, owned by the caller. */
char *image_tools_capture(struct image_tools *tools, const char *what, char *const argv[],
	int timeout_ms, struct error **err);

/* Link, or share blocks, or copy. The mode becomes 0444. */
int image_tools_share_file(const char *from, const char *to, struct error **err);

/* SHA-256 as hex over texts, each with its length; the last is NULL. To be freed. */
#define image_tools_digest(...) image_tools_digest_texts((const char *const[]){__VA_ARGS__})
char *image_tools_digest_texts(const char *const *texts);
