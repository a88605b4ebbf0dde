/* Where a value comes from is remembered beside the configuration, key by key: `orchestrator
 * config` shows it, and the default of one directory depends on whether another was set. */
#include "orchestrator/config.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "orchestrator/cid.h"
#include "orchestrator/config_keys.h"
#include "orchestrator/jobspec_rules.h"
#include "orchestrator/yaml_value.h"

#define SYSTEM_FILE	"/etc/orchestrator/orchestrator.yaml"
#define VARIABLE_PREFIX "ORCHESTRATOR_"
#define RUNTIME_DIR_LEN                                                                            \
	60u /* leaves room in a socket's 108 bytes for the names of VMs' sockets                   \
	     */
/* Of libvirt's embedded driver: STATE_DIR/libvirt/lib/qemu/domain-N-vm-XXXXXXXX/monitor.sock, N of
 * up to seven digits. */
#define EMBED_STATE_DIR_LEN 50u
#define SECOND_MS	    UINT64_C(1000)
#define HOUR_MS		    (3600 * SECOND_MS)
#define DAY_MS		    (24 * HOUR_MS)

/* Values. ----------------------------------------------------------------------------------------
 */

static char *check_dir(const char *value)
{
	if (*value == '~')
		return xstrdup("\"~\" is not known here; write the whole path");
	return rule_absolute_path(value);
}

static char *check_runtime_dir(const char *value)
{
	char *problem = check_dir(value);

	if (!problem && strlen(value) > RUNTIME_DIR_LEN)
		return str_printf("is %zu bytes long, and the names of sockets in it must fit into "
				  "108: the most is %u; set runtime_dir to a shorter path",
			strlen(value), RUNTIME_DIR_LEN);
	return problem;
}

static char *check_libvirt_uri(const char *value)
{
	static const char *const known[] = {"qemu:///embed", "qemu:///system", "qemu:///session"};

	if (str_eq(value, "embed"))
		return NULL;
	for (const char *c = value; *c; c++)
		if (!isgraph((unsigned char)*c))
			return xstrdup("must not have blanks or control characters");
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		size_t n = strlen(known[i]);
		if (strncmp(value, known[i], n) == 0 && (!value[n] || value[n] == '?'))
			return NULL;
	}
	return xstrdup("must be embed, qemu:///embed?root=DIR, qemu:///system or qemu:///session; "
		       "virtual machines run on this host only");
}

static char *check_cids(const char *value)
{
	struct cid_range range;

	return cid_range_parse(value, &range);
}

static char *check_log_level(const char *value)
{
	enum log_level level;

	return log_level_parse(value, &level) == 0 ? NULL
						   : xstrdup("must be error, warn, info or debug");
}

static const char *const accel_names[] = {
	[ACCEL_AUTO] = "auto", [ACCEL_KVM] = "kvm", [ACCEL_TCG] = "tcg", NULL};
static const char *const vsock_names[] = {
	[VSOCK_AUTO] = "auto", [VSOCK_KERNEL] = "kernel", [VSOCK_USER] = "user", NULL};

#define AT(member) YAML_AT(struct config, member)

static const struct yaml_key config_keys[] = {
	{"state_dir", YT_STRING, AT(state_dir), .check = check_dir},
	{"runtime_dir", YT_STRING, AT(runtime_dir), .check = check_runtime_dir},
	{"image_dir", YT_STRING, AT(image_dir), .check = check_dir},
	{"default_image", YT_STRING, AT(default_image), .check = rule_name},
	{"libvirt_uri", YT_STRING, AT(libvirt_uri), .check = check_libvirt_uri},
	{"accel", YT_ENUM, AT(accel), .names = accel_names},
	{"vsock", YT_ENUM, AT(vsock), .names = vsock_names},
	{"cids", YT_STRING, AT(cids), .check = check_cids},
	{"max_vms", YT_UINT, AT(max_vms), .min = 1, .max = 1000},
	{"memory_overcommit", YT_UINT, AT(memory_overcommit), .min = 1, .max = 10000},
	{"cpu_overcommit", YT_UINT, AT(cpu_overcommit), .min = 1, .max = 10000},
	{"pool", YT_NAMED, AT(pools), YAML_COUNT(struct config, n_pools), .max = 64,
		.check = rule_name, .table = &config_pool_table,
		.hint = "such as {debian: {min_idle: 2}}"},
	{"boot_timeout", YT_DURATION, AT(boot_timeout_ms), .min = SECOND_MS, .max = HOUR_MS},
	{"kvm_probe_timeout", YT_DURATION, AT(kvm_probe_timeout_ms), .min = 100, .max = HOUR_MS},
	{"idle_timeout", YT_DURATION, AT(idle_timeout_ms), .min = 100, .max = 7 * DAY_MS},
	{"min_free_disk", YT_SIZE, AT(min_free_disk), .max = 1024 * GIB},
	{"ballast", YT_SIZE, AT(ballast), .max = 1 * GIB},
	{"default_timeout", YT_DURATION, AT(default_timeout_ms), .min = 1, .max = LIMIT_TIMEOUT_MS},
	{"default_memory", YT_SIZE, AT(default_memory), .min = LIMIT_MEMORY_LEAST,
		.max = LIMIT_MEMORY},
	{"default_cpus", YT_UINT, AT(default_cpus), .min = 1, .max = LIMIT_CPUS},
	{"retain", YT_DURATION, AT(retain_ms), .max = 3650 * DAY_MS},
	{"log_level", YT_STRING, AT(log_level), .check = check_log_level},
};

struct loaded {
	struct config config;			/* first: this is what callers hold */
	char *origins[ARRAY_SIZE(config_keys)]; /* owned; NULL: default */
};

static void set_origin(struct config *config, const struct yaml_key *key, char *origin)
{
	struct loaded *loaded = (struct loaded *)config;

	free(loaded->origins[key - config_keys]);
	loaded->origins[key - config_keys] = origin;
}

static const char *origin_of(const struct config *config, const struct yaml_key *key)
{
	return ((const struct loaded *)config)->origins[key - config_keys];
}

static void key_was_read(void *target, const struct yaml_key *key, const char *name, unsigned line)
{
	_cleanup_free_ char *shown = str_escape(name, strlen(name), false);

	set_origin(target, key, str_printf("%s:%u", shown, line));
}

const struct yaml_table config_table = {
	"configuration", sizeof(struct config), YAML_KEYS(config_keys), .on_key = key_was_read};

/* Sources. ---------------------------------------------------------------------------------------
 */

static uint32_t cores(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static void set_plain_defaults(struct config *config)
{
	config->default_image = xstrdup("debian");
	config->libvirt_uri = xstrdup("embed");
	config->accel = ACCEL_AUTO;
	config->vsock = VSOCK_AUTO;
	config->cids = xstrdup("65536-2147483646");
	config->max_vms = MIN(MAX(cores(), 2u), 1000u);
	config->memory_overcommit = 80;
	config->cpu_overcommit = 400;
	config->boot_timeout_ms = 60 * SECOND_MS;
	config->kvm_probe_timeout_ms = 10 * SECOND_MS;
	config->idle_timeout_ms = 300 * SECOND_MS;
	config->min_free_disk = 256 * MIB;
	config->ballast = 16 * MIB;
	config->default_timeout_ms = DEFAULT_TIMEOUT_MS;
	config->default_memory = DEFAULT_MEMORY;
	config->default_cpus = DEFAULT_CPUS;
	config->retain_ms = 0;
	config->log_level = xstrdup("info");
}

static int load_file(struct config *config, const char *path, bool must_exist, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;
	size_t size;
	_cleanup_free_ char *text = read_file(path, LIMIT_JOB_FILE, &size, &why);

	if (text)
		return yaml_table_read(&config_table, config, text, size, path, err);
	if (why->code == ERR_NOT_FOUND && !must_exist)
		return 0;
	error_move(err, steal_ptr(why));
	error_wrap(err, "configuration");
	return error_blame_caller(err);
}

char *config_variable(const char *key)
{
	char *name = str_printf(VARIABLE_PREFIX "%s", key);

	for (char *s = name; *s; s++)
		*s = (char)toupper((unsigned char)*s);
	return name;
}

int config_set(struct config *config, const char *name, const char *value, const char *origin,
	struct error **err)
{
	const struct yaml_key *key = yaml_table_find(&config_table, name);

	if (!key)
		return error_set(err, ERR_INVALID, "%s: there is no key \"%s\"", origin, name);
	if (key->type == YT_NAMED)
		return error_set(err, ERR_INVALID, "%s: %s is set in a configuration file only",
			origin, name);
	if (yaml_key_set(key, config, value, err) < 0)
		return error_wrap(err, "%s", origin);
	set_origin(config, key, xstrdup(origin));
	return 0;
}

static int load_environment(struct config *config, struct error **err)
{
	for (size_t i = 0; i < ARRAY_SIZE(config_keys); i++) {
		_cleanup_free_ char *name = config_variable(config_keys[i].name);
		const char *value = getenv(name);
		/* Set to nothing is as not set, as with the XDG variables. */
		if (value && *value &&
			config_set(config, config_keys[i].name, value, name, err) < 0)
			return -1;
	}
	return 0;
}

/* Read elsewhere: by `image build`, by the build with failpoints, by the tests' scripts. */
static const char *const other_variables[] = {"CACHE_DIR", "FAILPOINT", "BUILD"};

char *config_variable_problem(const char *assignment)
{
	const char *names[ARRAY_SIZE(config_keys) + ARRAY_SIZE(other_variables)];
	char upper[ARRAY_SIZE(config_keys)][48];
	size_t n_name = strcspn(assignment, "="), n = 0;

	if (!str_starts(assignment, VARIABLE_PREFIX) || !assignment[n_name] ||
		!assignment[n_name + 1])
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(config_keys); i++) {
		_cleanup_free_ char *variable = config_variable(config_keys[i].name);
		snprintf(upper[i], sizeof(upper[i]), "%s", variable + strlen(VARIABLE_PREFIX));
		names[n++] = upper[i];
	}
	for (size_t i = 0; i < ARRAY_SIZE(other_variables); i++)
		names[n++] = other_variables[i];
	_cleanup_free_ char *name = xstrndup(assignment, n_name);
	const char *suffix = name + strlen(VARIABLE_PREFIX);
	for (size_t i = 0; i < n; i++)
		if (str_eq(names[i], suffix))
			return NULL;
	_cleanup_free_ char *shown = str_escape(name, n_name, false);
	const char *near = str_nearest(suffix, names, n);
	return near ? str_printf("%s is no setting and is ignored; did you mean " VARIABLE_PREFIX
				 "%s?",
			      shown, near)
		    : str_printf("%s is no setting and is ignored; `orchestrator config` shows all",
			      shown);
}

void config_warn_of_variables(void)
{
	for (char **e = environ; *e; e++) {
		_cleanup_free_ char *problem = config_variable_problem(*e);
		if (problem)
			log_warn("orchestrator", "%s", problem);
	}
}

/* $variable, else HOME/below_home; by the XDG rules a relative one does not count. */
static char *xdg_dir(const char *variable, const char *home, const char *below_home)
{
	const char *value = getenv(variable);

	if (value && *value == '/')
		return xstrdup(value);
	return home ? str_printf("%s/%s", home, below_home) : NULL;
}

static char *orchestrator_in(char *dir)
{
	char *path = dir ? str_printf("%s/orchestrator", dir) : NULL;

	free(dir);
	return path;
}

static char *default_runtime_dir(const struct config *config, const struct config_sources *sources)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");

	/* Who names a state directory wants a daemon apart from the usual one, sockets too. */
	if (origin_of(config, yaml_table_find(&config_table, "state_dir")))
		return str_printf("%s/run", config->state_dir);
	if (sources->uid == 0)
		return xstrdup("/run/orchestrator");
	/* After su or sudo the variable may name another user's directory. */
	if (xdg && *xdg == '/' && access(xdg, W_OK | X_OK) == 0)
		return str_printf("%s/orchestrator", xdg);
	return str_printf("%s/run", config->state_dir);
}

static int set_default_dirs(
	struct config *config, const struct config_sources *sources, struct error **err)
{
	bool root = sources->uid == 0;

	if (!config->state_dir)
		config->state_dir = root ? xstrdup("/var/lib/orchestrator")
					 : orchestrator_in(xdg_dir("XDG_STATE_HOME", sources->home,
						   ".local/state"));
	if (!config->state_dir)
		return error_set(err, ERR_INVALID,
			"there is no home directory for a state_dir: set HOME or "
			"ORCHESTRATOR_STATE_DIR");
	if (!config->image_dir && !root) {
		_cleanup_free_ char *data =
			orchestrator_in(xdg_dir("XDG_DATA_HOME", sources->home, ".local/share"));
		config->image_dir = data ? str_printf("%s/images", data) : NULL;
	}
	if (!config->image_dir)
		config->image_dir = str_printf("%s/images", config->state_dir);
	if (!config->runtime_dir)
		config->runtime_dir = default_runtime_dir(config, sources);
	return 0;
}

/* Defaults are made from the environment: they too must be what a key's value must be. */
static int check_defaults(const struct config *config, struct error **err)
{
	for (size_t i = 0; i < ARRAY_SIZE(config_keys); i++) {
		const struct yaml_key *key = &config_keys[i];
		if (key->type != YT_STRING || origin_of(config, key))
			continue;
		_cleanup_free_ char *value = yaml_key_format(key, config);
		_cleanup_free_ char *problem = key->check(value);
		_cleanup_free_ char *shown = str_escape(value, strlen(value), false);
		if (problem)
			return error_set(err, ERR_INVALID, "%s: the default %s %s", key->name,
				shown, problem);
	}
	return 0;
}

static int check_sockets_fit(const struct config *config, struct error **err)
{
	size_t n = strlen(config->state_dir);

	if (n <= EMBED_STATE_DIR_LEN || !config_embeds_libvirt(config) ||
		strchr(config->libvirt_uri, '?'))
		return 0;
	_cleanup_free_ char *shown = str_escape(config->state_dir, n, false);
	return error_set(err, ERR_INVALID,
		"state_dir: %s is %zu bytes long, and the names of libvirt's sockets below it must "
		"fit into 108: the most is %u; set state_dir to a shorter path",
		shown, n, EMBED_STATE_DIR_LEN);
}

struct config *config_load_from(const struct config_sources *sources, struct error **err)
{
	struct loaded *loaded = xcalloc(1, sizeof(*loaded));
	struct config *config = &loaded->config;

	set_plain_defaults(config);
	for (size_t i = 0; i < ARRAY_SIZE(sources->files); i++)
		if (sources->files[i] &&
			load_file(config, sources->files[i], sources->must_exist, err) < 0)
			goto fail;
	if (load_environment(config, err) < 0 || set_default_dirs(config, sources, err) < 0 ||
		check_defaults(config, err) < 0 || check_sockets_fit(config, err) < 0)
		goto fail;
	config_pool_fill(config);
	return config;
fail:
	config_free(config);
	return NULL;
}

bool config_embeds_libvirt(const struct config *config)
{
	return str_eq(config->libvirt_uri, "embed") ||
	       str_starts(config->libvirt_uri, "qemu:///embed");
}

static char *home_dir(void)
{
	const char *home = getenv("HOME");
	char buf[4096];
	struct passwd pw, *found = NULL;

	if (home && *home == '/')
		return xstrdup(home);
	if (getpwuid_r(geteuid(), &pw, buf, sizeof(buf), &found) != 0 || !found ||
		*found->pw_dir != '/')
		return NULL;
	return xstrdup(found->pw_dir);
}

struct config *config_load(const char *file, struct error **err)
{
	_cleanup_free_ char *home = home_dir();
	_cleanup_free_ char *dir = orchestrator_in(xdg_dir("XDG_CONFIG_HOME", home, ".config"));
	_cleanup_free_ char *user_file = dir ? str_printf("%s/orchestrator.yaml", dir) : NULL;
	struct config_sources sources = {
		.files = {SYSTEM_FILE, user_file}, .uid = geteuid(), .home = home};

	if (file) {
		sources.files[0] = file;
		sources.files[1] = NULL;
		sources.must_exist = true;
	}
	return config_load_from(&sources, err);
}

void config_free(struct config *config)
{
	struct loaded *loaded = (struct loaded *)config;

	if (!config)
		return;
	yaml_table_clear(&config_table, config);
	for (size_t i = 0; i < ARRAY_SIZE(loaded->origins); i++)
		free(loaded->origins[i]);
	free(loaded);
}

/* Showing. ---------------------------------------------------------------------------------------
 */

/* Would the text mean the same without quotes? */
static bool is_plain(const struct yaml_key *key, const char *value)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789/._-+?=:";
	size_t n = strlen(value);
	_cleanup_free_ char *problem = yaml_text_problem(key, value, YAML_STYLE_PLAIN);

	return !problem && strspn(value, plain) == n && value[n - 1] != ':' &&
	       (*value == '/' || isalnum((unsigned char)*value));
}

/* As YAML that reads back the same. */
static char *quoted(const struct yaml_key *key, const char *value)
{
	if (key->type != YT_STRING || is_plain(key, value))
		return xstrdup(value);
	_cleanup_free_ char *text = xmalloc(2 * strlen(value) + 1);
	char *o = text;
	for (const char *s = value; *s; s++) {
		*o++ = *s;
		if (*s == '\'')
			*o++ = '\'';
	}
	*o = 0;
	return str_printf("'%s'", text);
}

char *config_describe(const struct config *config)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		abort();
	for (size_t i = 0; i < ARRAY_SIZE(config_keys); i++) {
		const struct yaml_key *key = &config_keys[i];
		const char *origin = origin_of(config, key);
		if (key->type == YT_NAMED) {
			config_pool_describe(config, origin, out);
			continue;
		}
		_cleanup_free_ char *value = yaml_key_format(key, config);
		_cleanup_free_ char *shown = quoted(key, value ? value : "");
		_cleanup_free_ char *line = str_printf("%s: %s", key->name, shown);
		fprintf(out, "%-47s # %s\n", line, origin ? origin : "default");
	}
	if (fclose(out) != 0)
		abort();
	return text;
}

char *config_job_dir(const struct config *config, const char *job_id)
{
	return str_printf("%s/jobs/%s", config->state_dir, job_id);
}

char *config_control_socket(const struct config *config)
{
	return str_printf("%s/control.sock", config->runtime_dir);
}
