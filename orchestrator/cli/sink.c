#include "orchestrator/cli/sink.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "common/util.h"

struct sink sink_new(int fd, bool raw)
{
	return (struct sink){.fd = fd, .escape = !raw && isatty(fd)};
}

/* write_all for an fd that somebody else may have made non-blocking. */
static int put(struct sink *sink, const char *p, size_t n)
{
	if (n)
		sink->mid_line = p[n - 1] != '\n';
	while (n) {
		ssize_t w = write(sink->fd, p, n);
		if (w < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = sink->fd, .events = POLLOUT};
			poll(&pfd, 1, -1);
		} else if (w < 0 && errno != EINTR) {
			return -1;
		} else if (w > 0) {
			p += w;
			n -= (size_t)w;
		}
	}
	return 0;
}

/* How many bytes at the end may be the beginning of something longer. */
static size_t unfinished(const unsigned char *p, size_t n)
{
	if (n && p[n - 1] == '\r')
		return 1;
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		unsigned char c = p[n - back];
		if ((c & 0xc0) == 0x80)
			continue;
		size_t len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
		return len > back ? back : 0;
	}
	return 0;
}

static int put_escaped(struct sink *sink, char *text, size_t n)
{
	size_t o = 0;

	/* "\r\n" is how some programs end a line, and does no harm; a lone \r hides what stood
	 * there. */
	for (size_t i = 0; i < n; i++)
		if (text[i] != '\r' || i + 1 == n || text[i + 1] != '\n')
			text[o++] = text[i];
	_cleanup_free_ char *escaped = str_escape(text, o, true);
	return put(sink, escaped, strlen(escaped));
}

int sink_write(struct sink *sink, const void *data, size_t n)
{
	if (!sink->escape)
		return put(sink, data, n);
	if (!n)
		return 0;
	_cleanup_free_ char *text = xmalloc(sink->n_held + n);
	memcpy(text, sink->held, sink->n_held);
	memcpy(text + sink->n_held, data, n);
	n += sink->n_held;
	sink->n_held = unfinished((const unsigned char *)text, n);
	memcpy(sink->held, text + n - sink->n_held, sink->n_held);
	return put_escaped(sink, text, n - sink->n_held);
}

int sink_end(struct sink *sink)
{
	size_t n = sink->n_held;

	sink->n_held = 0;
	return n ? put_escaped(sink, sink->held, n) : 0;
}
