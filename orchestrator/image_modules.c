/* The modules a kernel needs before it has a root: found by name in its directory, their
 * dependencies read from the modules themselves (modules.dep is made at installation only, and
 * nothing is installed here). */
#include "orchestrator/image_kernel.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"

#define UNPACK_TIMEOUT_MS 60000
#define LIMIT_MODULES	  20000 /* in a kernel's directory */
#define LIMIT_DEPTH	  32	/* of dependencies */

struct module {
	char *name; /* with _ for - */
	char *path;
	bool taken;
};

struct collection {
	struct image_tools *tools; /* borrowed */
	struct module *modules;
	size_t n;
	char *builtin; /* the text of modules.builtin; NULL: there is none */
	const char *to;
	char *order; /* what was taken, a line each */
};

char *kernel_module_depends(const uint8_t *module, size_t size)
{
	static const char key[] = "depends=";
	Elf64_Ehdr elf;

	if (size < sizeof(elf) || memcmp(module, ELFMAG, SELFMAG) != 0)
		return NULL;
	memcpy(&elf, module, sizeof(elf));
	if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_type != ET_REL)
		return NULL;
	/* .modinfo is a row of texts, each ended by NUL; this one stands in every module. */
	const uint8_t *p = module, *end = module + size;
	while ((p = memmem(p, (size_t)(end - p), key, sizeof(key) - 1))) {
		const uint8_t *value = p + sizeof(key) - 1;
		const uint8_t *stop = memchr(value, 0, (size_t)(end - value));
		if (stop && p > module && p[-1] == 0)
			return xstrndup((const char *)value, (size_t)(stop - value));
		p = value;
	}
	return NULL;
}

/* "kernel/fs/foo-bar.ko.xz" to "foo_bar"; NULL: no module. */
static char *module_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	const char *dot = strstr(base, ".ko");

	if (!dot || (dot[3] && dot[3] != '.'))
		return NULL;
	char *name = xstrndup(base, (size_t)(dot - base));
	for (char *p = name; *p; p++)
		if (*p == '-')
			*p = '_';
	return name;
}

static int find_modules(struct collection *c, const char *from, struct error **err)
{
	char *const roots[] = {(char *)(uintptr_t)from, NULL};
	FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;

	if (!walk)
		return error_errno(err, errno, "%s", from);
	while ((entry = fts_read(walk))) {
		char *name = entry->fts_info == FTS_F ? module_name(entry->fts_path) : NULL;
		if (!name)
			continue;
		if (c->n >= LIMIT_MODULES) {
			free(name);
			break;
		}
		c->modules = xreallocarray(c->modules, c->n + 1, sizeof(*c->modules));
		c->modules[c->n++] =
			(struct module){.name = name, .path = xstrdup(entry->fts_path)};
	}
	fts_close(walk);
	if (!c->n)
		return error_set(err, ERR_INVALID, "%s: there are no modules", from);
	return 0;
}

static struct module *find(const struct collection *c, const char *name)
{
	for (size_t i = 0; i < c->n; i++)
		if (str_eq(c->modules[i].name, name))
			return &c->modules[i];
	return NULL;
}

static bool built_in(const struct collection *c, const char *name)
{
	_cleanup_free_ char *text = xstrdup(c->builtin ? c->builtin : "");
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_cleanup_free_ char *known = module_name(line);
		if (known && str_eq(known, name))
			return true;
	}
	return false;
}

static int copy_module(
	struct collection *c, const struct module *module, const char *to, struct error **err)
{
	static const struct {
		const char *ending, *tool;
	} forms[] = {{".xz", "xz"}, {".zst", "zstd"}, {".gz", "gzip"}};
	size_t n = strlen(module->path);

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		if (n < strlen(forms[i].ending) ||
			!str_eq(module->path + n - strlen(forms[i].ending), forms[i].ending))
			continue;
		_cleanup_close_ int in = open(module->path, O_RDONLY | O_CLOEXEC);
		_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		char *argv[] = {(char *)(uintptr_t)forms[i].tool, (char *)(uintptr_t) "-dc", NULL};
		if (in < 0 || out < 0)
			return error_errno(err, errno, "%s", in < 0 ? module->path : to);
		if (image_tools_need(&forms[i].tool, 1, err) < 0)
			return -1;
		return image_tools_run(
			c->tools, "unpacking a module", argv, in, out, UNPACK_TIMEOUT_MS, err);
	}
	return image_tools_share_file(module->path, to, err);
}

static int take(struct collection *c, const char *name, unsigned depth, struct error **err);

static int take_all_of(struct collection *c, char *names, unsigned depth, struct error **err)
{
	char *save = NULL;

	for (char *name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		for (char *p = name; *p; p++)
			if (*p == '-')
				*p = '_';
		if (take(c, name, depth + 1, err) < 0)
			return -1;
	}
	return 0;
}

/* The module behind all it depends on. */
static int take(struct collection *c, const char *name, unsigned depth, struct error **err)
{
	struct module *module = find(c, name);
	size_t size;

	if (!module && built_in(c, name))
		return 0;
	if (!module)
		return error_set(err, ERR_NOT_FOUND, "no module %s", name);
	if (module->taken)
		return 0;
	if (depth > LIMIT_DEPTH)
		return error_set(err, ERR_INVALID, "modules that depend on each other");
	module->taken = true;
	_cleanup_free_ char *to = str_printf("%s/%s.ko", c->to, name);
	if (copy_module(c, module, to, err) < 0)
		return -1;
	_cleanup_free_ char *data = read_file(to, LIMIT_MODULE, &size, err);
	if (!data)
		return -1;
	_cleanup_free_ char *depends = kernel_module_depends((const uint8_t *)data, size);
	if (!depends)
		return error_set(err, ERR_INVALID, "%s: not a module", module->path);
	if (take_all_of(c, depends, depth, err) < 0)
		return error_wrap(err, "module %s", name);
	char *longer = str_printf("%s%s.ko\n", c->order, name);
	free(c->order);
	c->order = longer;
	return 0;
}

static int take_wishes(
	struct collection *c, const struct kernel_module_wish *wishes, size_t n, struct error **err)
{
	for (size_t i = 0; i < n; i++) {
		if (!wishes[i].why && !find(c, wishes[i].name))
			continue;
		if (take(c, wishes[i].name, 0, err) < 0)
			return error_wrap(
				err, "for %s", wishes[i].why ? wishes[i].why : wishes[i].name);
	}
	return 0;
}

int kernel_collect_modules(struct image_tools *tools, const char *from,
	const struct kernel_module_wish *wishes, size_t n, const char *to, struct error **err)
{
	struct collection c = {.tools = tools, .to = to, .order = xstrdup("")};
	_cleanup_free_ char *builtin = str_printf("%s/modules.builtin", from);
	_cleanup_free_ char *order = str_printf("%s/order", to);
	int r = -1;

	c.builtin = read_file(builtin, 4 * MIB, NULL, NULL);
	if (make_dirs(to, 0755, err) == 0 && find_modules(&c, from, err) == 0 &&
		take_wishes(&c, wishes, n, err) == 0)
		r = write_file(order, c.order, strlen(c.order), 0644, false, err);
	for (size_t i = 0; i < c.n; i++) {
		free(c.modules[i].name);
		free(c.modules[i].path);
	}
	free(c.modules);
	free(c.builtin);
	free(c.order);
	return r;
}
