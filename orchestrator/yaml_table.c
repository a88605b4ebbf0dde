/* A document's tree into structs. Every mistake is noted with its position and the rest is read on,
 * so that one run tells all of them; what a mistake made unreadable is passed over in silence. */
#include "orchestrator/yaml_table.h"

#include <string.h>

#include "common/util.h"
#include "orchestrator/yaml_doc.h"
#include "orchestrator/yaml_value.h"

struct decoder {
	struct yaml_problems problems;
	const char *name;
};

static const struct yaml_key pair_keys[] = {
	{"name", YT_STRING, YAML_AT(struct yaml_pair, name)},
	{"value", YT_STRING, YAML_AT(struct yaml_pair, value), .as_written = true},
};
const struct yaml_table yaml_pair_table = {"pair", sizeof(struct yaml_pair), YAML_KEYS(pair_keys)};

const struct yaml_key *yaml_table_find(const struct yaml_table *table, const char *name)
{
	for (size_t i = 0; i < table->n_keys; i++)
		if (str_eq(table->keys[i].name, name))
			return &table->keys[i];
	return NULL;
}

/* Places. By memcpy: the struct's member is some other pointer type than void *. -----------------
 */

static void *load_pointer(const void *target, size_t offset)
{
	void *p;

	memcpy(&p, (const char *)target + offset, sizeof(p));
	return p;
}

static void store_pointer(void *target, size_t offset, void *p)
{
	memcpy((char *)target + offset, &p, sizeof(p));
}

static size_t *count_of(const struct yaml_key *key, void *target)
{
	return (size_t *)(void *)((char *)target + key->count);
}

static void *struct_new(const struct yaml_table *table)
{
	return table->initial ? xmemdup(table->initial, table->size) : xcalloc(1, table->size);
}

static void clear_key(const struct yaml_key *key, void *target)
{
	if (yaml_type_is_scalar(key->type) && key->type != YT_STRING)
		return;
	char *value = load_pointer(target, key->offset);
	store_pointer(target, key->offset, NULL);
	if (!value)
		return;
	if (key->type == YT_TABLE)
		yaml_table_clear(key->table, value);
	if (key->type == YT_STRINGS || key->type == YT_TABLES || key->type == YT_NAMED ||
		key->type == YT_MAP) {
		for (size_t i = 0; i < *count_of(key, target); i++) {
			void *item = load_pointer(value, i * sizeof(void *));
			if (key->type == YT_NAMED)
				free(load_pointer(item, 0));
			if (key->type != YT_STRINGS)
				yaml_table_clear(key->table, item);
			free(item);
		}
		*count_of(key, target) = 0;
	}
	free(value);
}

void yaml_table_clear(const struct yaml_table *table, void *target)
{
	for (size_t i = 0; i < table->n_keys; i++)
		clear_key(&table->keys[i], target);
}

/* Names. -----------------------------------------------------------------------------------------
 */

static const char *nearest_key(const struct yaml_table *table, const char *name)
{
	const char *names[64];
	size_t n = 0;

	for (size_t i = 0; i < table->n_keys && n < ARRAY_SIZE(names); i++)
		names[n++] = table->keys[i].name;
	return str_nearest(name, names, n);
}

static char *known_keys(const struct yaml_table *table)
{
	char *list = xstrdup("");

	for (size_t i = 0; i < table->n_keys; i++) {
		char *longer = str_printf("%s%s%s", list, i ? ", " : "", table->keys[i].name);
		free(list);
		list = longer;
	}
	return list;
}

static const char *article(const char *noun)
{
	return strchr("aeiou", *noun) ? "an" : "a";
}

/* "resources.memory"; the document itself has no name. */
static char *below(const char *where, const char *name)
{
	return *where ? str_printf("%s.%s", where, name) : xstrdup(name);
}

/* Values. ----------------------------------------------------------------------------------------
 */

#define problem_at(d, node, ...)                                                                   \
	yaml_problem_add(&(d)->problems, (node)->line, (node)->column, __VA_ARGS__)

static void decode_table(struct decoder *d, const struct yaml_table *table,
	const struct yaml_node *node, void *target, const char *where);

static void wrong_type(struct decoder *d, const struct yaml_key *key, const struct yaml_node *node,
	const char *where, const char *type)
{
	if (yaml_node_is_null(node))
		problem_at(d, node, "%s: has no value; give one or leave the key out", where);
	else
		problem_at(d, node, "%s: must be %s%s%s", where, type, key->hint ? ", " : "",
			key->hint ? key->hint : "");
}

static enum yaml_style style_of(const struct yaml_node *node)
{
	return node->plain ? YAML_STYLE_PLAIN : YAML_STYLE_QUOTED;
}

/* A text of a list or map: owned by the caller, or NULL with a problem noted. */
static char *decode_text(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, const char *where)
{
	if (node->kind == YAML_NODE_BAD)
		return NULL;
	if (node->kind != YAML_NODE_TEXT) {
		problem_at(d, node, "%s: must be a text", where);
		return NULL;
	}
	_cleanup_free_ char *problem = yaml_text_problem(key, node->text, style_of(node));
	if (problem) {
		problem_at(d, node, "%s: %s", where, problem);
		return NULL;
	}
	return xstrdup(node->text);
}

static bool count_in_range(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, const char *where, size_t n)
{
	if (n < key->min)
		problem_at(d, node, "%s: must not be empty", where);
	else if (key->max && n > key->max)
		problem_at(d, node, "%s: has %zu entries, the most is %llu", where, n,
			(unsigned long long)key->max);
	else
		return true;
	return false;
}

/* Room for the list's items, stored in the target as an empty list; NULL: it is none, or not of the
 * length it may have. */
static void *begin_list(struct decoder *d, const struct yaml_key *key, const struct yaml_node *node,
	void *target, const char *where)
{
	if (node->kind != YAML_NODE_LIST) {
		wrong_type(d, key, node, where, "a list");
		return NULL;
	}
	if (!count_in_range(d, key, node, where, node->n))
		return NULL;
	clear_key(key, target);
	void *list = xcalloc(node->n, sizeof(void *));
	store_pointer(target, key->offset, list);
	return list;
}

/* The texts of the list's strings obey the key's check, but its min and max count entries. */
static void decode_strings(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *target, const char *where)
{
	const struct yaml_key item = {
		.type = YT_STRING, .as_written = key->as_written, .check = key->check};
	size_t *n = count_of(key, target);
	char **list = begin_list(d, key, node, target, where);

	for (size_t i = 0; list && i < node->n; i++) {
		_cleanup_free_ char *item_where = str_printf("%s[%zu]", where, i);
		char *text = decode_text(d, &item, node->children[i], item_where);
		if (text)
			list[(*n)++] = text;
	}
}

static const char *unique_text(const struct yaml_key *key, const void *item)
{
	return load_pointer(item, yaml_table_find(key->table, key->unique)->offset);
}

static void check_unique(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *const *items, size_t i, const char *where)
{
	const char *text = unique_text(key, items[i]);

	for (size_t j = 0; text && j < i; j++) {
		if (!str_eq(text, unique_text(key, items[j])))
			continue;
		_cleanup_free_ char *shown = yaml_shown(text);
		problem_at(d, node->children[i], "%s: the %s %s is there already, at line %u",
			where, key->unique, shown, node->children[j]->line);
		return;
	}
}

static void decode_tables(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *target, const char *where)
{
	size_t *n = count_of(key, target);
	void **items = begin_list(d, key, node, target, where);

	for (size_t i = 0; items && i < node->n; i++) {
		_cleanup_free_ char *item_where = str_printf("%s[%zu]", where, i);
		items[(*n)++] = struct_new(key->table);
		decode_table(d, key->table, node->children[i], items[i], item_where);
		if (key->unique)
			check_unique(d, key, node, items, i, item_where);
	}
}

/* Room for what a mapping of any names has, in the place of what was there; NULL: it cannot be
 * read.
 */
static void **begin_map(struct decoder *d, const struct yaml_key *key, const struct yaml_node *node,
	void *target, const char *where, const char *wanted)
{
	if (node->kind != YAML_NODE_MAP) {
		wrong_type(d, key, node, where, wanted);
		return NULL;
	}
	if (!count_in_range(d, key, node, where, node->n / 2))
		return NULL;
	clear_key(key, target);
	void **items = xcalloc(node->n / 2, sizeof(*items));
	store_pointer(target, key->offset, items);
	return items;
}

/* How problems name the item of that name: "where[name]". */
static char *item_of(const char *where, const struct yaml_node *name)
{
	_cleanup_free_ char *shown = yaml_shown(name->text);

	return str_printf("%s[%s]", where, shown);
}

/* Is the item's name as name_key wants it? If not, that is a problem. */
static bool check_name(struct decoder *d, const struct yaml_key *name_key,
	const struct yaml_node *name, const char *where)
{
	_cleanup_free_ char *problem = yaml_text_problem(name_key, name->text, YAML_STYLE_QUOTED);
	_cleanup_free_ char *item = problem ? item_of(where, name) : NULL;

	if (problem)
		problem_at(d, name, "%s: the name %s", item, problem);
	return !problem;
}

static void decode_map(struct decoder *d, const struct yaml_key *key, const struct yaml_node *node,
	void *target, const char *where)
{
	const struct yaml_key *name_key = &key->table->keys[0], *text_key = &key->table->keys[1];
	size_t *n = count_of(key, target);
	void **items = begin_map(d, key, node, target, where, "a mapping of names to texts");

	if (!items)
		return;
	for (size_t i = 0; i < node->n; i += 2) {
		const struct yaml_node *name = node->children[i];
		if (name->kind == YAML_NODE_BAD || name->repeated)
			continue;
		_cleanup_free_ char *item_where = item_of(where, name);
		check_name(d, name_key, name, where);
		char *text = decode_text(d, text_key, node->children[i + 1], item_where);
		if (!text)
			continue;
		void *item = struct_new(key->table);
		store_pointer(item, name_key->offset, xstrdup(name->text));
		store_pointer(item, text_key->offset, text);
		items[(*n)++] = item;
	}
}

static void decode_named(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *target, const char *where)
{
	const struct yaml_key name_key = {.type = YT_STRING, .check = key->check};
	size_t *n = count_of(key, target);
	void **items = begin_map(d, key, node, target, where, "a mapping of names to mappings");

	if (!items)
		return;
	for (size_t i = 0; i < node->n; i += 2) {
		const struct yaml_node *name = node->children[i];
		if (name->kind == YAML_NODE_BAD || name->repeated)
			continue;
		_cleanup_free_ char *item_where = check_name(d, &name_key, name, where)
							  ? below(where, name->text)
							  : item_of(where, name);
		void *item = struct_new(key->table);
		store_pointer(item, 0, xstrdup(name->text));
		items[(*n)++] = item;
		decode_table(d, key->table, node->children[i + 1], item, item_where);
	}
}

static void decode_nested(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *target, const char *where)
{
	if (node->kind != YAML_NODE_MAP) {
		wrong_type(d, key, node, where, "a mapping of keys");
		return;
	}
	clear_key(key, target);
	void *nested = struct_new(key->table);
	store_pointer(target, key->offset, nested);
	decode_table(d, key->table, node, nested, where);
}

static void decode_scalar(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *target, const char *where)
{
	static const char *const types[] = {
		[YT_STRING] = "a text",
		[YT_BOOL] = "true or false",
		[YT_UINT] = "a number",
		[YT_INT] = "a number",
		[YT_SIZE] = "a size such as 512M",
		[YT_DURATION] = "a duration such as 90s",
		[YT_ENUM] = "a word",
	};

	if (node->kind != YAML_NODE_TEXT) {
		wrong_type(d, key, node, where, types[key->type]);
		return;
	}
	_cleanup_free_ char *problem = yaml_value_set(key, target, node->text, style_of(node));
	if (problem)
		problem_at(d, node, "%s: %s", where, problem);
}

static void decode_value(struct decoder *d, const struct yaml_key *key,
	const struct yaml_node *node, void *target, const char *where)
{
	if (node->kind == YAML_NODE_BAD)
		return;
	switch (key->type) {
	case YT_STRINGS:
		decode_strings(d, key, node, target, where);
		break;
	case YT_TABLES:
		decode_tables(d, key, node, target, where);
		break;
	case YT_TABLE:
		decode_nested(d, key, node, target, where);
		break;
	case YT_NAMED:
		decode_named(d, key, node, target, where);
		break;
	case YT_MAP:
		decode_map(d, key, node, target, where);
		break;
	default:
		decode_scalar(d, key, node, target, where);
	}
}

/* Mappings. --------------------------------------------------------------------------------------
 */

static const struct yaml_node *find_key(const struct yaml_node *map, const char *name)
{
	for (size_t i = 0; i < map->n; i += 2)
		if (map->children[i]->kind == YAML_NODE_TEXT &&
			str_eq(map->children[i]->text, name))
			return map->children[i];
	return NULL;
}

static void unknown_key(
	struct decoder *d, const struct yaml_table *table, const struct yaml_node *key)
{
	_cleanup_free_ char *shown = yaml_shown(key->text);
	const char *nearest = nearest_key(table, key->text);

	if (nearest) {
		problem_at(d, key, "unknown key %s; did you mean \"%s\"?", shown, nearest);
		return;
	}
	_cleanup_free_ char *known = known_keys(table);
	problem_at(d, key, "unknown key %s; the keys of %s %s are: %s", shown, article(table->what),
		table->what, known);
}

static void check_presence(struct decoder *d, const struct yaml_table *table,
	const struct yaml_node *map, const char *where)
{
	const char *colon = *where ? ": " : "";
	const struct yaml_node *first = NULL, *key;

	for (size_t i = 0; i < table->n_keys; i++)
		if (table->keys[i].required && !find_key(map, table->keys[i].name))
			problem_at(d, map, "%s%sthe key \"%s\" is missing", where, colon,
				table->keys[i].name);
	for (size_t i = 0; table->one_of && table->one_of[i]; i++) {
		if (!(key = find_key(map, table->one_of[i])))
			continue;
		if (!first) {
			first = key;
			continue;
		}
		/* Said where the second of them stands. */
		bool swap = key->line < first->line ||
			    (key->line == first->line && key->column < first->column);
		problem_at(d, swap ? first : key,
			"%s%s\"%s\" and \"%s\" exclude each other; keep one of them", where, colon,
			first->text, key->text);
	}
	if (table->one_of && !first) {
		_cleanup_free_ char *list = xstrdup("");
		for (size_t i = 0; table->one_of[i]; i++) {
			char *longer =
				str_printf("%s%s\"%s\"", list, i ? " or " : "", table->one_of[i]);
			free(list);
			list = longer;
		}
		problem_at(d, map, "%s%sthe key %s is missing", where, colon, list);
	}
}

static void decode_map_keys(struct decoder *d, const struct yaml_table *table,
	const struct yaml_node *map, void *target, const char *where)
{
	size_t problems = d->problems.n;

	for (size_t i = 0; i < map->n; i += 2) {
		const struct yaml_node *name = map->children[i];
		if (name->kind == YAML_NODE_BAD || name->repeated)
			continue;
		const struct yaml_key *key = yaml_table_find(table, name->text);
		if (!key) {
			unknown_key(d, table, name);
			continue;
		}
		_cleanup_free_ char *key_where = below(where, key->name);
		decode_value(d, key, map->children[i + 1], target, key_where);
		if (table->on_key)
			table->on_key(target, key, d->name, name->line);
	}
	check_presence(d, table, map, where);
	_cleanup_free_ char *problem =
		table->check && d->problems.n == problems ? table->check(target) : NULL;
	if (problem)
		problem_at(d, map, "%s%s%s", where, *where ? ": " : "", problem);
}

static void decode_table(struct decoder *d, const struct yaml_table *table,
	const struct yaml_node *node, void *target, const char *where)
{
	if (node->kind == YAML_NODE_BAD)
		return;
	if (node->kind == YAML_NODE_TEXT && table->scalar && !yaml_node_is_null(node)) {
		_cleanup_free_ char *key_where = below(where, table->scalar);
		decode_value(d, yaml_table_find(table, table->scalar), node, target, key_where);
		return;
	}
	if (node->kind != YAML_NODE_MAP) {
		_cleanup_free_ char *known = known_keys(table);
		problem_at(d, node, "%s%smust be %sa mapping with the keys of %s %s: %s", where,
			*where ? ": " : "", table->scalar ? "a text or " : "", article(table->what),
			table->what, known);
		return;
	}
	decode_map_keys(d, table, node, target, where);
}

int yaml_table_read(const struct yaml_table *table, void *target, const char *text, size_t size,
	const char *name, struct error **err)
{
	struct decoder d = {.problems = {.name = name}, .name = name};
	struct yaml_node *root = yaml_doc_read(text, size, &d.problems);
	struct yaml_node nothing = {.kind = YAML_NODE_MAP, .line = 1, .column = 1};

	/* A broken document is not decoded: half of it would only look as if keys were missing. */
	if (root && !yaml_node_is_null(root))
		decode_table(&d, table, root, target, "");
	else if (root || !d.problems.n)
		check_presence(&d, table, &nothing, "");
	yaml_node_free(root);
	return yaml_problems_finish(&d.problems, err);
}
