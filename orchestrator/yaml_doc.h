/* A YAML document as a tree with positions, and the list of what is wrong with it. The strict half
 * of yaml_table: what is refused in any document is refused here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

/* Mistakes, collected. */
struct yaml_problem;
struct yaml_problems {
	const char *name; /* borrowed; how the document is called */
	struct yaml_problem *list;
	size_t n;	/* kept */
	size_t dropped; /* counted only, beyond the cap */
};

void yaml_problem_add(struct yaml_problems *problems, unsigned line, unsigned column,
	const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* 0 if there are none, else -1 and *err with all of them, by position. Frees the list. */
int yaml_problems_finish(struct yaml_problems *problems, struct error **err);

enum yaml_kind {
	YAML_NODE_TEXT,
	YAML_NODE_LIST,
	YAML_NODE_MAP, /* children: key, value, key, value; keys are texts */
	YAML_NODE_BAD, /* a mistake already reported, such as an alias */
};

struct yaml_node {
	enum yaml_kind kind;
	unsigned line, column; /* from 1; column in characters */
	bool plain;	       /* text without quotes */
	bool repeated;	       /* a key that was there before, already reported */
	char *text;
	struct yaml_node **children; /* owned */
	size_t n;
};

/* The document's tree; NULL when it is empty or too broken (then there is at least one problem). */
struct yaml_node *yaml_doc_read(const char *text, size_t size, struct yaml_problems *problems);
void yaml_node_free(struct yaml_node *node);

/* A plain text that means "no value" in YAML. */
bool yaml_node_is_null(const struct yaml_node *node);

/* Text for a message: escaped, in quotes, cut when long. Owned by the caller. */
char *yaml_shown(const char *text);
