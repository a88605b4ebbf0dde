#include "orchestrator/cli/yaml_out.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/util.h"

static void emit(yaml_emitter_t *emitter, yaml_event_t *event)
{
	/* Fails only when memory or the stream does; the stream's error is seen at the end. */
	yaml_emitter_emit(emitter, event);
}

static void emit_scalar(yaml_emitter_t *emitter, const char *text, yaml_scalar_style_t style)
{
	yaml_event_t event;

	/* libyaml's prototype lacks the const; the text is copied. */
	if (yaml_scalar_event_initialize(&event, NULL, NULL, (yaml_char_t *)(uintptr_t)text,
		    (int)strlen(text), 1, 1, style))
		emit(emitter, &event);
}

/* Would a YAML reader take the plain word for something else than a string? */
static bool is_ambiguous(const char *s)
{
	static const char *const words[] = {"", "~", "null", "true", "false", "yes", "no", "on",
		"off", "y", "n", ".inf", ".nan", "-.inf", "+.inf"};
	char *end;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcasecmp(s, words[i]))
			return true;
	strtod(s, &end);
	if (*s && !*end)
		return true;
	/* Octal, binary, sexagesimal, with underscores, times: whatever begins like a number. */
	return (*s >= '0' && *s <= '9') ||
	       ((*s == '-' || *s == '+' || *s == '.') && s[1] >= '0' && s[1] <= '9');
}

static void emit_string(yaml_emitter_t *emitter, const char *s)
{
	size_t n = strlen(s);
	yaml_scalar_style_t style = YAML_PLAIN_SCALAR_STYLE;

	if (is_ambiguous(s))
		style = YAML_DOUBLE_QUOTED_SCALAR_STYLE;
	else if (n && s[n - 1] == '\n')
		style = YAML_LITERAL_SCALAR_STYLE; /* scripts; the emitter quotes what cannot be */
	emit_scalar(emitter, s, style);
}

static void emit_value(yaml_emitter_t *emitter, const json_t *value);

static void emit_object(yaml_emitter_t *emitter, const json_t *value)
{
	json_t *object = json_copy((json_t *)(uintptr_t)value); /* the macro wants it not const */
	yaml_event_t event;
	const char *key;
	json_t *item;

	yaml_mapping_start_event_initialize(&event, NULL, NULL, 1,
		json_object_size(object) ? YAML_BLOCK_MAPPING_STYLE : YAML_FLOW_MAPPING_STYLE);
	emit(emitter, &event);
	json_object_foreach(object, key, item)
	{
		emit_string(emitter, key);
		emit_value(emitter, item);
	}
	yaml_mapping_end_event_initialize(&event);
	emit(emitter, &event);
	json_decref(object);
}

static void emit_array(yaml_emitter_t *emitter, const json_t *value)
{
	yaml_event_t event;
	json_t *item;
	size_t i;

	yaml_sequence_start_event_initialize(&event, NULL, NULL, 1,
		json_array_size(value) ? YAML_BLOCK_SEQUENCE_STYLE : YAML_FLOW_SEQUENCE_STYLE);
	emit(emitter, &event);
	json_array_foreach(value, i, item) emit_value(emitter, item);
	yaml_sequence_end_event_initialize(&event);
	emit(emitter, &event);
}

static void emit_value(yaml_emitter_t *emitter, const json_t *value)
{
	if (json_is_object(value)) {
		emit_object(emitter, value);
	} else if (json_is_array(value)) {
		emit_array(emitter, value);
	} else if (json_is_string(value)) {
		emit_string(emitter, json_string_value(value));
	} else {
		_cleanup_free_ char *text = json_dumps(value, JSON_ENCODE_ANY);
		emit_scalar(emitter, text ? text : "null", YAML_PLAIN_SCALAR_STYLE);
	}
}

void yaml_out(FILE *to, const json_t *value, bool ascii)
{
	yaml_emitter_t emitter;
	yaml_event_t event;

	if (!yaml_emitter_initialize(&emitter))
		abort();
	yaml_emitter_set_output_file(&emitter, to);
	yaml_emitter_set_unicode(&emitter, !ascii);
	yaml_emitter_set_width(&emitter, -1);
	yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING);
	emit(&emitter, &event);
	yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1);
	emit(&emitter, &event);
	emit_value(&emitter, value);
	yaml_document_end_event_initialize(&event, 1);
	emit(&emitter, &event);
	yaml_stream_end_event_initialize(&event);
	emit(&emitter, &event);
	yaml_emitter_flush(&emitter);
	yaml_emitter_delete(&emitter);
}
