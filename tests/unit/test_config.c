#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/config_keys.h"
#include "orchestrator/jobspec.h"
#include "orchestrator/jobspec_rules.h"

/* The tests run where the sources are. */
#define CONFIG_FILE "config/orchestrator.yaml"
#define SCHEMA_FILE "config/job.schema.json"

struct fixture {
	char dir[32];
};

static void forget_environment(void)
{
	static const char *const others[] = {"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"};

	for (size_t i = 0; i < config_table.n_keys; i++) {
		_cleanup_free_ char *name = config_variable(config_table.keys[i].name);
		unsetenv(name);
	}
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		unsetenv(others[i]);
}

static int set_up(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/test_config.XXXXXX");
	forget_environment();
	*state = f;
	return mkdtemp(f->dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static char *file_with(struct fixture *f, const char *name, const char *text)
{
	char *path = str_printf("%s/%s", f->dir, name);

	assert_int_equal(write_file(path, text, strlen(text), 0600, false, NULL), 0);
	return path;
}

static void config_freep(struct config **config)
{
	config_free(*config);
}
#define _cleanup_config_ __attribute__((cleanup(config_freep)))

static struct config *must_load(const struct config_sources *sources)
{
	_cleanup_error_ struct error *err = NULL;
	struct config *config = config_load_from(sources, &err);

	if (!config)
		fail_msg("%s", err->text);
	return config;
}

static void must_refuse(const struct config_sources *sources, const char *want)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_config_ struct config *config = config_load_from(sources, &err);

	assert_null(config);
	assert_string_equal(err->text, want);
}

static const struct config_sources user = {.uid = 1000, .home = "/home/u"};
static const struct config_sources root = {.uid = 0, .home = "/root"};

static void defaults_of_root_and_of_a_user(void **state)
{
	struct fixture *f = *state;
	_cleanup_config_ struct config *a = must_load(&root);
	_cleanup_config_ struct config *b = must_load(&user);

	assert_string_equal(a->state_dir, "/var/lib/orchestrator");
	assert_string_equal(a->runtime_dir, "/run/orchestrator");
	assert_string_equal(a->image_dir, "/var/lib/orchestrator/images");
	assert_string_equal(b->state_dir, "/home/u/.local/state/orchestrator");
	assert_string_equal(b->runtime_dir, "/home/u/.local/state/orchestrator/run");
	assert_string_equal(b->image_dir, "/home/u/.local/share/orchestrator/images");
	assert_string_equal(b->default_image, "debian");
	assert_string_equal(b->libvirt_uri, "embed");
	assert_int_equal(b->accel, ACCEL_AUTO);
	assert_int_equal(b->vsock, VSOCK_AUTO);
	assert_true(b->max_vms >= 2);
	assert_int_equal(b->boot_timeout_ms, 60000);
	assert_int_equal(b->default_timeout_ms, DEFAULT_TIMEOUT_MS);
	assert_int_equal(b->default_memory, DEFAULT_MEMORY);
	assert_int_equal(b->retain_ms, 0);

	setenv("XDG_STATE_HOME", "/xs", 1);
	setenv("XDG_DATA_HOME", "relative", 1); /* does not count */
	setenv("XDG_RUNTIME_DIR", f->dir, 1);
	_cleanup_config_ struct config *c = must_load(&user);
	_cleanup_free_ char *run = str_printf("%s/orchestrator", f->dir);
	assert_string_equal(c->state_dir, "/xs/orchestrator");
	assert_string_equal(c->image_dir, "/home/u/.local/share/orchestrator/images");
	assert_string_equal(c->runtime_dir, run);
	/* Another user's runtime directory, as after su, or none that is there. */
	setenv("XDG_RUNTIME_DIR", "/nowhere", 1);
	_cleanup_config_ struct config *d = must_load(&user);
	assert_string_equal(d->runtime_dir, "/xs/orchestrator/run");
	/* A state directory of one's own has its own sockets. */
	setenv("XDG_RUNTIME_DIR", f->dir, 1);
	setenv("ORCHESTRATOR_STATE_DIR", "/s", 1);
	_cleanup_config_ struct config *e = must_load(&user);
	_cleanup_config_ struct config *r = must_load(&root);
	assert_string_equal(e->runtime_dir, "/s/run");
	assert_string_equal(r->runtime_dir, "/s/run");
	assert_string_equal(r->image_dir, "/s/images");
}

static void sockets_fit_below_the_state_directory(void **state)
{
	char dir[] = "/23456789_123456789_123456789_123456789_1234567890x";

	(void)state;
	setenv("XDG_RUNTIME_DIR", "/tmp", 1);
	setenv("ORCHESTRATOR_RUNTIME_DIR", "/r", 1);
	setenv("ORCHESTRATOR_STATE_DIR", dir, 1);
	must_refuse(&user,
		"state_dir: /23456789_123456789_123456789_123456789_1234567890x is 51 bytes long, "
		"and the names of libvirt's sockets below it must fit into 108: the most is 50; "
		"set "
		"state_dir to a shorter path");
	/* A libvirtd has its own directories. */
	setenv("ORCHESTRATOR_LIBVIRT_URI", "qemu:///session", 1);
	config_free(must_load(&user));
	unsetenv("ORCHESTRATOR_LIBVIRT_URI");
	dir[50] = 0;
	setenv("ORCHESTRATOR_STATE_DIR", dir, 1);
	config_free(must_load(&user));
}

static void the_later_source_wins(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *first = file_with(f, "etc.yaml",
		"accel: kvm\nvsock: kernel\nmax_vms: 7\nboot_timeout: 90s\nlog_level: debug\n");
	_cleanup_free_ char *second =
		file_with(f, "home.yaml", "# mine\nvsock: user\nmax_vms: 8\n");
	struct config_sources sources = {.files = {first, second}, .uid = 1000, .home = "/home/u"};
	_cleanup_error_ struct error *err = NULL;

	setenv("ORCHESTRATOR_MAX_VMS", "9", 1);
	setenv("ORCHESTRATOR_RETAIN", "7d", 1);
	setenv("ORCHESTRATOR_ACCEL", "", 1); /* as not set */
	_cleanup_config_ struct config *config = must_load(&sources);
	assert_int_equal(config->accel, ACCEL_KVM);
	assert_int_equal(config->vsock, VSOCK_USER);
	assert_int_equal(config->max_vms, 9);
	assert_int_equal(config->boot_timeout_ms, 90000);
	assert_true(config->retain_ms == UINT64_C(7) * 24 * 3600 * 1000);
	assert_int_equal(config_set(config, "accel", "tcg", "--accel", &err), 0);
	assert_int_equal(config->accel, ACCEL_TCG);
	assert_int_equal(config_set(config, "accel", "xen", "--accel", &err), -1);
	assert_string_equal(err->text, "--accel: must be auto, kvm or tcg, not \"xen\"");

	_cleanup_free_ char *shown = config_describe(config);
	_cleanup_free_ char *from_first = str_printf("# %s:4\n", first);
	_cleanup_free_ char *from_second = str_printf("# %s:2\n", second);
	assert_non_null(strstr(shown, "# --accel\n"));
	assert_non_null(strstr(shown, "# ORCHESTRATOR_MAX_VMS\n"));
	assert_non_null(strstr(shown, "# default\n"));
	assert_non_null(strstr(shown, from_first));
	assert_non_null(strstr(shown, from_second));
}

static void what_is_described_reads_back_the_same(void **state)
{
	struct fixture *f = *state;

	setenv("ORCHESTRATOR_STATE_DIR", "/var/it's # a place: \"mine\"", 1);
	setenv("ORCHESTRATOR_DEFAULT_IMAGE", "1", 1);
	setenv("ORCHESTRATOR_LIBVIRT_URI", "qemu:///embed?root=/x", 1);
	setenv("ORCHESTRATOR_BOOT_TIMEOUT", "1m30s", 1);
	_cleanup_config_ struct config *a = must_load(&user);
	_cleanup_free_ char *shown = config_describe(a);
	_cleanup_free_ char *path = file_with(f, "back.yaml", shown);
	struct config_sources sources = {.files = {path}, .must_exist = true, .uid = 1000};
	forget_environment();
	_cleanup_config_ struct config *b = must_load(&sources);
	for (size_t i = 0; i < config_table.n_keys; i++) {
		_cleanup_free_ char *was = yaml_key_format(&config_table.keys[i], a);
		_cleanup_free_ char *is = yaml_key_format(&config_table.keys[i], b);
		if (config_table.keys[i].type != YT_NAMED)
			assert_string_equal(was, is);
	}
}

static void pools_are_read_and_shown(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = file_with(f, "pools.yaml",
		"default_memory: 256M\n"
		"pool:\n"
		"  debian: {min_idle: 2}\n"
		"  a.b-c:\n"
		"    max: 7\n"
		"    cpus: 2\n"
		"    memory: 1G\n"
		"    disk: 64M\n"
		"    max_age: 90s\n");
	struct config_sources sources = {.files = {path}, .must_exist = true, .uid = 0};
	_cleanup_config_ struct config *a = must_load(&sources);
	_cleanup_free_ char *shown = config_describe(a);
	_cleanup_free_ char *again = file_with(f, "again.yaml", shown);
	sources.files[0] = again;
	_cleanup_config_ struct config *b = must_load(&sources);
	const struct config *both[] = {a, b};

	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(both[i]->n_pools, 2);
		const struct config_pool *p = both[i]->pools[0];
		assert_string_equal(p->image, "debian");
		assert_int_equal(p->min_idle, 2);
		assert_int_equal(p->max, 3);
		assert_int_equal(p->cpus, 1);
		assert_int_equal(p->memory_bytes, 256 * MIB);
		assert_int_equal(p->disk_bytes, 0);
		assert_int_equal(p->max_age_ms, 1800 * 1000);
		p = both[i]->pools[1];
		assert_string_equal(p->image, "a.b-c");
		assert_int_equal(p->min_idle, 1);
		assert_int_equal(p->max, 7);
		assert_int_equal(p->cpus, 2);
		assert_int_equal(p->memory_bytes, GIB);
		assert_int_equal(p->disk_bytes, 64 * MIB);
		assert_int_equal(p->max_age_ms, 90 * 1000);
	}
	/* A later file's replaces an earlier one's. */
	_cleanup_free_ char *later = file_with(f, "later.yaml", "pool: {other: {}}\n");
	sources.files[1] = later;
	_cleanup_config_ struct config *c = must_load(&sources);
	assert_int_equal(c->n_pools, 1);
	assert_string_equal(c->pools[0]->image, "other");
}

static void mistakes_in_a_file(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{"pool: 3", ":1:7: pool: must be a mapping of names to mappings, such as {debian: "
			    "{min_idle: 2}}"},
		{"pool:\n  debian: {min_ide: 1}",
			":2:12: unknown key \"min_ide\"; did you mean \"min_idle\"?"},
		{"pool:\n  debian: {min_idle: 0}",
			":2:22: pool.debian.min_idle: 0 is too little, the least is 1"},
		{"pool:\n  debian:\n    memory: 1M\n",
			":3:13: pool.debian.memory: 1M is too little, the least is 64M"},
		{"pool:\n  debian: {min_idle: 3, max: 2}",
			":2:11: pool.debian: max is 2 and min_idle 3: max counts the idle ones "
			"too"},
		{"pool:\n  Debian: {}", ":2:3: pool[\"Debian\"]: the name must be of the letters "
					"a-z and digits, with . _ or - inside"},
		{"pool: {debian: 2}", ":1:16: pool.debian: must be a mapping with the keys of a "
				      "pool: min_idle, max, cpus, memory, disk, max_age"},
		{"pool: {a: {}, a: {}}", ":1:15: duplicate key \"a\", first at line 1"},
		{"max_vm: 3", ":1:1: unknown key \"max_vm\"; did you mean \"max_vms\"?"},
		{"cids: 1-9", ":1:7: cids: must be FIRST-LAST, both from 3 to 4294967294"},
		{"cids: 9-8", ":1:7: cids: ends before it begins"},
		{"max_vms: 0", ":1:10: max_vms: 0 is too little, the least is 1"},
		{"max_vms: 1001", ":1:10: max_vms: 1001 is too much, the most is 1000"},
		{"accel: xen", ":1:8: accel: must be auto, kvm or tcg, not \"xen\""},
		{"boot_timeout: 60", ":1:15: boot_timeout: 60 has no unit; write 60s"},
		{"state_dir: ~/x",
			":1:12: state_dir: \"~\" is not known here; write the whole path"},
		{"state_dir: x", ":1:12: state_dir: must be an absolute path, such as /tmp/x"},
		{"image_dir: /a/../b", ":1:12: image_dir: must not have \"..\" in it"},
		{"runtime_dir: /1234567890/234567890/234567890/234567890/234567890/2345678901",
			":1:14: runtime_dir: is 62 bytes long, and the names of sockets in it must "
			"fit into 108: the most is 60; set runtime_dir to a shorter path"},
		{"libvirt_uri: qemu+ssh://host/system",
			":1:14: libvirt_uri: must be embed, qemu:///embed?root=DIR, "
			"qemu:///system or qemu:///session; virtual machines run on this host "
			"only"},
		{"libvirt_uri: qemu:///systematic",
			":1:14: libvirt_uri: must be embed, qemu:///embed?root=DIR, "
			"qemu:///system or qemu:///session; virtual machines run on this host "
			"only"},
		{"log_level: loud", ":1:12: log_level: must be error, warn, info or debug"},
		{"default_memory: 1M", ":1:17: default_memory: 1M is too little, the least is 64M"},
		{"default_image: Debian", ":1:16: default_image: must be of the letters a-z and "
					  "digits, with . _ or - inside"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *path = file_with(f, "c.yaml", cases[i].text);
		_cleanup_free_ char *want = str_printf("%s%s", path, cases[i].want);
		must_refuse(&(struct config_sources){.files = {path}, .home = "/h"}, want);
	}
}

static void mistakes_elsewhere(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *missing = str_printf("%s/missing.yaml", f->dir);
	struct config_sources sources = {.files = {missing}, .uid = 1000, .home = "/home/u"};

	_cleanup_config_ struct config *config = must_load(&sources); /* may be missing */
	sources.must_exist = true;
	_cleanup_free_ char *want =
		str_printf("configuration: %s: No such file or directory", missing);
	must_refuse(&sources, want);

	setenv("ORCHESTRATOR_MAX_VMS", "many", 1);
	must_refuse(&user, "ORCHESTRATOR_MAX_VMS: must be a whole number in decimal digits, not "
			   "\"many\"");
	forget_environment();
	setenv("ORCHESTRATOR_POOL", "debian", 1);
	must_refuse(&user, "ORCHESTRATOR_POOL: pool is set in a configuration file only");
	forget_environment();
	must_refuse(&(struct config_sources){.uid = 1000},
		"there is no home directory for a state_dir: set HOME or ORCHESTRATOR_STATE_DIR");
	must_refuse(&(struct config_sources){.uid = 1000,
			    .home = "/home/somebody-with-a-name-that-does-not-end"},
		"runtime_dir: the default "
		"/home/somebody-with-a-name-that-does-not-end/.local/state/orchestrator/run is 74 "
		"bytes long, and the names of sockets in it must fit into 108: the most is 60; set "
		"runtime_dir to a shorter path");
}

static void a_misspelt_variable_is_warned_of(void **state)
{
	static const struct {
		const char *assignment, *want;
	} cases[] = {
		{"ORCHESTRATOR_STATEDIR=/x", "ORCHESTRATOR_STATEDIR is no setting and is ignored; "
					     "did you mean ORCHESTRATOR_STATE_DIR?"},
		{"ORCHESTRATOR_MAX_VM=3", "ORCHESTRATOR_MAX_VM is no setting and is ignored; "
					  "did you mean ORCHESTRATOR_MAX_VMS?"},
		{"ORCHESTRATOR_XYZZY=3", "ORCHESTRATOR_XYZZY is no setting and is ignored; "
					 "`orchestrator config` shows all"},
		{"ORCHESTRATOR_\x1b=1", "ORCHESTRATOR_\\x1b is no setting and is ignored; "
					"`orchestrator config` shows all"},
		{"ORCHESTRATOR_STATEDIR=", NULL}, /* as not set */
		{"ORCHESTRATOR_STATE_DIR=/x", NULL},
		{"ORCHESTRATOR_CACHE_DIR=/x", NULL},
		{"ORCHESTRATORS=1", NULL},
		{"ORCHESTRATOR_", NULL},
		{"PATH=/bin", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *problem = config_variable_problem(cases[i].assignment);
		if (!str_eq(problem, cases[i].want))
			fail_msg("%s: %s", cases[i].assignment, problem);
	}
	for (size_t i = 0; i < config_table.n_keys; i++) {
		_cleanup_free_ char *name = config_variable(config_table.keys[i].name);
		_cleanup_free_ char *assignment = str_printf("%s=1", name);
		assert_null(config_variable_problem(assignment));
	}
}

/* The files that describe the keys, against the tables. ------------------------------------------
 */

/* "#key: value" of the commented file becomes "key: value". */
static char *without_comment_signs(const char *text)
{
	char *out = xstrdup("");

	for (const char *s = text; *s;) {
		size_t n = strcspn(s, "\n");
		size_t name = *s == '#' ? strspn(s + 1, "abcdefghijklmnopqrstuvwxyz_") : 0;
		if (name && s[1 + name] == ':') {
			char *longer = str_printf("%s%.*s\n", out, (int)n - 1, s + 1);
			free(out);
			out = longer;
		}
		s += n + (s[n] == '\n');
	}
	return out;
}

static void the_commented_file_has_every_key_with_its_default(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *text = read_file(CONFIG_FILE, LIMIT_JOB_FILE, NULL, NULL);
	struct config_sources sources = {
		.files = {CONFIG_FILE}, .must_exist = true, .uid = 0, .home = "/root"};

	assert_non_null(text);
	_cleanup_config_ struct config *plain = must_load(&sources);
	_cleanup_config_ struct config *defaults = must_load(&root);
	_cleanup_free_ char *uncommented = without_comment_signs(text);
	_cleanup_free_ char *path = file_with(f, "all.yaml", uncommented);
	sources.files[0] = path;
	_cleanup_config_ struct config *all = must_load(&sources);
	_cleanup_free_ char *described = config_describe(all);
	assert_null(strstr(described, "# default\n")); /* each key was in the file */
	for (size_t i = 0; i < config_table.n_keys; i++) {
		const struct yaml_key *key = &config_table.keys[i];
		_cleanup_free_ char *want = yaml_key_format(key, defaults);
		_cleanup_free_ char *as_is = yaml_key_format(key, plain);
		_cleanup_free_ char *have = yaml_key_format(key, all);
		if (key->type == YT_NAMED)
			continue;
		assert_string_equal(as_is, want);
		if (!str_eq(key->name, "max_vms")) /* depends on the machine */
			assert_string_equal(have, want);
	}
}

/* The object that describes a table's keys, behind lists and alternatives. */
static json_t *schema_object(json_t *schema)
{
	json_t *items = json_object_get(schema, "items");
	json_t *choice;
	size_t i;

	if (items)
		return schema_object(items);
	if (json_object_get(schema, "properties"))
		return schema;
	json_array_foreach(json_object_get(schema, "oneOf"), i, choice)
	{
		json_t *object = schema_object(choice);
		if (object)
			return object;
	}
	return NULL;
}

static void same_number(json_t *schema, const char *name, uint64_t want)
{
	json_t *number = json_object_get(schema, name);

	if (!number)
		fail_msg("no %s", name);
	assert_int_equal(json_integer_value(number), want);
}

static void compare_table(json_t *object, const struct yaml_table *table)
{
	json_t *properties = json_object_get(object, "properties"), *value;
	json_t *required = json_object_get(object, "required");
	const char *name;
	size_t n_required = 0;

	assert_non_null(properties);
	assert_true(json_is_false(json_object_get(object, "additionalProperties")));
	json_object_foreach(properties, name, value)
	{
		if (!yaml_table_find(table, name))
			fail_msg("\"%s\" is in the schema only", name);
	}
	for (size_t i = 0; i < table->n_keys; i++) {
		const struct yaml_key *key = &table->keys[i];
		json_t *schema = json_object_get(properties, key->name), *entry;
		size_t j;
		bool listed = false;
		if (!schema)
			fail_msg("\"%s\" of a %s is not in the schema", key->name, table->what);
		json_array_foreach(required, j, entry)
		{
			listed |= str_eq(json_string_value(entry), key->name);
		}
		assert_int_equal(listed, key->required);
		n_required += key->required;
		if (key->type == YT_STRINGS || key->type == YT_TABLES)
			same_number(schema, "maxItems", key->max);
		if (key->type == YT_MAP)
			same_number(schema, "maxProperties", key->max);
		if (key->type == YT_UINT) {
			same_number(schema, "minimum", key->min);
			same_number(schema, "maximum", key->max);
		}
		if (key->type == YT_TABLE || key->type == YT_TABLES)
			compare_table(schema_object(schema), key->table);
	}
	assert_int_equal(json_array_size(required), n_required);
}

static void the_schema_has_the_keys_of_the_table(void **state)
{
	json_error_t why;
	json_t *schema = json_load_file(SCHEMA_FILE, JSON_REJECT_DUPLICATES, &why);

	(void)state;
	if (!schema)
		fail_msg("%s:%d: %s", SCHEMA_FILE, why.line, why.text);
	compare_table(schema, &jobspec_table);
	same_number(json_object_get(json_object_get(schema, "properties"), "run"), "maxLength",
		LIMIT_SCRIPT);
	json_decref(schema);
}

static void the_examples_are_jobs(void **state)
{
	static const char *const examples[] = {
		"examples/hello.yaml", "examples/build-c.yaml", "examples/untrusted.yaml"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
		size_t size;
		_cleanup_error_ struct error *err = NULL;
		_cleanup_free_ char *text = read_file(examples[i], LIMIT_JOB_FILE, &size, &err);
		Job__V1__Spec *spec = text ? jobspec_parse(text, size, examples[i], &err) : NULL;
		if (!spec)
			fail_msg("%s", err->text);
		job__v1__spec__free_unpacked(spec, NULL);
	}
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(defaults_of_root_and_of_a_user),
		TEST(sockets_fit_below_the_state_directory),
		TEST(the_later_source_wins),
		TEST(what_is_described_reads_back_the_same),
		TEST(pools_are_read_and_shown),
		TEST(mistakes_in_a_file),
		TEST(mistakes_elsewhere),
		TEST(a_misspelt_variable_is_warned_of),
		TEST(the_commented_file_has_every_key_with_its_default),
		TEST(the_schema_has_the_keys_of_the_table),
		TEST(the_examples_are_jobs),
	};
	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
