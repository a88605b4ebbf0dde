#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/yaml_table.h"

enum colour { COLOUR_RED, COLOUR_GREEN };

struct box {
	char *path;
	uint64_t size;
};

struct thing {
	char *name;
	bool on, has_on;
	uint32_t count;
	uint64_t large;
	uint64_t size, wait;
	bool has_size;
	enum colour colour;
	char **words;
	size_t n_words;
	struct box *box;
	struct box **boxes;
	size_t n_boxes;
	struct yaml_pair **env;
	size_t n_env;
	char *this, *that;
};

static const struct yaml_key box_keys[] = {
	{"path", YT_STRING, YAML_AT(struct box, path), .required = true, .min = 1, .max = 20},
	{"size", YT_SIZE, YAML_AT(struct box, size), .min = MIB, .max = GIB},
};
static const struct yaml_table box_table = {
	"box", sizeof(struct box), YAML_KEYS(box_keys), .scalar = "path"};

static char *lower_case(const char *text)
{
	for (const char *s = text; *s; s++)
		if (*s >= 'A' && *s <= 'Z')
			return str_printf("must be in lower case");
	return NULL;
}

static const char *const colours[] = {"red", "green", NULL};
static const struct yaml_key thing_keys[] = {
	{"name", YT_STRING, YAML_AT(struct thing, name), .required = true, .check = lower_case},
	{"on", YT_BOOL, YAML_AT(struct thing, on), YAML_HAS(struct thing, has_on)},
	{"count", YT_UINT, YAML_AT(struct thing, count), .min = 1, .max = 10},
	{"large", YT_UINT, YAML_AT(struct thing, large)},
	{"size", YT_SIZE, YAML_AT(struct thing, size), YAML_HAS(struct thing, has_size),
		.min = 64 * MIB, .max = GIB},
	{"wait", YT_DURATION, YAML_AT(struct thing, wait), .min = 1000, .max = 3600 * 1000},
	{"colour", YT_ENUM, YAML_AT(struct thing, colour), .names = colours},
	{"words", YT_STRINGS, YAML_AT(struct thing, words), YAML_COUNT(struct thing, n_words),
		.as_written = true, .min = 1, .max = 3, .hint = "such as [a, b]"},
	{"box", YT_TABLE, YAML_AT(struct thing, box), .table = &box_table},
	{"boxes", YT_TABLES, YAML_AT(struct thing, boxes), YAML_COUNT(struct thing, n_boxes),
		.table = &box_table, .unique = "path"},
	{"env", YT_MAP, YAML_AT(struct thing, env), YAML_COUNT(struct thing, n_env), .max = 4,
		.table = &yaml_pair_table},
	{"this", YT_STRING, YAML_AT(struct thing, this)},
	{"that", YT_STRING, YAML_AT(struct thing, that)},
};
static const char *const this_or_that[] = {"this", "that", NULL};
static const struct yaml_table thing_table = {
	"thing", sizeof(struct thing), YAML_KEYS(thing_keys), .one_of = this_or_that};

static void every_type_is_read(void **state)
{
	static const char text[] = "# a comment\n"
				   "name: 'a thing'\n"
				   "on: true\n"
				   "count: 10\n"
				   "large: 18446744073709551615\n"
				   "size: 512M\n"
				   "wait: \"1m30s\"\n"
				   "colour: green\n"
				   "words: [sleep, 10, yes]\n"
				   "box: {path: /a, size: 1M}\n"
				   "boxes:\n"
				   "  - plain\n"
				   "  - path: mapped\n"
				   "    size: 2M\n"
				   "env:\n"
				   "  PORT: 8080\n"
				   "  NO: no\n"
				   "  EMPTY: ''\n"
				   "this: |\n"
				   "  two\n"
				   "  lines\n";
	struct thing t = {0};
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	if (yaml_table_read(&thing_table, &t, text, strlen(text), "t", &err) < 0)
		fail_msg("%s", err->text);
	assert_string_equal(t.name, "a thing");
	assert_true(t.on && t.has_on && t.has_size);
	assert_int_equal(t.count, 10);
	assert_true(t.large == UINT64_MAX);
	assert_int_equal(t.size, 512 * MIB);
	assert_int_equal(t.wait, 90000);
	assert_int_equal(t.colour, COLOUR_GREEN);
	assert_int_equal(t.n_words, 3);
	assert_string_equal(t.words[1], "10");
	assert_string_equal(t.words[2], "yes");
	assert_string_equal(t.box->path, "/a");
	assert_int_equal(t.box->size, MIB);
	assert_int_equal(t.n_boxes, 2);
	assert_string_equal(t.boxes[0]->path, "plain");
	assert_int_equal(t.boxes[1]->size, 2 * MIB);
	assert_int_equal(t.n_env, 3);
	assert_string_equal(t.env[0]->name, "PORT");
	assert_string_equal(t.env[0]->value, "8080");
	assert_string_equal(t.env[1]->name, "NO");
	assert_string_equal(t.env[1]->value, "no");
	assert_string_equal(t.env[2]->value, "");
	assert_string_equal(t.this, "two\nlines\n");
	yaml_table_clear(&thing_table, &t);
	assert_null(t.name);
	assert_null(t.boxes);
	assert_int_equal(t.n_boxes, 0);
}

static void expect(const char *text, size_t size, const char *want)
{
	struct thing t = {0};
	_cleanup_error_ struct error *err = NULL;
	int r = yaml_table_read(&thing_table, &t, text, size, "t", &err);

	yaml_table_clear(&thing_table, &t);
	if (!want) {
		if (r < 0)
			fail_msg("%s\n-> %s", text, err->text);
		return;
	}
	if (r == 0)
		fail_msg("%s\n-> was taken", text);
	assert_int_equal(err->code, ERR_INVALID);
	assert_string_equal(err->text, want);
}

static void mistakes_are_told_with_their_place(void **state)
{
	static const struct {
		const char *line, *want;
	} cases[] = {
		{"on: yes", "t:2:5: on: must be true or false, not \"yes\""},
		{"on: 'true'", "t:2:5: on: must be true without quotes"},
		{"on:", "t:2:4: on: has no value; give one or leave the key out"},
		{"on: [true]", "t:2:5: on: must be true or false"},
		{"count: 0", "t:2:8: count: 0 is too little, the least is 1"},
		{"count: 11", "t:2:8: count: 11 is too much, the most is 10"},
		{"count: -1", "t:2:8: count: must be a whole number in decimal digits, not \"-1\""},
		{"count: 010",
			"t:2:8: count: must be a whole number in decimal digits, not \"010\""},
		{"count: 0x10",
			"t:2:8: count: must be a whole number in decimal digits, not \"0x10\""},
		{"count: 1.5",
			"t:2:8: count: must be a whole number in decimal digits, not \"1.5\""},
		{"count: '1'", "t:2:8: count: must be a number without quotes"},
		{"count: 4294967297", "t:2:8: count: \"4294967297\" is too large a number"},
		{"large: 18446744073709551616",
			"t:2:8: large: \"18446744073709551616\" is too large a number"},
		{"size: 512", "t:2:7: size: 512 (bytes) is too little, the least is 64M; did you "
			      "mean 512M?"},
		{"size: 1M", "t:2:7: size: 1M is too little, the least is 64M"},
		{"size: 2G", "t:2:7: size: 2G is too much, the most is 1G"},
		{"size: 512mb", "t:2:7: size: \"512mb\" is not a size; write 512M"},
		{"size: 1.5G", "t:2:7: size: \"1.5G\" is not a size; write it like 512M or 1G: a "
			       "whole number and K, M, G or T"},
		{"size: 99999999999999999T",
			"t:2:7: size: \"99999999999999999T\" is too large a size"},
		{"size: ~", "t:2:7: size: has no value; give one or leave the key out"},
		{"wait: 10", "t:2:7: wait: 10 has no unit; write 10s"},
		{"wait: 10 min", "t:2:7: wait: \"10 min\" is not a duration; write it like 90s, "
				 "10m or 1h30m"},
		{"wait: 1:30", "t:2:7: wait: \"1:30\" is not a duration; write it like 90s, 10m or "
			       "1h30m"},
		{"wait: 2h", "t:2:7: wait: 2h is too much, the most is 1h"},
		{"wait: 99999999999999999999s",
			"t:2:7: wait: \"99999999999999999999s\" is too large a duration"},
		{"colour: blue", "t:2:9: colour: must be red or green, not \"blue\""},
		{"words: a b", "t:2:8: words: must be a list, such as [a, b]"},
		{"words: []", "t:2:8: words: must not be empty"},
		{"words: [a, b, c, d]", "t:2:8: words: has 4 entries, the most is 3"},
		{"words: [a, [b]]", "t:2:12: words[1]: must be a text"},
		{"words: [a, ~]", "t:2:12: words[1]: ~ means \"no value\" in YAML; put it in "
				  "quotes if the text is meant"},
		{"words:\n  - a\n  -", "t:4:4: words[1]: has no value; \"\" is the empty text"},
		{"box: [a]", "t:2:6: box: must be a mapping of keys"},
		{"box: {size: 1M}", "t:2:6: box: the key \"path\" is missing"},
		{"box: {path: ''}", "t:2:13: box.path: must not be empty"},
		{"box: {path: 123456789a123456789b1}",
			"t:2:13: box.path: is 21 bytes long, the most is 20"},
		{"boxes: {path: a}", "t:2:8: boxes: must be a list"},
		{"boxes: [a, {path: b, size: 1K}]", "t:2:28: boxes[1].size: 1K is too little, the "
						    "least is 1M"},
		{"boxes: [a, b, a]", "t:2:15: boxes[2]: the path \"a\" is there already, at line "
				     "2"},
		{"boxes: [[a]]", "t:2:9: boxes[0]: must be a text or a mapping with the keys of a "
				 "box: path, size"},
		{"env: [A=b]", "t:2:6: env: must be a mapping of names to texts"},
		{"env: {A: [b]}", "t:2:10: env[\"A\"]: must be a text"},
		{"env: {A: }", "t:2:10: env[\"A\"]: has no value; \"\" is the empty text"},
		{"that: b", "t:3:1: \"this\" and \"that\" exclude each other; keep one of them"},
		{"nmae: b", "t:2:1: unknown key \"nmae\"; did you mean \"name\"?"},
		{"environment: {}", "t:2:1: unknown key \"environment\"; did you mean \"env\"?"},
		{"frobnicate: 1", "t:2:1: unknown key \"frobnicate\"; the keys of a thing are: "
				  "name, on, count, large, size, wait, colour, words, box, boxes, "
				  "env, this, that"},
		{"name: b", "t:2:1: duplicate key \"name\", first at line 1"},
		{"count: 3\ncount: 0", "t:3:1: duplicate key \"count\", first at line 2"},
		{"\"\\e[2J\": 1", "t:2:1: unknown key \"\\x1b[2J\"; the keys of a thing are: "
				  "name, on, count, large, size, wait, colour, words, box, boxes, "
				  "env, this, that"},
		{"box: *b", "t:2:6: aliases (*) are not allowed; write the value out, or a text "
			    "that begins with \"*\" in quotes"},
		{"box: &b {path: a}", "t:2:6: anchors (&) are not allowed, here \"b\"; write the "
				      "value out"},
		{"count: !!int 3", "t:2:8: tags (!) are not allowed, here "
				   "\"tag:yaml.org,2002:int\"; a text with \"!\" goes in quotes"},
		{"<<: {count: 3}", "t:2:1: merge keys (<<) are not allowed; write the keys out"},
		{"? [a]\n: b", "t:2:3: a key must be a text"},
		{"'': b", "t:2:1: a key must not be empty"},
		{"box: {path: \"a\\0b\"}", "t:2:13: a text must not have \\0 in it"},
		{"---\nname: b", "t:1:1: the key \"this\" or \"that\" is missing\n"
				 "t:2:1: a second document begins here; only one is allowed"},
		{"box:\n\tpath: a", "t:3:1: a tab cannot indent in YAML; use spaces"},
		{"words: [a, b", "t:3:5: did not find expected ',' or ']' (while parsing a flow "
				 "sequence that began at line 2); a list in brackets needs \",\" "
				 "between and \"]\" behind its items"},
		{"that: a: b", "t:2:8: mapping values are not allowed in this context; a text with "
			       "\": \" in it must be in quotes, and a key must stand in the column "
			       "of its neighbours"},
		{"that: @x", "t:2:7: found character that cannot start any token; a text that "
			     "begins with this character must be in quotes"},
		{"that: gr\xc3\xbc\xc3\x9f \xff", "t:2:12: byte 0xff is no valid UTF-8; save the "
						  "file as UTF-8"},
		{"that: \xed\xa0\x80", "t:2:7: byte 0xed is no valid UTF-8; save the file as "
				       "UTF-8"},
		{"that: a\x01", "t:2:8: control characters are not allowed"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *whole = str_printf("name: a\n%s\nthis: c\n", cases[i].line);
		expect(whole, strlen(whole), cases[i].want);
	}
}

static void all_mistakes_are_told_in_the_order_of_the_document(void **state)
{
	static const char text[] = "colour: blue\n"
				   "boxes: [{size: 1M}]\n"
				   "count: 0\n"
				   "nam: x\n"
				   "box: *b\n"
				   "this: 1\n";

	(void)state;
	/* The alias was seen before the colour, the missing name after all. */
	expect(text, strlen(text),
		"t:1:1: the key \"name\" is missing\n"
		"t:1:9: colour: must be red or green, not \"blue\"\n"
		"t:2:9: boxes[0]: the key \"path\" is missing\n"
		"t:3:8: count: 0 is too little, the least is 1\n"
		"t:4:1: unknown key \"nam\"; did you mean \"name\"?\n"
		"t:5:6: aliases (*) are not allowed; write the value out, or a text that begins "
		"with \"*\" in quotes\n"
		"t:6:7: this: must be a text, and 1 is a number in YAML; write \"1\" in quotes");
}

static void more_mistakes_than_anybody_reads_are_counted(void **state)
{
	char text[4096] = "name: a\nthis: b\n";
	struct thing t = {0};
	_cleanup_error_ struct error *err = NULL;
	size_t lines = 1;

	(void)state;
	for (int i = 0; i < 150; i++)
		sprintf(text + strlen(text), "key%d: x\n", i);
	assert_int_equal(yaml_table_read(&thing_table, &t, text, strlen(text), "t", &err), -1);
	for (const char *s = err->text; (s = strchr(s, '\n')); s++)
		lines++;
	assert_int_equal(lines, 101);
	assert_string_equal(strrchr(err->text, '\n') + 1, "t: and 50 more mistakes");
	yaml_table_clear(&thing_table, &t);
}

static void size_and_depth_are_capped(void **state)
{
	_cleanup_free_ char *text = xmalloc(LIMIT_JOB_FILE + 2);
	char deep[200] = "name: a\nthis: b\nwords: ";

	(void)state;
	memset(text, '#', LIMIT_JOB_FILE + 1);
	memcpy(text, "name: a\nthis: b\n", 16);
	expect(text, LIMIT_JOB_FILE, NULL);
	expect(text, LIMIT_JOB_FILE + 1, "t:1:1: larger than 65536 bytes, the most for a file");
	/* The root is the first level. */
	for (int i = 0; i < LIMIT_JOB_DEPTH; i++)
		strcat(deep, "[");
	expect(deep, strlen(deep), "t:3:23: nested more than 16 levels deep");
}

static void empty_is_well_where_nothing_is_required(void **state)
{
	static const struct yaml_key keys[] = {{"size", YT_SIZE, YAML_AT(struct box, size)}};
	static const struct yaml_table table = {"box", sizeof(struct box), YAML_KEYS(keys)};
	static const char *const empty[] = {"", "\n", "# nothing\n", "---\n", "{}", "\xef\xbb\xbf"};
	struct box box = {.size = 7};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(empty); i++)
		assert_int_equal(
			yaml_table_read(&table, &box, empty[i], strlen(empty[i]), "t", NULL), 0);
	assert_int_equal(box.size, 7);
}

static void the_name_of_the_file_is_escaped_too(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	struct thing t = {0};

	(void)state;
	yaml_table_read(&thing_table, &t, "]", 1, "\033[2J", &err);
	assert_true(str_starts(err->text, "\\x1b[2J:1:1: did not find expected node content"));
}

static void single_values_come_and_go_as_text(void **state)
{
	static const struct {
		const char *key, *text, *back, *problem;
	} cases[] = {
		{"name", "no", "no", NULL}, /* not YAML: a text is a text */
		{"name", "12", "12", NULL},
		{"name", "Upper", NULL, "must be in lower case"},
		{"name", "\xff", NULL, "is no valid UTF-8"},
		{"on", "true", "true", NULL},
		{"on", "1", NULL, "must be true or false, not \"1\""},
		{"count", "10", "10", NULL},
		{"count", "", NULL, "must be a whole number in decimal digits, not \"\""},
		{"size", "1024M", "1G", NULL},
		{"size", "1025M", NULL, "1025M is too much, the most is 1G"},
		{"size", "65537K", "65537K", NULL},
		{"wait", "90s", "90s", NULL},
		{"wait", "120s", "2m", NULL},
		{"wait", "1500ms", "1500ms", NULL},
		{"colour", "green", "green", NULL},
		{"words", "a", NULL, "cannot be set by a single value"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct yaml_key *key = yaml_table_find(&thing_table, cases[i].key);
		struct thing t = {0};
		_cleanup_error_ struct error *err = NULL;
		int r = yaml_key_set(key, &t, cases[i].text, &err);
		if (cases[i].problem) {
			assert_int_equal(r, -1);
			assert_string_equal(err->text, cases[i].problem);
		} else {
			assert_int_equal(r, 0);
			_cleanup_free_ char *back = yaml_key_format(key, &t);
			assert_string_equal(back, cases[i].back);
		}
		yaml_table_clear(&thing_table, &t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_is_read),
		cmocka_unit_test(mistakes_are_told_with_their_place),
		cmocka_unit_test(all_mistakes_are_told_in_the_order_of_the_document),
		cmocka_unit_test(more_mistakes_than_anybody_reads_are_counted),
		cmocka_unit_test(size_and_depth_are_capped),
		cmocka_unit_test(empty_is_well_where_nothing_is_required),
		cmocka_unit_test(the_name_of_the_file_is_escaped_too),
		cmocka_unit_test(single_values_come_and_go_as_text),
	};
	return cmocka_run_group_tests_name("yaml_table", tests, NULL, NULL);
}
