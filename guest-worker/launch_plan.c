#include "guest-worker/launch_plan.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/util.h"

/* Then the filter's instructions, then the root's path with its NUL. */
struct packed_setup {
	uint64_t size; /* of all */
	uint64_t n_filter;
	unsigned namespaces;
	int last_cap;
	bool cgroup;
};

uint8_t *launch_setup_pack(
	const struct job_root *root, const struct sandbox *sandbox, bool cgroup, size_t *ret_size)
{
	struct packed_setup head = {.n_filter = sandbox->filter.len,
		.namespaces = sandbox->namespaces,
		.last_cap = sandbox->last_cap,
		.cgroup = cgroup};
	size_t filter = head.n_filter * sizeof(struct sock_filter), path = strlen(root->path) + 1;

	head.size = sizeof(head) + filter + path;
	uint8_t *base = xmalloc(head.size);
	memcpy(base, &head, sizeof(head));
	memcpy(base + sizeof(head), sandbox->filter.filter, filter);
	memcpy(base + sizeof(head) + filter, root->path, path);
	*ret_size = head.size;
	return base;
}

/* Then the pointers of the three lists, each list with its NULL, as offsets from the beginning;
 * then the strings, the working directory first. */
struct packed {
	uint64_t size; /* of all */
	uint64_t n_argv, n_envp, n_programs;
	struct job_user user;
};

struct writer {
	uint8_t *base;
	char **slot; /* next pointer */
	size_t end;  /* where the next string goes */
};

static size_t count(char *const *strings, size_t *bytes)
{
	size_t n = 0;

	for (; strings[n]; n++)
		*bytes += strlen(strings[n]) + 1;
	return n;
}

static size_t put_string(struct writer *w, const char *s)
{
	size_t at = w->end, n = strlen(s) + 1;

	memcpy(w->base + at, s, n);
	w->end += n;
	return at;
}

static void put_list(struct writer *w, char *const *strings)
{
	for (; *strings; strings++)
		*w->slot++ = (char *)(uintptr_t)put_string(w, *strings);
	*w->slot++ = NULL;
}

uint8_t *launch_plan_pack(const struct launch *launch, size_t *ret_size)
{
	struct packed head = {.user = launch->user};
	size_t bytes = strlen(launch->workdir) + 1;

	head.n_argv = count(launch->argv, &bytes);
	head.n_envp = count(launch->envp, &bytes);
	head.n_programs = count(launch->programs, &bytes);
	size_t strings =
		sizeof(head) + (head.n_argv + head.n_envp + head.n_programs + 3) * sizeof(char *);
	head.size = strings + bytes;

	struct writer w = {.base = xcalloc(1, head.size), .end = strings};
	memcpy(w.base, &head, sizeof(head));
	w.slot = (char **)(void *)(w.base + sizeof(head));
	put_string(&w, launch->workdir);
	put_list(&w, launch->argv);
	put_list(&w, launch->envp);
	put_list(&w, launch->programs);
	*ret_size = head.size;
	return w.base;
}

/* At the other end. -----------------------------------------------------------------------------
 */

static int receive(int fd, uint8_t *to, size_t size)
{
	while (size) {
		ssize_t n = read(fd, to, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = ECONNRESET;
		if (n <= 0)
			return -1;
		to += n;
		size -= (size_t)n;
	}
	return 0;
}

int launch_setup_receive(int fd, struct launch_setup *ret)
{
	struct packed_setup head;

	if (receive(fd, (uint8_t *)&head, sizeof(head)) < 0)
		return -1;
	size_t rest = head.size - sizeof(head);
	uint8_t *base =
		mmap(NULL, rest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED || receive(fd, base, rest) < 0)
		return -1;
	*ret = (struct launch_setup){.cgroup = head.cgroup};
	ret->sandbox.namespaces = head.namespaces;
	ret->sandbox.last_cap = head.last_cap;
	ret->sandbox.filter.len = (unsigned short)head.n_filter;
	ret->sandbox.filter.filter = (struct sock_filter *)(void *)base;
	ret->root.path = (const char *)base + head.n_filter * sizeof(struct sock_filter);
	return 0;
}

/* From offsets to pointers; returns the list, *at moves behind it. */
static char **take_list(uint8_t *base, char ***at, size_t n)
{
	char **list = *at;

	for (size_t i = 0; i < n; i++)
		list[i] = (char *)base + (uintptr_t)list[i];
	*at = list + n + 1;
	return list;
}

int launch_plan_receive(int fd, struct launch *launch)
{
	struct packed head;

	if (receive(fd, (uint8_t *)&head, sizeof(head)) < 0)
		return -1;
	uint8_t *base =
		mmap(NULL, head.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED || receive(fd, base + sizeof(head), head.size - sizeof(head)) < 0)
		return -1;

	char **lists = (char **)(void *)(base + sizeof(head));
	launch->user = head.user;
	launch->argv = take_list(base, &lists, head.n_argv);
	launch->envp = take_list(base, &lists, head.n_envp);
	launch->programs = take_list(base, &lists, head.n_programs);
	launch->workdir = (char *)lists;
	return 0;
}
