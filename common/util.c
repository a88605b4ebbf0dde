#include "common/util.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

static void die_no_memory(void)
{
	static const char text[] = "out of memory\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(125);
	abort();
}

void *xmalloc(size_t size)
{
	void *p = malloc(size ? size : 1);

	if (!p)
		die_no_memory();
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (!p)
		die_no_memory();
	return p;
}

void *xreallocarray(void *p, size_t n, size_t size)
{
	void *q = reallocarray(p, n ? n : 1, size ? size : 1);

	if (!q)
		die_no_memory();
	return q;
}

void *xmemdup(const void *p, size_t size)
{
	void *q = xmalloc(size);

	if (size)
		memcpy(q, p, size);
	return q;
}

char *xstrdup(const char *s)
{
	return s ? xmemdup(s, strlen(s) + 1) : NULL;
}

char *xstrndup(const char *s, size_t n)
{
	char *p = strndup(s, n);

	if (!p)
		die_no_memory();
	return p;
}

char *str_vprintf(const char *fmt, va_list ap)
{
	char *s = NULL;

	if (vasprintf(&s, fmt, ap) < 0)
		die_no_memory();
	return s;
}

char *str_printf(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	char *s = str_vprintf(fmt, ap);
	va_end(ap);
	return s;
}

void close_fd(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

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

static uint64_t clock_usec(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t now_mono_usec(void)
{
	return clock_usec(CLOCK_MONOTONIC);
}

uint64_t now_real_usec(void)
{
	return clock_usec(CLOCK_REALTIME);
}

void sleep_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

int write_all(int fd, const void *buf, size_t n)
{
	const char *p = buf;

	while (n) {
		ssize_t w = write(fd, p, n);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			return -1;
		}
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

char *read_file(const char *path, size_t cap, size_t *ret_size, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buf = NULL;
	size_t size = 0, room = 0;

	if (fd < 0) {
		error_errno(err, errno, "%s", path);
		return NULL;
	}
	for (;;) {
		if (room - size < 4096) {
			room = MAX(room * 2, (size_t)8192);
			buf = xreallocarray(buf, room, 1);
		}
		ssize_t r = read(fd, buf + size, room - size - 1);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			error_errno(err, errno, "%s", path);
			return NULL;
		}
		if (r == 0)
			break;
		size += (size_t)r;
		if (size > cap) {
			error_set(err, ERR_LIMIT, "%s: larger than %zu bytes", path, cap);
			return NULL;
		}
	}
	buf[size] = 0;
	if (ret_size)
		*ret_size = size;
	return steal_ptr(buf);
}

static int sync_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir =
		slash ? xstrndup(path, slash == path ? 1 : (size_t)(slash - path)) : xstrdup(".");
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -1 : fsync(fd);
}

int write_file(
	const char *path, const void *buf, size_t n, mode_t mode, bool durable, struct error **err)
{
	_cleanup_free_ char *tmp = str_printf("%s.XXXXXX", path);
	_cleanup_close_ int fd = mkostemp(tmp, O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	if (write_all(fd, buf, n) < 0 || fchmod(fd, mode) < 0 || (durable && fsync(fd) < 0) ||
		rename(tmp, path) < 0 || (durable && sync_parent(path) < 0)) {
		error_errno(err, errno, "%s", path);
		unlink(tmp);
		return -1;
	}
	return 0;
}

int make_dirs(const char *path, mode_t mode, struct error **err)
{
	_cleanup_free_ char *p = xstrdup(path);
	struct stat st;

	for (char *s = p + 1;; s++) {
		if (*s && *s != '/')
			continue;
		char c = *s;
		*s = 0;
		if (mkdir(p, mode) < 0 && errno != EEXIST)
			return error_errno(err, errno, "%s", p);
		*s = c;
		if (!c)
			break;
	}
	if (stat(path, &st) < 0)
		return error_errno(err, errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return error_errno(err, ENOTDIR, "%s", path);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

int remove_tree(const char *path, struct error **err)
{
	if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		return error_errno(err, errno, "%s", path);
	return 0;
}

int fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -1;
	return fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

char *install_prefix(void)
{
	char buf[4096];
	ssize_t n = readlink("/proc/self/exe", buf, sizeof(buf) - 1);

	if (n < 0)
		return xstrdup("/usr");
	buf[n] = 0;
	for (int i = 0; i < 2; i++) {
		char *slash = strrchr(buf, '/');
		if (slash)
			*slash = 0;
	}
	return xstrdup(buf[0] ? buf : "/");
}

void random_bytes(void *p, size_t n)
{
	char *b = p;

	while (n) {
		ssize_t r = getrandom(b, n, 0);
		if (r < 0 && errno != EINTR)
			abort();
		if (r > 0) {
			b += r;
			n -= (size_t)r;
		}
	}
}
