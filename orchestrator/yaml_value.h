/* Single values of a yaml_table: from text and back. */
#pragma once

#include "orchestrator/yaml_table.h"

enum yaml_style {
	YAML_STYLE_PLAIN,
	YAML_STYLE_QUOTED,
	YAML_STYLE_FOREIGN, /* not from YAML: a text is a text, a number a number */
};

/* Set the key's place in *target. NULL, or what is wrong with the text, owned by the caller. */
char *yaml_value_set(
	const struct yaml_key *key, void *target, const char *text, enum yaml_style style);

/* A text that belongs to a text key: words other readers take for something else, length, check. */
char *yaml_text_problem(const struct yaml_key *key, const char *text, enum yaml_style style);

/* Does one thing of this type hold a single value? */
bool yaml_type_is_scalar(enum yaml_type type);
