#include "orchestrator/yaml_value.h"

#include <string.h>

#include "common/util.h"
#include "orchestrator/yaml_doc.h"

bool yaml_type_is_scalar(enum yaml_type type)
{
	return type <= YT_ENUM;
}

static bool in_words(const char *text, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(text, words[i]))
			return true;
	return false;
}

/* What YAML 1.1 calls a boolean, and 1.2 mostly does not. */
static bool is_boolean_word(const char *text)
{
	static const char *const words[] = {"y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No",
		"NO", "true", "True", "TRUE", "false", "False", "FALSE", "on", "On", "ON", "off",
		"Off", "OFF"};

	return in_words(text, words, ARRAY_SIZE(words));
}

static bool is_null_word(const char *text)
{
	static const char *const words[] = {"", "~", "null", "Null", "NULL"};

	return in_words(text, words, ARRAY_SIZE(words));
}

/* Decimal, hexadecimal, octal, floating, 1_000, and the base 60 of YAML 1.1 (1:30). */
static bool is_number(const char *text)
{
	const char *s = text + (*text == '-' || *text == '+');
	const char *digits = *s == '.' ? s + 1 : s;
	char *end;

	if (*digits < '0' || *digits > '9')
		return false;
	strtod(s, &end);
	return !*end || strspn(s, "0123456789_:") == strlen(s) ||
	       (str_starts(s, "0o") && strspn(s + 2, "01234567") == strlen(s + 2));
}

static bool all_digits(const char *s)
{
	return *s && strspn(s, "0123456789") == strlen(s);
}

static void store_number(void *place, size_t width, uint64_t v)
{
	if (width == sizeof(uint64_t)) {
		memcpy(place, &v, sizeof(v));
	} else if (width == sizeof(uint32_t)) {
		uint32_t v32 = (uint32_t)v;
		memcpy(place, &v32, sizeof(v32));
	} else {
		*(bool *)place = v != 0;
	}
}

static uint64_t load_number(const void *place, size_t width)
{
	uint64_t v;
	uint32_t v32;

	if (width == sizeof(v)) {
		memcpy(&v, place, sizeof(v));
		return v;
	}
	if (width == sizeof(v32)) {
		memcpy(&v32, place, sizeof(v32));
		return v32;
	}
	return *(const bool *)place;
}

/* As short as it can be said exactly: "512M", "10m", "90s". */
static char *format_exactly(enum yaml_type type, uint64_t v)
{
	static const struct {
		const char *name;
		uint64_t unit;
	} sizes[] = {{"T", GIB * 1024}, {"G", GIB}, {"M", MIB}, {"K", KIB}, {"", 1}},
	  times[] = {{"d", UINT64_C(24) * 3600 * 1000}, {"h", 3600 * 1000}, {"m", 60 * 1000},
		  {"s", 1000}, {"ms", 1}};

	if (type != YT_SIZE && type != YT_DURATION)
		return str_printf("%llu", (unsigned long long)v);
	if (!v)
		return xstrdup(type == YT_SIZE ? "0" : "0s");
	for (size_t i = 0;; i++) {
		uint64_t unit = type == YT_SIZE ? sizes[i].unit : times[i].unit;
		if (v % unit == 0)
			return str_printf("%llu%s", (unsigned long long)(v / unit),
				type == YT_SIZE ? sizes[i].name : times[i].name);
	}
}

static char *range_problem(const struct yaml_key *key, const char *text, uint64_t v)
{
	_cleanup_free_ char *least = format_exactly(key->type, key->min);
	_cleanup_free_ char *most = format_exactly(key->type, key->max);
	uint64_t meant;

	if (v < key->min) {
		_cleanup_free_ char *as_mib = str_printf("%sM", text);
		bool likely = key->type == YT_SIZE && all_digits(text) &&
			      parse_size(as_mib, &meant) == 0 && meant >= key->min &&
			      (!key->max || meant <= key->max);
		return str_printf("%s%s is too little, the least is %s%s%s%s", text,
			likely ? " (bytes)" : "", least, likely ? "; did you mean " : "",
			likely ? as_mib : "", likely ? "?" : "");
	}
	if (key->max && v > key->max)
		return str_printf("%s is too much, the most is %s", text, most);
	return NULL;
}

static char *set_bool(
	const struct yaml_key *key, void *place, const char *text, enum yaml_style style)
{
	bool yes = str_eq(text, "true");

	if (!yes && !str_eq(text, "false")) {
		_cleanup_free_ char *shown = yaml_shown(text);
		return str_printf("must be true or false, not %s", shown);
	}
	if (style == YAML_STYLE_QUOTED)
		return str_printf("must be %s without quotes", text);
	store_number(place, key->width, yes);
	return NULL;
}

static char *set_uint(
	const struct yaml_key *key, void *place, const char *text, enum yaml_style style)
{
	uint64_t v, most = key->width == sizeof(uint32_t) ? UINT32_MAX : UINT64_MAX;

	if (!all_digits(text) || (text[0] == '0' && text[1])) {
		_cleanup_free_ char *shown = yaml_shown(text);
		return str_printf("must be a whole number in decimal digits, not %s", shown);
	}
	if (style == YAML_STYLE_QUOTED)
		return xstrdup("must be a number without quotes");
	if (parse_size(text, &v) < 0 || v > most) {
		_cleanup_free_ char *shown = yaml_shown(text);
		return str_printf("%s is too large a number", shown);
	}
	char *problem = range_problem(key, text, v);
	if (!problem)
		store_number(place, key->width, v);
	return problem;
}

static int32_t load_int(const void *place)
{
	int32_t v;

	memcpy(&v, place, sizeof(v));
	return v;
}

static char *int_range_problem(const struct yaml_key *key, int64_t v)
{
	int64_t most = (int64_t)key->max;

	if (v >= -most && v <= most)
		return NULL;
	return str_printf("%lld is out of range: from -%lld to %lld", (long long)v, (long long)most,
		(long long)most);
}

static char *set_int(
	const struct yaml_key *key, void *place, const char *text, enum yaml_style style)
{
	const char *digits = text + (*text == '-' || *text == '+');

	if (!all_digits(digits) || (digits[0] == '0' && digits[1]) || strlen(digits) > 9) {
		_cleanup_free_ char *shown = yaml_shown(text);
		return str_printf("must be a whole number from -%llu to %llu, not %s",
			(unsigned long long)key->max, (unsigned long long)key->max, shown);
	}
	if (style == YAML_STYLE_QUOTED)
		return xstrdup("must be a number without quotes");
	long v = strtol(text, NULL, 10);
	char *problem = int_range_problem(key, v);
	if (!problem)
		store_number(place, key->width, (uint32_t)(int32_t)v);
	return problem;
}

/* "512mb" and its like: what was meant, or NULL. */
static char *size_meant(const char *text)
{
	static const char *const tails[] = {"", "b", "B", "ib", "iB", "i"};
	static const char letters[] = "kKmMgGtT";
	size_t digits = strspn(text, "0123456789");
	const char *unit = text + digits + (text[digits] == ' ');
	uint64_t v;

	if (!digits || !*unit || !strchr(letters, *unit) ||
		!in_words(unit + 1, tails, ARRAY_SIZE(tails)))
		return NULL;
	_cleanup_free_ char *meant = str_printf("%.*s%c", (int)digits, text, *unit & ~0x20);
	return parse_size(meant, &v) == 0 ? steal_ptr(meant) : NULL;
}

static char *set_size(const struct yaml_key *key, void *place, const char *text)
{
	uint64_t v;

	if (parse_size(text, &v) < 0) {
		_cleanup_free_ char *shown = yaml_shown(text);
		_cleanup_free_ char *meant = size_meant(text);
		if (meant && !str_eq(meant, text))
			return str_printf("%s is not a size; write %s", shown, meant);
		if (strspn(text, "0123456789") > 6)
			return str_printf("%s is too large a size", shown);
		return str_printf("%s is not a size; write it like 512M or 1G: a whole number and "
				  "K, M, G or T",
			shown);
	}
	char *problem = range_problem(key, text, v);
	if (!problem)
		store_number(place, key->width, v);
	return problem;
}

static char *set_duration(const struct yaml_key *key, void *place, const char *text)
{
	uint64_t v;

	if (parse_duration(text, &v) < 0) {
		_cleanup_free_ char *shown = yaml_shown(text);
		if (strspn(text, "0123456789") > 9)
			return str_printf("%s is too large a duration", shown);
		if (all_digits(text))
			return str_printf("%s has no unit; write %ss", text, text);
		return str_printf("%s is not a duration; write it like 90s, 10m or 1h30m", shown);
	}
	char *problem = range_problem(key, text, v);
	if (!problem)
		store_number(place, key->width, v);
	return problem;
}

static char *set_enum(const struct yaml_key *key, void *place, const char *text)
{
	_cleanup_free_ char *list = xstrdup("");

	for (uint64_t i = 0; key->names[i]; i++) {
		if (str_eq(text, key->names[i])) {
			store_number(place, key->width, i);
			return NULL;
		}
		char *longer = str_printf("%s%s%s", list,
			!i		    ? ""
			: key->names[i + 1] ? ", "
					    : " or ",
			key->names[i]);
		free(list);
		list = longer;
	}
	_cleanup_free_ char *shown = yaml_shown(text);
	return str_printf("must be %s, not %s", list, shown);
}

char *yaml_text_problem(const struct yaml_key *key, const char *text, enum yaml_style style)
{
	if (style == YAML_STYLE_PLAIN && is_null_word(text)) {
		if (*text)
			return str_printf("%s means \"no value\" in YAML; put it in quotes if the "
					  "text is meant",
				text);
		return xstrdup(key->as_written ? "has no value; \"\" is the empty text"
					       : "has no value; give one or leave the key out");
	}
	if (style == YAML_STYLE_PLAIN && !key->as_written &&
		(is_boolean_word(text) || is_number(text))) {
		_cleanup_free_ char *shown = yaml_shown(text);
		return str_printf("must be a text, and %.*s is a %s in YAML; write %s in quotes",
			(int)strlen(shown) - 2, shown + 1, is_number(text) ? "number" : "boolean",
			shown);
	}
	if (strlen(text) < key->min)
		return xstrdup("must not be empty");
	if (key->max && strlen(text) > key->max)
		return str_printf("is %zu bytes long, the most is %llu", strlen(text),
			(unsigned long long)key->max);
	return key->check ? key->check(text) : NULL;
}

char *yaml_value_set(
	const struct yaml_key *key, void *target, const char *text, enum yaml_style style)
{
	void *place = (char *)target + key->offset;
	char *problem;

	if (key->type != YT_STRING && style == YAML_STYLE_PLAIN && is_null_word(text))
		return xstrdup("has no value; give one or leave the key out");
	switch (key->type) {
	case YT_STRING:
		problem = yaml_text_problem(key, text, style);
		if (!problem) {
			free(*(char **)place);
			*(char **)place = xstrdup(text);
		}
		break;
	case YT_BOOL:
		problem = set_bool(key, place, text, style);
		break;
	case YT_UINT:
		problem = set_uint(key, place, text, style);
		break;
	case YT_INT:
		problem = set_int(key, place, text, style);
		break;
	case YT_SIZE:
		problem = set_size(key, place, text);
		break;
	case YT_DURATION:
		problem = set_duration(key, place, text);
		break;
	case YT_ENUM:
		problem = set_enum(key, place, text);
		break;
	default:
		return xstrdup("cannot be set by a single value");
	}
	if (!problem && key->has_width)
		store_number((char *)target + key->has, key->has_width, 1);
	return problem;
}

int yaml_key_set(const struct yaml_key *key, void *target, const char *text, struct error **err)
{
	_cleanup_free_ char *problem =
		utf8_valid(text, strlen(text))
			? yaml_value_set(key, target, text, YAML_STYLE_FOREIGN)
			: xstrdup("is no valid UTF-8");

	return problem ? error_set(err, ERR_INVALID, "%s", problem) : 0;
}

char *yaml_key_format(const struct yaml_key *key, const void *target)
{
	const void *place = (const char *)target + key->offset;
	uint64_t v;

	if (key->type == YT_STRING)
		return xstrdup(*(char *const *)place);
	if (!yaml_type_is_scalar(key->type))
		return NULL;
	if (key->type == YT_INT)
		return str_printf("%d", (int)load_int(place));
	v = load_number(place, key->width);
	if (key->type == YT_BOOL)
		return xstrdup(v ? "true" : "false");
	if (key->type == YT_ENUM)
		return xstrdup(key->names[v]);
	return format_exactly(key->type, v);
}

char *yaml_key_range_problem(const struct yaml_key *key, const void *target)
{
	if (key->type == YT_INT)
		return int_range_problem(key, load_int((const char *)target + key->offset));
	uint64_t v = load_number((const char *)target + key->offset, key->width);
	_cleanup_free_ char *text = format_exactly(key->type, v);

	return range_problem(key, text, v);
}
