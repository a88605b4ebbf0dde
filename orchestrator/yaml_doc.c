/* libyaml's events to a tree. The parser is asked for one event after the other; the tree's size is
 * bounded by the document's, its depth by LIMIT_JOB_DEPTH, both checked before anything is made.
 *
 * A mistake in what is said (an alias, a tag, a duplicate key) is noted and reading goes on; a
 * mistake in the syntax ends it, because what follows it cannot be trusted to mean anything.
 */
#include "orchestrator/yaml_doc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "common/limits.h"
#include "common/util.h"

#define PROBLEMS_KEPT 100
#define SHOWN_BYTES   48

struct yaml_problem {
	unsigned line, column;
	size_t order;
	char *text;
};

struct reader {
	yaml_parser_t parser;
	const char *text;
	size_t size;
	struct yaml_problems *problems;
};

/* Problems. --------------------------------------------------------------------------------------
 */

void yaml_problem_add(
	struct yaml_problems *problems, unsigned line, unsigned column, const char *fmt, ...)
{
	va_list ap;

	if (problems->n >= PROBLEMS_KEPT) {
		problems->dropped++;
		return;
	}
	problems->list = xreallocarray(problems->list, problems->n + 1, sizeof(*problems->list));
	struct yaml_problem *p = &problems->list[problems->n];
	*p = (struct yaml_problem){.line = line, .column = column, .order = problems->n};
	va_start(ap, fmt);
	p->text = str_vprintf(fmt, ap);
	va_end(ap);
	problems->n++;
}

static int by_position(const void *left, const void *right)
{
	const struct yaml_problem *a = left, *b = right;

	if (a->line != b->line)
		return a->line < b->line ? -1 : 1;
	if (a->column != b->column)
		return a->column < b->column ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

int yaml_problems_finish(struct yaml_problems *problems, struct error **err)
{
	_cleanup_free_ char *name = str_escape(problems->name, strlen(problems->name), false);
	_cleanup_free_ char *all = NULL;
	size_t size = 0;

	if (!problems->n)
		return 0;
	qsort(problems->list, problems->n, sizeof(*problems->list), by_position);
	FILE *out = open_memstream(&all, &size);
	if (!out)
		abort();
	for (size_t i = 0; i < problems->n; i++) {
		struct yaml_problem *p = &problems->list[i];
		fprintf(out, "%s%s:%u:%u: %s", i ? "\n" : "", name, p->line, p->column, p->text);
		free(p->text);
	}
	if (problems->dropped)
		fprintf(out, "\n%s: and %zu more mistakes", name, problems->dropped);
	if (fclose(out) != 0)
		abort();
	free(problems->list);
	*problems = (struct yaml_problems){.name = problems->name};
	return error_set(err, ERR_INVALID, "%s", all);
}

char *yaml_shown(const char *text)
{
	size_t n = strlen(text), cut = n;

	if (n > SHOWN_BYTES) {
		cut = SHOWN_BYTES;
		while (cut && ((unsigned char)text[cut] & 0xc0) == 0x80)
			cut--;
	}
	_cleanup_free_ char *escaped = str_escape(text, cut, false);
	return str_printf("\"%s%s\"", escaped, cut < n ? "..." : "");
}

/* Syntax errors. ---------------------------------------------------------------------------------
 */

static void position_of(const char *text, size_t offset, unsigned *ret_line, unsigned *ret_column)
{
	unsigned line = 1, column = 1;

	for (size_t i = 0; i < offset; i++) {
		if (text[i] == '\n') {
			line++;
			column = 1;
		} else if (((unsigned char)text[i] & 0xc0) != 0x80) {
			column++;
		}
	}
	*ret_line = line;
	*ret_column = column;
}

/* Does the white space that begins this line (from 1) have a tab in it? */
static bool line_begins_with_tab(const struct reader *r, size_t line)
{
	const char *s = r->text, *end = r->text + r->size;

	while (--line && s) {
		s = memchr(s, '\n', (size_t)(end - s));
		s = s ? s + 1 : NULL;
	}
	for (; s && s < end && (*s == ' ' || *s == '\t'); s++)
		if (*s == '\t')
			return true;
	return false;
}

static const char *syntax_hint(const char *problem)
{
	static const struct {
		const char *problem, *hint;
	} hints[] = {
		{"mapping values are not allowed",
			"a text with \": \" in it must be in quotes, and a key must stand in the "
			"column of its neighbours"},
		{"did not find expected key", "check the indentation of this line"},
		{"could not find expected ':'", "a key needs a \":\" and a space behind it"},
		{"did not find expected '-'", "check the indentation of this line"},
		{"expected ',' or ']'", "a list in brackets needs \",\" between and \"]\" behind "
					"its items"},
		{"expected ',' or '}'", "a mapping in braces needs \",\" between and \"}\" behind "
					"its keys"},
		{"unexpected end of stream", "a quote is not closed"},
		{"cannot start any token", "a text that begins with this character must be in "
					   "quotes"},
		{"alphabetic or numeric", "a text that begins with \"*\" or \"&\" must be in "
					  "quotes"},
		{"unknown escape", "in double quotes write \\\\ for a backslash, or use single "
				   "quotes"},
		{"block sequence entries are not allowed", "a list begins on a line of its own"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(hints); i++)
		if (strstr(problem, hints[i].problem))
			return hints[i].hint;
	return NULL;
}

static void syntax_problem(struct reader *r)
{
	const yaml_parser_t *p = &r->parser;
	const char *problem = p->problem ? p->problem : "not well-formed";
	unsigned line = (unsigned)p->problem_mark.line + 1;
	unsigned column = (unsigned)p->problem_mark.column + 1;

	if (p->error == YAML_MEMORY_ERROR)
		abort(); /* as xmalloc does */
	if (p->error == YAML_READER_ERROR)
		position_of(r->text, MIN(p->problem_offset, r->size), &line, &column);
	if (line_begins_with_tab(r, line)) {
		yaml_problem_add(
			r->problems, line, column, "a tab cannot indent in YAML; use spaces");
		return;
	}
	const char *hint = syntax_hint(problem);
	_cleanup_free_ char *began = NULL;
	if (p->context && p->context_mark.line + 1 < line)
		began = str_printf(
			" (%s that began at line %zu)", p->context, p->context_mark.line + 1);
	yaml_problem_add(r->problems, line, column, "%s%s%s%s", problem, began ? began : "",
		hint ? "; " : "", hint ? hint : "");
}

/* The tree. --------------------------------------------------------------------------------------
 */

void yaml_node_free(struct yaml_node *node)
{
	if (!node)
		return;
	for (size_t i = 0; i < node->n; i++)
		yaml_node_free(node->children[i]);
	free(node->children);
	free(node->text);
	free(node);
}

bool yaml_node_is_null(const struct yaml_node *node)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};

	if (node->kind != YAML_NODE_TEXT || !node->plain)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(nulls); i++)
		if (str_eq(node->text, nulls[i]))
			return true;
	return false;
}

static struct yaml_node *node_new(enum yaml_kind kind, const yaml_mark_t *mark)
{
	struct yaml_node *node = xcalloc(1, sizeof(*node));

	node->kind = kind;
	node->line = (unsigned)mark->line + 1;
	node->column = (unsigned)mark->column + 1;
	return node;
}

static void node_append(struct yaml_node *node, struct yaml_node *child)
{
	/* Room doubles: at 0, 4, 8, 16... children. */
	if (node->n == 0 || (node->n >= 4 && (node->n & (node->n - 1)) == 0))
		node->children = xreallocarray(
			node->children, node->n ? node->n * 2 : 4, sizeof(*node->children));
	node->children[node->n++] = child;
}

static int next_event(struct reader *r, yaml_event_t *event)
{
	if (yaml_parser_parse(&r->parser, event))
		return 0;
	syntax_problem(r);
	return -1;
}

static void refuse_anchor_and_tag(struct reader *r, const yaml_event_t *event,
	const yaml_char_t *anchor, const yaml_char_t *tag)
{
	unsigned line = (unsigned)event->start_mark.line + 1;
	unsigned column = (unsigned)event->start_mark.column + 1;

	if (anchor) {
		_cleanup_free_ char *shown = yaml_shown((const char *)anchor);
		yaml_problem_add(r->problems, line, column,
			"anchors (&) are not allowed, here %s; write the value out", shown);
	}
	if (tag) {
		_cleanup_free_ char *shown = yaml_shown((const char *)tag);
		yaml_problem_add(r->problems, line, column,
			"tags (!) are not allowed, here %s; a text with \"!\" goes in quotes",
			shown);
	}
}

static struct yaml_node *text_node(struct reader *r, const yaml_event_t *event)
{
	struct yaml_node *node = node_new(YAML_NODE_TEXT, &event->start_mark);
	const char *value = (const char *)event->data.scalar.value;
	size_t length = event->data.scalar.length;

	refuse_anchor_and_tag(r, event, event->data.scalar.anchor, event->data.scalar.tag);
	if (!utf8_valid(value, length)) {
		yaml_problem_add(
			r->problems, node->line, node->column, "a text must not have \\0 in it");
		node->kind = YAML_NODE_BAD;
		return node;
	}
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	node->text = xstrndup(value, length);
	return node;
}

static int by_text(const void *left, const void *right)
{
	const struct yaml_node *const *a = left, *const *b = right;
	int c = strcmp((*a)->text, (*b)->text);

	if (c)
		return c;
	if ((*a)->line != (*b)->line)
		return (*a)->line < (*b)->line ? -1 : 1;
	return (*a)->column < (*b)->column ? -1 : 1;
}

/* By sorting: a document may have tens of thousands of keys. */
static void find_repeated_keys(struct reader *r, struct yaml_node *map)
{
	_cleanup_free_ struct yaml_node **keys = xcalloc(map->n / 2, sizeof(struct yaml_node *));
	struct yaml_node *first = NULL;
	size_t n = 0;

	for (size_t i = 0; i < map->n; i += 2)
		if (map->children[i]->kind == YAML_NODE_TEXT)
			keys[n++] = map->children[i];
	qsort(keys, n, sizeof(struct yaml_node *), by_text);
	for (size_t i = 0; i < n; i++) {
		if (!first || !str_eq(first->text, keys[i]->text)) {
			first = keys[i];
			continue;
		}
		_cleanup_free_ char *shown = yaml_shown(keys[i]->text);
		yaml_problem_add(r->problems, keys[i]->line, keys[i]->column,
			"duplicate key %s, first at line %u", shown, first->line);
		keys[i]->repeated = true;
	}
}

static void check_key(struct reader *r, struct yaml_node *key)
{
	if (key->kind == YAML_NODE_BAD)
		return;
	if (key->kind != YAML_NODE_TEXT) {
		yaml_problem_add(r->problems, key->line, key->column, "a key must be a text");
	} else if (key->plain && str_eq(key->text, "<<")) {
		yaml_problem_add(r->problems, key->line, key->column,
			"merge keys (<<) are not allowed; write the keys out");
	} else if (!*key->text) {
		yaml_problem_add(r->problems, key->line, key->column, "a key must not be empty");
	} else {
		return;
	}
	key->kind = YAML_NODE_BAD;
}

static struct yaml_node *read_node(struct reader *r, const yaml_event_t *event, unsigned depth);

/* The children of a list or map up to its end. -1: the document ends here. */
static int read_children(
	struct reader *r, struct yaml_node *node, yaml_event_type_t end, unsigned depth)
{
	for (;;) {
		yaml_event_t event;
		if (next_event(r, &event) < 0)
			return -1;
		if (event.type == end) {
			yaml_event_delete(&event);
			return 0;
		}
		struct yaml_node *child = read_node(r, &event, depth + 1);
		yaml_event_delete(&event);
		if (!child)
			return -1;
		if (node->kind == YAML_NODE_MAP && node->n % 2 == 0)
			check_key(r, child);
		node_append(node, child);
	}
}

static struct yaml_node *read_collection(
	struct reader *r, const yaml_event_t *event, enum yaml_kind kind, unsigned depth)
{
	struct yaml_node *node = node_new(kind, &event->start_mark);

	if (depth > LIMIT_JOB_DEPTH) {
		yaml_problem_add(r->problems, node->line, node->column,
			"nested more than %u levels deep", LIMIT_JOB_DEPTH);
		goto fail;
	}
	if (kind == YAML_NODE_LIST)
		refuse_anchor_and_tag(r, event, event->data.sequence_start.anchor,
			event->data.sequence_start.tag);
	else
		refuse_anchor_and_tag(
			r, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
	if (read_children(r, node,
		    kind == YAML_NODE_LIST ? YAML_SEQUENCE_END_EVENT : YAML_MAPPING_END_EVENT,
		    depth) < 0)
		goto fail;
	if (kind == YAML_NODE_MAP)
		find_repeated_keys(r, node);
	return node;
fail:
	yaml_node_free(node);
	return NULL;
}

/* NULL: the document ends here, with a problem noted. */
static struct yaml_node *read_node(struct reader *r, const yaml_event_t *event, unsigned depth)
{
	struct yaml_node *node;

	switch (event->type) {
	case YAML_SCALAR_EVENT:
		return text_node(r, event);
	case YAML_SEQUENCE_START_EVENT:
		return read_collection(r, event, YAML_NODE_LIST, depth);
	case YAML_MAPPING_START_EVENT:
		return read_collection(r, event, YAML_NODE_MAP, depth);
	default: /* YAML_ALIAS_EVENT: nothing else can stand here */
		node = node_new(YAML_NODE_BAD, &event->start_mark);
		yaml_problem_add(r->problems, node->line, node->column,
			"aliases (*) are not allowed; write the value out, or a text that begins "
			"with \"*\" in quotes");
		return node;
	}
}

/* Refuse what begins a document other than its content. */
static void check_document_start(struct reader *r, const yaml_event_t *event)
{
	if (event->data.document_start.version_directive ||
		event->data.document_start.tag_directives.start !=
			event->data.document_start.tag_directives.end)
		yaml_problem_add(r->problems, (unsigned)event->start_mark.line + 1,
			(unsigned)event->start_mark.column + 1,
			"directives (%%YAML, %%TAG) are not allowed");
}

static struct yaml_node *read_document(struct reader *r)
{
	struct yaml_node *root = NULL;
	unsigned documents = 0;

	for (;;) {
		yaml_event_t event;
		yaml_event_type_t type;
		if (next_event(r, &event) < 0)
			goto fail;
		type = event.type;
		if (type == YAML_DOCUMENT_START_EVENT && ++documents == 2)
			yaml_problem_add(r->problems, (unsigned)event.start_mark.line + 1,
				(unsigned)event.start_mark.column + 1,
				"a second document begins here; only one is allowed");
		else if (type == YAML_DOCUMENT_START_EVENT)
			check_document_start(r, &event);
		else if (type != YAML_STREAM_START_EVENT && type != YAML_STREAM_END_EVENT &&
			 type != YAML_DOCUMENT_END_EVENT && !(root = read_node(r, &event, 1)))
			type = YAML_NO_EVENT;
		yaml_event_delete(&event);
		if (type == YAML_NO_EVENT)
			return NULL;
		if (type == YAML_STREAM_END_EVENT || documents == 2)
			return root;
	}
fail:
	yaml_node_free(root);
	return NULL;
}

/* libyaml checks the encoding too, but says it less well. */
static int check_utf8(const char *text, size_t size, struct yaml_problems *problems)
{
	size_t i = 0, len;

	if (utf8_valid(text, size))
		return 0;
	while (i < size) {
		for (len = 1; len <= 4 && i + len <= size && !utf8_valid(text + i, len); len++)
			;
		if (len > 4 || i + len > size)
			break;
		i += len;
	}
	unsigned line, column;
	position_of(text, i, &line, &column);
	yaml_problem_add(problems, line, column,
		text[i] ? "byte 0x%02x is no valid UTF-8; save the file as UTF-8"
			: "byte 0x%02x is not allowed in a text file",
		(unsigned char)text[i]);
	return -1;
}

struct yaml_node *yaml_doc_read(const char *text, size_t size, struct yaml_problems *problems)
{
	/* Editors of Windows put a byte order mark first; told the encoding, libyaml does not pass
	 * over it. */
	size_t mark = size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
	struct reader r = {.text = text + mark, .size = size - mark, .problems = problems};

	if (size > LIMIT_JOB_FILE) {
		yaml_problem_add(problems, 1, 1, "larger than %llu bytes, the most for a file",
			(unsigned long long)LIMIT_JOB_FILE);
		return NULL;
	}
	if (check_utf8(text, size, problems) < 0)
		return NULL;
	if (!yaml_parser_initialize(&r.parser))
		abort();
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)r.text, r.size);
	struct yaml_node *root = read_document(&r);
	yaml_parser_delete(&r.parser);
	return root;
}
