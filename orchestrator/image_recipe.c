#include "orchestrator/image_recipe.h"

#include <dirent.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/image.h"
#include "orchestrator/yaml_table.h"

static const char *const variants[] = {"extract", "essential", "minbase", NULL};

static bool only(const char *value, const char *chars)
{
	return strspn(value, chars) == strlen(value);
}

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

static char *check_image_name(const char *value)
{
	return image_name_valid(value)
		       ? NULL
		       : xstrdup("must be lower-case letters, digits and . _ - only");
}

/* None of these may begin like an option of the tools they are given to. */
static char *check_package(const char *value)
{
	bool good = only(value, LOWER DIGITS "+-.") && value[0] != '-' && value[0] != '.' &&
		    value[0] != '+' && value[strlen(value) - 1] != '-';

	return good ? NULL : xstrdup("is not the name of a Debian package");
}

static char *check_suite(const char *value)
{
	return only(value, LOWER DIGITS "-") && value[0] != '-'
		       ? NULL
		       : xstrdup("is not the name of a Debian suite, such as bookworm");
}

static char *check_mirror(const char *value)
{
	bool good = (str_starts(value, "http://") || str_starts(value, "https://")) &&
		    !strpbrk(value, " \t\r\n\"'[];");

	return good ? NULL : xstrdup("must be an http or https address");
}

static char *check_exclude(const char *value)
{
	return value[0] == '/' && !strpbrk(value, " \t\r\n\"'")
		       ? NULL
		       : xstrdup("must be an absolute path, * allowed, without blanks");
}

static char *check_user(const char *value)
{
	return only(value, LOWER DIGITS "_-") && value[0] >= 'a' && value[0] <= 'z'
		       ? NULL
		       : xstrdup("is not a user's name");
}

static char *check_home(const char *value)
{
	return str_starts(value, "/home/") && value[6] && only(value + 6, LOWER DIGITS "_-")
		       ? NULL
		       : xstrdup("must be a directory right below /home");
}

static const struct yaml_key user_keys[] = {
	{"name", YT_STRING, YAML_AT(struct recipe_user, name), .required = true, .min = 1,
		.max = 32, .check = check_user},
	{"uid", YT_UINT, YAML_AT(struct recipe_user, uid), .required = true, .min = 1,
		.max = 60000},
	{"home", YT_STRING, YAML_AT(struct recipe_user, home), .required = true, .max = 64,
		.check = check_home},
};
static const struct yaml_table user_table = {
	"user", sizeof(struct recipe_user), YAML_KEYS(user_keys)};

static const struct yaml_key recipe_keys[] = {
	{"name", YT_STRING, YAML_AT(struct recipe, name), .required = true, .min = 1,
		.max = LIMIT_NAME, .check = check_image_name},
	{"description", YT_STRING, YAML_AT(struct recipe, description), .max = 200},
	{"suite", YT_STRING, YAML_AT(struct recipe, suite), .required = true, .min = 1, .max = 64,
		.check = check_suite},
	{"mirror", YT_STRING, YAML_AT(struct recipe, mirror), .max = 500, .check = check_mirror},
	{"variant", YT_ENUM, YAML_AT(struct recipe, variant), .required = true, .names = variants},
	{"packages", YT_STRINGS, YAML_AT(struct recipe, packages),
		YAML_COUNT(struct recipe, n_packages), .required = true, .min = 1, .max = 500,
		.check = check_package},
	{"exclude", YT_STRINGS, YAML_AT(struct recipe, exclude),
		YAML_COUNT(struct recipe, n_exclude), .max = 100, .check = check_exclude},
	{"users", YT_TABLES, YAML_AT(struct recipe, users), YAML_COUNT(struct recipe, n_users),
		.max = 20, .table = &user_table, .unique = "name"},
};
static const struct yaml_table recipe_table = {
	"recipe", sizeof(struct recipe), YAML_KEYS(recipe_keys)};

const char *recipe_variant_name(enum recipe_variant variant)
{
	return variants[variant];
}

int recipe_read(const char *path, struct recipe *ret, struct error **err)
{
	size_t size;
	_cleanup_free_ char *text = read_file(path, LIMIT_JOB_FILE, &size, err);

	memset(ret, 0, sizeof(*ret));
	if (!text)
		return -1;
	if (yaml_table_read(&recipe_table, ret, text, size, path, err) < 0) {
		recipe_clear(ret);
		return -1;
	}
	return 0;
}

void recipe_clear(struct recipe *recipe)
{
	yaml_table_clear(&recipe_table, recipe);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "debian, minimal"; to be freed. */
static char *recipe_names(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	char **names = NULL;
	size_t n = 0;

	while (d && (entry = readdir(d))) {
		const char *dot = strrchr(entry->d_name, '.');
		if (!dot || !str_eq(dot, ".yaml"))
			continue;
		names = xreallocarray(names, n + 1, sizeof(*names));
		names[n++] = xstrndup(entry->d_name, (size_t)(dot - entry->d_name));
	}
	if (d)
		closedir(d);
	if (n)
		qsort(names, n, sizeof(*names), by_text);
	char *out = xstrdup("");
	for (size_t i = 0; i < n; i++) {
		char *longer = str_printf("%s%s%s", out, i ? ", " : "", names[i]);
		free(out);
		free(names[i]);
		out = longer;
	}
	free(names);
	return out;
}

char *recipe_find(const char *dir, const char *name, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/%s.yaml", dir, name);

	if (access(path, R_OK) == 0)
		return steal_ptr(path);
	_cleanup_free_ char *names = recipe_names(dir);
	if (*names)
		error_set(err, ERR_NOT_FOUND,
			"no recipe for \"%s\"; there are: %s (or name one by --recipe FILE, or a "
			"directory or tarball by --root)",
			name, names);
	else
		error_set(err, ERR_NOT_FOUND,
			"no recipe for \"%s\", and none at all in %s: is orchestrator installed "
			"whole?",
			name, dir);
	return NULL;
}
