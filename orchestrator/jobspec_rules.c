#include "orchestrator/jobspec_rules.h"

#include <string.h>

#include "common/limits.h"
#include "common/util.h"

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define UPPER  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

static char *not_text(const char *value, size_t most)
{
	if (!utf8_valid(value, strlen(value)))
		return xstrdup("must be valid UTF-8");
	if (strlen(value) > most)
		return str_printf("is %zu bytes long, the most is %zu", strlen(value), most);
	return NULL;
}

/* What could drive a terminal or break a line where it is shown. */
static bool has_control(const char *value)
{
	_cleanup_free_ char *escaped = str_escape(value, strlen(value), false);

	return !str_eq(escaped, value) || strchr(value, '\t');
}

static char *not_line(const char *value, size_t most)
{
	char *problem = not_text(value, most);

	if (!problem && has_control(value))
		return xstrdup("must not have control characters");
	return problem;
}

char *rule_name(const char *value)
{
	static const char ends[] = LOWER DIGITS, inside[] = LOWER DIGITS "._-";
	size_t n = strlen(value);

	if (!n)
		return xstrdup("must not be empty");
	if (n > LIMIT_NAME)
		return str_printf("is %zu bytes long, the most is %d", n, LIMIT_NAME);
	if (strspn(value, inside) != n || !strchr(ends, value[0]) || !strchr(ends, value[n - 1]))
		return xstrdup("must be of the letters a-z and digits, with . _ or - inside");
	return NULL;
}

char *rule_user(const char *value)
{
	size_t n = strlen(value);
	uint64_t uid;

	if (!n)
		return xstrdup("must not be empty");
	if (n > LIMIT_NAME)
		return str_printf("is %zu bytes long, the most is %d", n, LIMIT_NAME);
	if (strspn(value, DIGITS) == n) {
		/* The greatest means "none" to the kernel. */
		if (parse_number(value, 0, UINT32_MAX - 1, &uid) < 0)
			return xstrdup("is too large a user id");
		return NULL;
	}
	if (!strchr(LOWER "_", value[0]) || strspn(value, LOWER DIGITS "_-") != n)
		return xstrdup("must be a user's name, of a-z, digits, _ and - with a letter or _ "
			       "first, or a user id");
	return NULL;
}

char *rule_argument(const char *value)
{
	return not_text(value, LIMIT_SCRIPT);
}

char *rule_script(const char *value)
{
	if (strspn(value, " \t\r\n") == strlen(value))
		return xstrdup("must not be empty");
	return not_text(value, LIMIT_SCRIPT);
}

char *rule_env_name(const char *value)
{
	size_t n = strlen(value);

	if (n > LIMIT_NAME_BYTES)
		return str_printf("is %zu bytes long, the most is %u", n, LIMIT_NAME_BYTES);
	if (!n || strchr(DIGITS, value[0]) || strspn(value, LOWER UPPER DIGITS "_") != n)
		return xstrdup("must be of letters, digits and _, and not begin with a digit");
	return NULL;
}

char *rule_env_value(const char *value)
{
	return not_text(value, LIMIT_SCRIPT);
}

/* Paths. One way only to write each, so that equal paths are equal texts. */
static char *not_path(const char *value)
{
	size_t n = strlen(value);
	char *problem = not_line(value, LIMIT_PATH);

	if (problem)
		return problem;
	if (!n)
		return xstrdup("must not be empty");
	if (n > 1 && value[n - 1] == '/')
		return xstrdup("must not end with \"/\"");
	for (const char *part = value + (*value == '/'); n > 1;) {
		size_t len = strcspn(part, "/");
		if (len == 2 && part[0] == '.' && part[1] == '.')
			return xstrdup("must not have \"..\" in it");
		if (len == 0 || (len == 1 && *part == '.'))
			return xstrdup("must not have \"//\" or \".\" in it");
		if (len > LIMIT_NAME_BYTES)
			return str_printf("has a name of %zu bytes in it, the most is %u", len,
				LIMIT_NAME_BYTES);
		if (!part[len])
			break;
		part += len + 1;
	}
	return NULL;
}

char *rule_absolute_path(const char *value)
{
	char *problem = not_path(value);

	if (!problem && *value != '/')
		return xstrdup("must be an absolute path, such as /tmp/x");
	return problem;
}

char *rule_working_dir(const char *value)
{
	return rule_absolute_path(value);
}

char *rule_input_src(const char *value)
{
	return *value ? not_line(value, LIMIT_PATH) : xstrdup("must not be empty");
}

static bool is_or_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (!path[n] || path[n] == '/');
}

static char *in_kernel_dir(const char *value)
{
	static const char *const dirs[] = {"/proc", "/sys", "/dev"};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (is_or_below(value, dirs[i]))
			return str_printf("must not be in %s", dirs[i]);
	return NULL;
}

char *rule_input_dest(const char *value)
{
	char *problem = rule_absolute_path(value);

	if (!problem && str_eq(value, "/"))
		return xstrdup("must not be / itself");
	return problem ? problem : in_kernel_dir(value);
}

char *rule_output_path(const char *value)
{
	char *problem = not_path(value);

	if (!problem && (str_eq(value, "/") || str_eq(value, ".") || str_eq(value, "..")))
		return xstrdup("must name a file or a directory");
	return problem ? problem : in_kernel_dir(value);
}

char *rule_label_name(const char *value)
{
	return rule_name(value);
}

char *rule_label_value(const char *value)
{
	return not_line(value, LIMIT_NAME_BYTES);
}
