#include "common/text.h"

#include <stdio.h>
#include <string.h>

#include "common/util.h"

bool str_starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Length of the well-formed UTF-8 sequence at s, 0 if there is none; its code point in *ret. */
static size_t utf8_next(const unsigned char *s, size_t n, uint32_t *ret)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len;
	uint32_t c;

	if (s[0] < 0x80) {
		*ret = s[0];
		return 1;
	} else if ((s[0] & 0xe0) == 0xc0) {
		len = 2;
		c = s[0] & 0x1f;
	} else if ((s[0] & 0xf0) == 0xe0) {
		len = 3;
		c = s[0] & 0x0f;
	} else if ((s[0] & 0xf8) == 0xf0) {
		len = 4;
		c = s[0] & 0x07;
	} else {
		return 0;
	}
	if (n < len)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret = c;
	return len;
}

bool utf8_valid(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	uint32_t c;

	for (size_t i = 0, len; i < n; i += len) {
		len = utf8_next(p + i, n - i, &c);
		if (!len || !c)
			return false;
	}
	return true;
}

static bool drives_terminal(uint32_t c)
{
	return (c < 0x20 && c != '\t') || (c >= 0x7f && c < 0xa0) || c == 0x061c || c == 0x200e ||
	       c == 0x200f || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

char *str_escape(const char *s, size_t n, bool keep_newlines)
{
	const unsigned char *p = (const unsigned char *)s;
	char *out = xmalloc(n * 4 + 1);
	size_t o = 0;

	for (size_t i = 0; i < n;) {
		uint32_t c;
		size_t len = utf8_next(p + i, n - i, &c);
		if (len && (!drives_terminal(c) || (c == '\n' && keep_newlines))) {
			memcpy(out + o, p + i, len);
			o += len;
			i += len;
			continue;
		}
		for (size_t end = i + (len ? len : 1); i < end; i++)
			o += (size_t)sprintf(out + o, "\\x%02x", p[i]);
	}
	out[o] = 0;
	return out;
}

char *hex_encode(const void *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *b = p;
	char *s = xmalloc(n * 2 + 1);

	for (size_t i = 0; i < n; i++) {
		s[2 * i] = digits[b[i] >> 4];
		s[2 * i + 1] = digits[b[i] & 15];
	}
	s[n * 2] = 0;
	return s;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int hex_decode(const char *s, void *ret, size_t n)
{
	unsigned char *b = ret;

	if (strlen(s) != n * 2)
		return -1;
	for (size_t i = 0; i < n; i++) {
		int hi = hex_digit(s[2 * i]), lo = hex_digit(s[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return -1;
		b[i] = (unsigned char)(hi << 4 | lo);
	}
	return 0;
}

/* The decimal number at *s, which is moved behind it. -1: no digit, or too large. */
static int parse_digits(const char **s, uint64_t *ret)
{
	uint64_t v = 0;

	if (**s < '0' || **s > '9')
		return -1;
	for (; **s >= '0' && **s <= '9'; ++*s) {
		if (__builtin_mul_overflow(v, 10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(**s - '0'), &v))
			return -1;
	}
	*ret = v;
	return 0;
}

int parse_number(const char *s, uint64_t least, uint64_t most, uint64_t *ret)
{
	uint64_t v;

	if (parse_digits(&s, &v) < 0 || *s || v < least || v > most)
		return -1;
	*ret = v;
	return 0;
}

int parse_size(const char *s, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	uint64_t v;
	const char *unit;

	if (parse_digits(&s, &v) < 0)
		return -1;
	if (*s && (unit = strchr(units, *s))) {
		for (long i = 0; i <= unit - units; i++)
			if (__builtin_mul_overflow(v, KIB, &v))
				return -1;
		s++;
		if (str_starts(s, "iB"))
			s += 2;
	}
	if (*s)
		return -1;
	*ret_bytes = v;
	return 0;
}

int parse_duration(const char *s, uint64_t *ret_ms)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000},
		{"d", UINT64_C(24) * 3600 * 1000}};
	uint64_t total = 0, last = UINT64_MAX;

	if (!*s)
		return -1;
	while (*s) {
		uint64_t v;
		size_t i, len = 0;

		if (parse_digits(&s, &v) < 0)
			return -1;
		len = strspn(s, "abcdefghijklmnopqrstuvwxyz");
		for (i = 0; i < ARRAY_SIZE(units); i++)
			if (strlen(units[i].name) == len && !strncmp(s, units[i].name, len))
				break;
		/* Each unit at most once, the larger first: "1h30m", not "30m1h". */
		if (i == ARRAY_SIZE(units) || units[i].ms >= last)
			return -1;
		last = units[i].ms;
		s += len;
		if (__builtin_mul_overflow(v, last, &v) || __builtin_add_overflow(total, v, &total))
			return -1;
	}
	*ret_ms = total;
	return 0;
}

char *format_size(uint64_t bytes)
{
	static const char units[] = "KMGT";
	double v = (double)bytes;
	int u = -1;

	while (v >= 1024 && u < 3) {
		v /= 1024;
		u++;
	}
	if (u < 0)
		return str_printf("%llu", (unsigned long long)bytes);
	if (v >= 10 || v == (double)(uint64_t)v)
		return str_printf("%.0f%c", v, units[u]);
	return str_printf("%.1f%c", v, units[u]);
}

char *format_duration(uint64_t ms)
{
	uint64_t s = ms / 1000;

	if (ms < 1000)
		return str_printf("%llums", (unsigned long long)ms);
	if (s < 60)
		return str_printf("%.1fs", (double)ms / 1000);
	if (s < 3600)
		return str_printf(
			"%llum%02llus", (unsigned long long)s / 60, (unsigned long long)s % 60);
	if (s < 24 * 3600)
		return str_printf("%lluh%02llum", (unsigned long long)s / 3600,
			(unsigned long long)s / 60 % 60);
	return str_printf(
		"%llud%02lluh", (unsigned long long)s / 86400, (unsigned long long)s / 3600 % 24);
}

/* --- names -------------------------------------------------------------------------------------*/

/* How many single changes make b of a; neighbours that changed places count as one. */
static unsigned edit_distance(const char *a, const char *b)
{
	enum { MOST = 40 };
	size_t n = strlen(a), m = strlen(b);
	unsigned d[MOST + 1][MOST + 1];

	if (n > MOST || m > MOST)
		return MOST;
	for (size_t i = 0; i <= n; i++) {
		for (size_t j = 0; j <= m; j++) {
			if (!i || !j) {
				d[i][j] = (unsigned)(i + j);
				continue;
			}
			d[i][j] = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			d[i][j] = MIN(d[i][j], MIN(d[i - 1][j], d[i][j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[n][m];
}

const char *str_nearest(const char *word, const char *const *names, size_t n)
{
	const char *best = NULL;
	/* A third of the word may be wrong; of a short one, one letter. */
	unsigned least = (unsigned)MAX(strlen(word) / 3, (size_t)1) + 1;

	for (size_t i = 0; i < n; i++) {
		unsigned distance = edit_distance(word, names[i]);
		/* "env_vars", "environment", "work": the one begins with the other. */
		size_t shorter = MIN(strlen(word), strlen(names[i]));
		if (shorter >= 3 && !strncmp(word, names[i], shorter))
			distance = MIN(distance, 1u);
		if (distance < least) {
			least = distance;
			best = names[i];
		}
	}
	return best;
}
