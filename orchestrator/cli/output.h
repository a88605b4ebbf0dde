/* Data on stdout: tables for people, JSON and YAML for programs, names for scripts.
 *
 * A thing to be shown is one JSON object, made once; JSON and YAML are that object as it is, a
 * table is a view of it by a list of columns. So the formats cannot disagree.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "orchestrator/cli/cli.h"

enum output_kind {
	COLUMN_TEXT,
	COLUMN_SIZE,	 /* bytes: "512M" */
	COLUMN_AGE,	 /* microseconds since the epoch: "3m ago" */
	COLUMN_TIME,	 /* the same: "2026-03-01 17:30:59", local */
	COLUMN_DURATION, /* microseconds: "1m30s" */
	COLUMN_LINES,	 /* text of several lines: one below the other where there is room */
};

struct output_column {
	const char *title; /* "STATE" */
	const char *key;   /* of the object; "a.b" is b of its a; an array's elements are joined */
	enum output_kind kind;
	bool right; /* aligned to the right */
	bool gives; /* is cut first when the terminal is too narrow */
};

struct output_type {
	const char *name_key;		     /* what -o name prints */
	const struct output_column *columns; /* ends without a title */
};

/* Where it goes and how. */
struct output {
	FILE *to;
	enum output_format format;
	uint64_t now_usec; /* ages are counted from here */
	unsigned width;	   /* columns of the terminal; 0: not a terminal, nothing is cut */
	bool colour;
};

/* stdout, as the command line asks for it. */
struct output output_stdout(const struct cli *cli);

/* Prints rows (an array of objects of that type; borrowed). An empty table is its titles. */
void output_list(const struct output *output, const struct output_type *type, const json_t *rows);
/* One object. A table is "Title: value" lines by fields, of which absent ones are left out; the
 * keys of an object and the elements of an array of objects are not shown. */
void output_object(
	const struct output *output, const struct output_type *fields, const json_t *object);
/* Any JSON value as JSON (pretty, with a final newline) or as YAML. */
void output_value(const struct output *output, const json_t *value);

/* For the objects: strings that may not be UTF-8 (NULL: null). */
json_t *output_string(const char *s);
