/* Strict YAML into structs, driven by a table of keys. For job.yaml, the configuration, recipes.
 *
 *	struct recipe { char *name; char **packages; size_t n_packages; uint64_t disk; };
 *
 *	static const struct yaml_key recipe_keys[] = {
 *		{"name", YT_STRING, YAML_AT(struct recipe, name), .required = true},
 *		{"packages", YT_STRINGS, YAML_AT(struct recipe, packages),
 *			YAML_COUNT(struct recipe, n_packages), .max = 500},
 *		{"disk", YT_SIZE, YAML_AT(struct recipe, disk), .min = MIB, .max = GIB},
 *	};
 *	static const struct yaml_table recipe_table = {
 *		"recipe", sizeof(struct recipe), YAML_KEYS(recipe_keys)};
 *
 *	struct recipe recipe = {0};
 *	if (yaml_table_read(&recipe_table, &recipe, text, size, "debian.yaml", err) < 0)
 *		...
 *	yaml_table_clear(&recipe_table, &recipe);
 *
 * The structs may be protobuf-c's messages: nested structs and list items are pointers, a list is
 * an array of pointers with its count beside it, and `has` flags are kept.
 *
 * What other YAML readers guess, this one refuses: aliases, anchors, tags, merge keys, directives,
 * a second document, duplicate and unknown keys, values of another type, numbers that overflow,
 * text that is no UTF-8, more than LIMIT_JOB_FILE bytes or LIMIT_JOB_DEPTH levels. All mistakes of
 * a document are told at once, in the order of the document.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct yaml_table;

enum yaml_type {
	YT_STRING,   /* char *: a text */
	YT_BOOL,     /* bool or int: true or false, no other word */
	YT_UINT,     /* uint32_t or uint64_t: decimal digits */
	YT_INT,	     /* int32_t: the same, with or without a sign, from -max to max */
	YT_SIZE,     /* uint64_t, bytes: 512M, 1G, 100 */
	YT_DURATION, /* uint64_t, milliseconds: 90s, 10m, 1h30m; never without a unit */
	YT_ENUM,     /* an enum: the index of the word in .names */
	YT_STRINGS,  /* char **, .count: a list of texts */
	YT_TABLE,    /* struct *: a mapping described by .table */
	YT_TABLES,   /* struct **, .count: a list of such mappings */
	YT_NAMED,    /* struct **, .count: any names with mappings described by .table. The struct's
		      * first member is the name, a char *, and not among the table's keys; .check
		      * is for the names */
	YT_MAP, /* struct **, .count: any names with texts. .table's first key takes the name, its
		 * second the text, with their checks and caps; see yaml_pair */
};

/* What is wrong with a text ("must begin with a letter"), owned by the caller; NULL: nothing. */
typedef char *(*yaml_check)(const char *value);

struct yaml_key {
	const char *name;
	enum yaml_type type;
	size_t offset;	  /* of the value in the struct: YAML_AT */
	size_t width;	  /* its size: YAML_AT */
	size_t count;	  /* lists and maps, offset of their size_t: YAML_COUNT */
	size_t has;	  /* offset of a bool or int set when the key is there: YAML_HAS */
	size_t has_width; /* 0: no such flag */
	bool required;
	/* A text here may be what other readers take for a number or boolean: `PORT: 8080`, `X: no`
	 * are taken as written. Elsewhere such a text must be quoted. */
	bool as_written;
	/* Numbers, sizes (bytes), durations (ms): the range (YT_INT: max alone). Texts: bytes.
	 * Lists, maps: entries. max 0: no cap but the document's. */
	uint64_t min, max;
	yaml_check check;		/* texts, also each of a list; after min and max */
	const char *const *names;	/* YT_ENUM; ends with NULL */
	const struct yaml_table *table; /* YT_TABLE, YT_TABLES, YT_NAMED, YT_MAP */
	const char *unique; /* YT_TABLES: no two items may have the same text under this key */
	const char *hint;   /* said after "must be a list" and the like: what to write instead */
};

struct yaml_table {
	const char *what; /* "job": for error texts */
	size_t size;	  /* of the struct */
	const struct yaml_key *keys;
	size_t n_keys;
	const void *initial;	   /* how a struct made for YT_TABLE(S) begins; NULL: zeroed */
	const char *scalar;	   /* a text in place of the mapping is taken for this key's */
	const char *const *one_of; /* exactly one of these keys; ends with NULL */
	/* What is wrong with the mapping as a whole ("max is less than min"), owned by the caller;
	 * NULL: nothing. Not called where a key of it was wrong. May be NULL. */
	char *(*check)(const void *target);
	/* Told of each key that was set, with its place; may be NULL. */
	void (*on_key)(void *target, const struct yaml_key *key, const char *name, unsigned line);
};

/* clang-format off */
#define YAML_AT(type, member) .offset = offsetof(type, member), .width = sizeof(((type *)0)->member)
#define YAML_COUNT(type, member) .count = offsetof(type, member)
#define YAML_HAS(type, member) .has = offsetof(type, member), .has_width = sizeof(((type *)0)->member)
#define YAML_KEYS(array) .keys = (array), .n_keys = sizeof(array) / sizeof((array)[0])
/* clang-format on */

/* For maps whose names and values need no check of their own. */
struct yaml_pair {
	char *name, *value;
};
extern const struct yaml_table yaml_pair_table;

/* Read text into *target, which is initialised (zeroed, or holding defaults: keys that are not
 * there leave it alone). An empty document is well if nothing is required. On failure -1 with
 * ERR_INVALID, and *err's text has all mistakes, one a line: "name:line:column: what is wrong".
 * *target may be half filled then. */
int yaml_table_read(const struct yaml_table *table, void *target, const char *text, size_t size,
	const char *name, struct error **err);

/* Free what the keys of *target own and zero their places (not for protobuf-c messages: those have
 * their own way). */
void yaml_table_clear(const struct yaml_table *table, void *target);

const struct yaml_key *yaml_table_find(const struct yaml_table *table, const char *name);

/* One value from elsewhere, such as an environment variable, by the same rules. Not for lists,
 * maps and tables. *err's text says what is wrong with the value, not which key it is. */
int yaml_key_set(const struct yaml_key *key, void *target, const char *text, struct error **err);

/* The value as text that reads back as the same value; a text is not quoted. NULL for a text that
 * is not set. Not for lists, maps and tables. */
char *yaml_key_format(const struct yaml_key *key, const void *target);

/* For a number that did not come through here: NULL if it is between the key's min and max, else
 * what is wrong, owned by the caller. YT_UINT, YT_INT, YT_SIZE, YT_DURATION. */
char *yaml_key_range_problem(const struct yaml_key *key, const void *target);
