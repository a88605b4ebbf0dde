/* A JSON value as a YAML document, by libyaml's emitter. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* ascii: everything else is escaped. */
void yaml_out(FILE *to, const json_t *value, bool ascii);
