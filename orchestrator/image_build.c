#include "orchestrator/image_build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/cpio.h"
#include "orchestrator/image.h"
#include "orchestrator/image_apt.h"
#include "orchestrator/image_kernel.h"
#include "orchestrator/image_manifest.h"
#include "orchestrator/image_recipe.h"
#include "orchestrator/image_root.h"
#include "orchestrator/image_tools.h"

#define STOCK_PACKAGE	"linux-image-cloud-amd64"
#define STEPS		5
#define TOOL_TIMEOUT_MS 600000

/* Counted up when a part made from the same inputs would be another one. */
#define REVISION_STOCK	   "1"
#define REVISION_INITRAMFS "1"
#define REVISION_ROOT	   "1"

/* What a stock kernel has to load before the worker can do its work. */
static const struct kernel_module_wish stock_modules[] = {
	/* asked for by name by libcrc32c and ext4, so not among their dependencies */
	{"crc32c_generic", "checksums"},
	{"virtio_pci", "the machine's devices"},
	{"virtio_blk", "the root disk"},
	{"erofs", "the root file system"},
	{"overlay", "a writable root"},
	{"vmw_vsock_virtio_transport", "vsock"},
	{"qemu_fw_cfg", "the VM's secret"},
	{"ext4", "a scratch disk"},
	{"virtio_console", NULL},
	{"pvpanic_mmio", NULL},
};

struct build {
	const struct image_build_options *options;
	struct image_tools tools;
	struct image_apt apt;
	char *share;  /* PREFIX/share/orchestrator/vm-images */
	char *script; /* its apt */
	char *pack_script;
	char *worker;
	char *dir;  /* of the bundle */
	char *temp; /* the new bundle while it is made */
	char *work; /* beside it, for what is not part of it */
	int lock;

	struct image *old; /* the bundle that is there; NULL: none that is whole */
	struct image_manifest old_manifest;

	struct recipe recipe;
	bool has_recipe;
	bool keep_root; /* no recipe and no root named: only kernel and worker can change */
	char *sources;	/* apt's answers */
	char *resolved;

	char *kernel_dir; /* stock: where vmlinux and modules/ are or will be; else NULL */
	char *kernel_file;
	const char *kernel_kind;

	struct image_manifest manifest; /* of the new bundle */
};

static void step(struct build *b, unsigned n, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void step(struct build *b, unsigned n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	_cleanup_free_ char *text = str_vprintf(fmt, ap);
	va_end(ap);
	if (b->options->on_step)
		b->options->on_step(b->options->arg, n, STEPS, text);
}

char *image_cache_dir(const char *prefix)
{
	const char *given = getenv("ORCHESTRATOR_CACHE_DIR");
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	_cleanup_free_ char *tree = str_printf("%s/cache", prefix);

	if (given && given[0] == '/')
		return xstrdup(given);
	if (access(tree, W_OK) == 0)
		return steal_ptr(tree);
	if (geteuid() == 0)
		return xstrdup("/var/cache/orchestrator");
	if (xdg && xdg[0] == '/')
		return str_printf("%s/orchestrator", xdg);
	return str_printf("%s/.cache/orchestrator", home ? home : "/tmp");
}

/* One build of an image at a time. The lock is inherited by the tools. */
static int take_lock(struct build *b, struct error **err)
{
	_cleanup_free_ char *path =
		str_printf("%s/.%s.lock", b->options->image_dir, b->options->name);

	b->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (b->lock < 0)
		return error_errno(err, errno, "%s", path);
	if (flock(b->lock, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return error_set(err, ERR_STATE,
				"image \"%s\" is being built by another process", b->options->name);
		return error_errno(err, errno, "%s", path);
	}
	return 0;
}

/* What is there already, if it is whole. */
static void read_old(struct build *b)
{
	_cleanup_free_ char *path = str_printf("%s/manifest.json", b->dir);
	_cleanup_free_ char *text = NULL;
	size_t size;

	b->old = image_load(b->dir, b->options->name, NULL);
	text = b->old ? read_file(path, LIMIT_MANIFEST, &size, NULL) : NULL;
	if (!text || image_manifest_parse(text, size, &b->old_manifest, NULL) < 0) {
		image_free(b->old);
		b->old = NULL;
	}
}

/* --- what the parts are to be made from ------------------------------------------------------- */

static int choose_recipe(struct build *b, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;
	_cleanup_free_ char *dir = str_printf("%s/recipes", b->share);
	_cleanup_free_ char *path = NULL;

	if (b->options->root)
		return 0;
	path = b->options->recipe ? xstrdup(b->options->recipe)
				  : recipe_find(dir, b->options->name, &why);
	if (!path && b->old) {
		b->keep_root = true;
		return 0;
	}
	if (!path)
		return error_move(err, steal_ptr(why));
	if (recipe_read(path, &b->recipe, err) < 0)
		return -1;
	b->has_recipe = true;
	return 0;
}

static char *ask_sources(struct build *b, struct error **err)
{
	struct arg_list args = {0};
	_cleanup_free_ char *answer = NULL;

	arg_add(&args, "sources");
	arg_add(&args, b->recipe.suite);
	answer = image_apt_ask(&b->apt, "asking apt for its sources", &args, err);
	arg_clear(&args);
	if (!answer)
		return NULL;
	if (!b->recipe.mirror && !strstr(answer, "source deb")) {
		error_set(err, ERR_NOT_FOUND,
			"apt on this host has no source for Debian's suite %s; name one in the "
			"recipe: "
			"mirror: ADDRESS",
			b->recipe.suite);
		return NULL;
	}
	return steal_ptr(answer);
}

static char *ask_resolved(struct build *b, struct error **err)
{
	struct arg_list args = {0};

	/* Packages of a mirror that the host's apt does not know cannot be resolved here. */
	if (b->recipe.mirror)
		return xstrdup("");
	arg_add(&args, "resolve");
	arg_add(&args, b->recipe.suite);
	arg_add(&args, recipe_variant_name(b->recipe.variant));
	for (size_t i = 0; i < b->recipe.n_packages; i++)
		arg_add(&args, b->recipe.packages[i]);
	char *answer = image_apt_ask(&b->apt, "asking apt for the packages", &args, err);
	arg_clear(&args);
	return answer;
}

static char *recipe_digest(const struct recipe *recipe)
{
	char *digest = image_tools_digest("recipe", recipe->suite,
		recipe->mirror ? recipe->mirror : "", recipe_variant_name(recipe->variant), NULL);
	char *const *lists[] = {recipe->packages, recipe->exclude};
	const size_t counts[] = {recipe->n_packages, recipe->n_exclude};

	for (size_t l = 0; l < ARRAY_SIZE(lists); l++) {
		for (size_t i = 0; i < counts[l]; i++) {
			char *next = image_tools_digest(digest, l ? "x" : "p", lists[l][i], NULL);
			free(digest);
			digest = next;
		}
	}
	for (size_t i = 0; i < recipe->n_users; i++) {
		_cleanup_free_ char *user = str_printf("%s:%u:%s", recipe->users[i]->name,
			recipe->users[i]->uid, recipe->users[i]->home);
		char *next = image_tools_digest(digest, user, NULL);
		free(digest);
		digest = next;
	}
	return digest;
}

static int choose_root(struct build *b, struct error **err)
{
	char script[65];

	if (choose_recipe(b, err) < 0)
		return -1;
	if (b->keep_root) {
		b->manifest.inputs[INPUT_ROOT] = xstrdup(b->old_manifest.inputs[INPUT_ROOT]);
		return 0;
	}
	if (file_sha256(b->pack_script, script, NULL, err) < 0)
		return -1;
	if (b->options->root) {
		_cleanup_free_ char *stamp = image_stamp(b->options->root, err);
		if (!stamp)
			return -1;
		b->manifest.inputs[INPUT_ROOT] =
			image_tools_digest("root", REVISION_ROOT, script, stamp, NULL);
		return 0;
	}
	b->sources = ask_sources(b, err);
	b->resolved = b->sources ? ask_resolved(b, err) : NULL;
	if (!b->resolved)
		return -1;
	_cleanup_free_ char *digest = recipe_digest(&b->recipe);
	b->manifest.inputs[INPUT_ROOT] =
		image_tools_digest("recipe", REVISION_ROOT, script, digest, b->resolved, NULL);
	return 0;
}

/* The project's kernel, if `make kernel` made it. */
static char *tuned_kernel(const struct build *b)
{
	_cleanup_free_ char *installed =
		str_printf("%s/share/orchestrator/kernel/vmlinux", b->options->prefix);
	_cleanup_free_ char *cached = str_printf("%s/kernel/vmlinux", b->options->cache_dir);

	if (access(installed, R_OK) == 0)
		return steal_ptr(installed);
	if (access(cached, R_OK) == 0)
		return steal_ptr(cached);
	return NULL;
}

static int choose_stock_kernel(struct build *b, struct error **err)
{
	struct arg_list args = {0};
	char package[128], version[128];

	arg_add(&args, "candidate");
	arg_add(&args, STOCK_PACKAGE);
	_cleanup_free_ char *answer = image_apt_ask(&b->apt, "asking apt for a kernel", &args, err);
	arg_clear(&args);
	if (!answer)
		return -1;
	if (sscanf(answer, "%127s %127s", package, version) != 2 || strpbrk(version, "/"))
		return error_set(err, ERR_INTERNAL, "asking apt for a kernel: no answer");
	b->kernel_kind = "stock";
	b->kernel_dir = str_printf(
		"%s/stock-%s-%s-" REVISION_STOCK, b->options->cache_dir, package, version);
	b->kernel_file = str_printf("%s/vmlinux", b->kernel_dir);
	b->manifest.inputs[INPUT_KERNEL] =
		image_tools_digest("stock", REVISION_STOCK, package, version, NULL);
	return 0;
}

static int choose_kernel(struct build *b, struct error **err)
{
	char hex[65];

	if (b->options->kernel_choice == KERNEL_FILE) {
		b->kernel_kind = "custom";
		b->kernel_file = xstrdup(b->options->kernel);
	} else if (b->options->kernel_choice == KERNEL_BEST) {
		b->kernel_kind = "tuned";
		b->kernel_file = tuned_kernel(b);
	}
	if (!b->kernel_file)
		return choose_stock_kernel(b, err);
	if (file_sha256(b->kernel_file, hex, NULL, err) < 0)
		return error_wrap(err, "the kernel");
	b->manifest.inputs[INPUT_KERNEL] = image_tools_digest(b->kernel_kind, hex, NULL);
	return 0;
}

static int choose_worker(struct build *b, struct error **err)
{
	char hex[65];

	if (access(b->worker, R_OK) < 0)
		return error_set(err, ERR_NOT_FOUND,
			"there is no worker to put into the image: %s (make worker)", b->worker);
	if (file_sha256(b->worker, hex, NULL, err) < 0)
		return -1;
	/* A stock kernel's modules are in the initramfs too. */
	b->manifest.inputs[INPUT_INITRAMFS] = image_tools_digest(REVISION_INITRAMFS, hex,
		b->kernel_dir ? b->manifest.inputs[INPUT_KERNEL] : "", NULL);
	return 0;
}

static bool unchanged(const struct build *b, enum image_input input)
{
	if (input == INPUT_ROOT && b->keep_root)
		return true;
	return b->old && !b->options->force &&
	       str_eq(b->manifest.inputs[input], b->old_manifest.inputs[input]);
}

/* --- the steps -------------------------------------------------------------------------------- */

/* vmlinux and modules of the distribution's kernel, in the cache. */
static int unpack_stock(struct build *b, const char *deb, const char *to, struct error **err)
{
	_cleanup_free_ char *tree = str_printf("%s/deb", to);
	_cleanup_free_ char *vmlinux = str_printf("%s/vmlinux", to);
	_cleanup_free_ char *modules_to = str_printf("%s/modules", to);
	_cleanup_free_ char *release = NULL;
	char *argv[] = {(char *)(uintptr_t) "dpkg-deb", (char *)(uintptr_t) "-x",
		(char *)(uintptr_t)deb, tree, NULL};

	if (image_tools_run(&b->tools, "unpacking the kernel", argv, -1, -1, TOOL_TIMEOUT_MS, err) <
		0)
		return -1;
	/* linux-image-RELEASE_VERSION_ARCH.deb */
	const char *base = strrchr(deb, '/');
	base = base ? base + 1 : deb;
	const char *end = strchr(base, '_');
	if (!str_starts(base, "linux-image-") || !end)
		return error_set(err, ERR_INTERNAL, "%s: not the name of a kernel package", base);
	release = xstrndup(base + 12, (size_t)(end - base - 12));
	_cleanup_free_ char *image = str_printf("%s/boot/vmlinuz-%s", tree, release);
	_cleanup_free_ char *modules = str_printf("%s/lib/modules/%s", tree, release);
	if (kernel_unpack(&b->tools, image, vmlinux, err) < 0 ||
		kernel_collect_modules(&b->tools, modules, stock_modules, ARRAY_SIZE(stock_modules),
			modules_to, err) < 0)
		return -1;
	chmod(vmlinux, 0444);
	return remove_tree(tree, err);
}

static int make_stock(struct build *b, struct error **err)
{
	_cleanup_free_ char *temp = str_printf("%s.XXXXXX", b->kernel_dir);
	struct arg_list args = {0};

	if (access(b->kernel_file, R_OK) == 0)
		return 0;
	arg_add(&args, b->script);
	arg_add(&args, "fetch");
	arg_add(&args, b->options->cache_dir);
	arg_add(&args, STOCK_PACKAGE);
	_cleanup_free_ char *deb = image_tools_capture(
		&b->tools, "fetching the kernel", args.items, TOOL_TIMEOUT_MS, err);
	arg_clear(&args);
	if (!deb)
		return -1;
	deb[strcspn(deb, "\n")] = 0;
	if (!mkdtemp(temp))
		return error_errno(err, errno, "%s", temp);
	if (unpack_stock(b, deb, temp, err) < 0 || chmod(temp, 0755) < 0 ||
		(rename(temp, b->kernel_dir) < 0 && access(b->kernel_file, R_OK) < 0)) {
		remove_tree(temp, NULL);
		return err && *err ? -1 : error_errno(err, errno, "%s", b->kernel_dir);
	}
	unlink(deb);
	return 0;
}

static int make_kernel(struct build *b, struct error **err)
{
	_cleanup_free_ char *to = str_printf("%s/kernel", b->temp);
	_cleanup_error_ struct error *why = NULL;

	if (b->kernel_dir && make_stock(b, err) < 0)
		return -1;
	if (kernel_inspect(b->kernel_file, &b->manifest.kernel_release, &why) == 0)
		return image_tools_share_file(b->kernel_file, to, err);
	/* Perhaps a bzImage, whose inside is what is wanted. */
	if (kernel_unpack(&b->tools, b->kernel_file, to, NULL) < 0)
		return error_move(err, steal_ptr(why));
	if (kernel_inspect(to, &b->manifest.kernel_release, err) < 0)
		return error_wrap(err, "%s", b->kernel_file);
	return chmod(to, 0444) < 0 ? error_errno(err, errno, "%s", to) : 0;
}

static int make_root(struct build *b, struct error **err)
{
	_cleanup_free_ char *output = str_printf("%s/root.erofs", b->temp);
	_cleanup_free_ char *packages = str_printf("%s/packages", b->work);
	struct image_root root = {.tools = &b->tools,
		.pack_script = b->pack_script,
		.recipe = b->has_recipe ? &b->recipe : NULL,
		.sources = b->sources,
		.work = b->work,
		.output = output,
		.packages = packages};
	size_t n = 0;

	if (image_root_check(b->has_recipe, err) < 0)
		return -1;
	if (b->has_recipe) {
		for (const char *p = b->resolved; (p = strchr(p, '\n')); p++)
			n++;
		if (n)
			step(b, 2, "installing %zu packages%s", n,
				n > 20 ? " (about a minute)" : "");
		else
			step(b, 2, "installing packages");
		if (image_root_install(&root, err) < 0)
			return -1;
	} else {
		step(b, 2, "packages: none, the root is %s", b->options->root);
	}
	step(b, 3, "making the root file system");
	if (image_root_pack(&root, b->options->root, err) < 0)
		return -1;
	if (chmod(output, 0444) < 0)
		return error_errno(err, errno, "%s", output);
	return 0;
}

static void add_packages(struct build *b, char *text)
{
	char *save = NULL;

	if (text && *text) {
		for (char *line = strtok_r(text, "\n", &save); line;
			line = strtok_r(NULL, "\n", &save)) {
			char *blank = strchr(line, ' ');
			if (!blank)
				continue;
			*blank = 0;
			image_manifest_add_package(&b->manifest, line, blank + 1);
		}
		return;
	}
}

/* From dpkg's database of the root, or, where packages were only unpacked, from what apt said. */
static void list_packages(struct build *b)
{
	_cleanup_free_ char *path = str_printf("%s/packages", b->work);
	_cleanup_free_ char *text = read_file(path, LIMIT_MANIFEST / 2, NULL, NULL);

	add_packages(b, text);
	if (b->manifest.n_packages || !b->resolved)
		return;
	_cleanup_free_ char *copy = xstrdup(b->resolved), *plain = xstrdup("");
	char *save = NULL;
	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!str_starts(line, "package "))
			continue;
		char *longer = str_printf("%s%s\n", plain, line + strlen("package "));
		free(plain);
		plain = longer;
	}
	add_packages(b, plain);
}

static int add_modules(struct build *b, struct cpio *cpio, struct error **err)
{
	_cleanup_free_ char *order_path = str_printf("%s/modules/order", b->kernel_dir);
	size_t size;
	_cleanup_free_ char *order = read_file(order_path, 64 * KIB, &size, err);
	char *save = NULL;

	if (!order || cpio_add_dir(cpio, "modules", 0755, err) < 0 ||
		cpio_add_data(cpio, "modules/order", 0444, order, size, err) < 0)
		return -1;
	for (char *line = strtok_r(order, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_cleanup_free_ char *name = str_printf("modules/%s", line);
		_cleanup_free_ char *path = str_printf("%s/modules/%s", b->kernel_dir, line);
		if (cpio_add_file(cpio, name, 0444, path, err) < 0)
			return -1;
	}
	return 0;
}

/* The worker as /init, and what it needs before it has mounted anything. Not compressed: unpacking
 * costs an emulated guest more time than QEMU takes to hand over the bytes. */
static int make_initramfs(struct build *b, struct error **err)
{
	static const char *const dirs[] = {"dev", "proc", "sys", "run", "tmp", "root", "newroot"};
	_cleanup_free_ char *path = str_printf("%s/initramfs", b->temp);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	struct cpio cpio;

	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	cpio_start(&cpio, fd);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (cpio_add_dir(&cpio, dirs[i], 0755, err) < 0)
			return -1;
	/* The kernel opens it for /init before devtmpfs can be mounted. */
	if (cpio_add_char_device(&cpio, "dev/console", 0600, 5, 1, err) < 0 ||
		cpio_add_char_device(&cpio, "dev/null", 0666, 1, 3, err) < 0 ||
		(b->kernel_dir && add_modules(b, &cpio, err) < 0) ||
		cpio_add_file(&cpio, "init", 0755, b->worker, err) < 0)
		return -1;
	return cpio_finish(&cpio, err);
}

static int keep_file(struct build *b, enum image_file which, struct error **err)
{
	const char *const old[IMAGE_FILES] = {b->old->kernel, b->old->initramfs, b->old->root};
	_cleanup_free_ char *to = str_printf("%s/%s", b->temp, b->old_manifest.files[which].name);

	return image_tools_share_file(old[which], to, err);
}

static int check_space(const struct build *b, struct error **err)
{
	uint64_t need = 160 * MIB, there;
	struct statvfs fs;

	if (!unchanged(b, INPUT_ROOT))
		need = b->has_recipe && b->recipe.variant == RECIPE_EXTRACT ? 400 * MIB : GIB;
	if (statvfs(b->options->image_dir, &fs) < 0)
		return error_errno(err, errno, "%s", b->options->image_dir);
	there = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (there >= need)
		return 0;
	_cleanup_free_ char *need_text = format_size(need), *there_text = format_size(there);
	return error_set(err, ERR_LIMIT, "%s: building needs about %s of free disk, there are %s",
		b->options->image_dir, need_text, there_text);
}

static int make_parts(struct build *b, struct error **err)
{
	if (unchanged(b, INPUT_KERNEL)) {
		step(b, 1, "kernel: kept (%s %s)", b->old->kernel_kind, b->old->kernel_release);
		b->manifest.kernel_release = xstrdup(b->old->kernel_release);
		if ((b->kernel_dir && make_stock(b, err) < 0) ||
			keep_file(b, IMAGE_KERNEL, err) < 0)
			return -1;
	} else {
		step(b, 1, "kernel: %s",
			b->kernel_dir ? "the distribution's (unpacking, not installing it)"
				      : b->kernel_kind);
		if (make_kernel(b, err) < 0)
			return -1;
	}
	if (unchanged(b, INPUT_ROOT)) {
		step(b, 2, "packages: kept");
		step(b, 3, "root file system: kept");
		for (size_t i = 0; i < b->old_manifest.n_packages; i++)
			image_manifest_add_package(&b->manifest, b->old_manifest.packages[i].name,
				b->old_manifest.packages[i].version);
		if (keep_file(b, IMAGE_ROOT, err) < 0)
			return -1;
	} else {
		if (make_root(b, err) < 0)
			return -1;
		list_packages(b);
	}
	if (unchanged(b, INPUT_INITRAMFS)) {
		step(b, 4, "initramfs: kept");
		return keep_file(b, IMAGE_INITRAMFS, err);
	}
	step(b, 4, "initramfs with the worker");
	return make_initramfs(b, err);
}

static char *now_text(void)
{
	time_t now = time(NULL);
	struct tm tm;
	char text[32];

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return xstrdup(text);
}

static int write_manifest(struct build *b, struct error **err)
{
	const char *root_name =
		unchanged(b, INPUT_ROOT) ? b->old_manifest.files[IMAGE_ROOT].name : "root.erofs";
	const char *const names[IMAGE_FILES] = {"kernel", "initramfs", root_name};
	_cleanup_free_ char *path = str_printf("%s/manifest.json", b->temp);

	step(b, 5, "digests and manifest");
	b->manifest.name = xstrdup(b->options->name);
	b->manifest.created = now_text();
	b->manifest.kernel_kind = xstrdup(b->kernel_kind);
	b->manifest.cmdline = xstrdup("");
	b->manifest.root_type =
		xstrdup(unchanged(b, INPUT_ROOT) ? b->old_manifest.root_type : "erofs");
	for (size_t i = 0; i < IMAGE_FILES; i++) {
		_cleanup_free_ char *file = str_printf("%s/%s", b->temp, names[i]);
		b->manifest.files[i].name = xstrdup(names[i]);
		if (file_sha256(
			    file, b->manifest.files[i].sha256, &b->manifest.files[i].size, err) < 0)
			return -1;
	}
	_cleanup_free_ char *text = image_manifest_format(&b->manifest);
	return write_file(path, text, strlen(text), 0444, true, err);
}

/* Put the new bundle in its place in one step, the old one (if any) where it was made. */
static int publish(struct build *b, struct error **err)
{
	_cleanup_free_ char *aside = str_printf("%s.old", b->temp);
	_cleanup_close_ int fd = open(b->temp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	/* All of it on the disk before it becomes the image. */
	if (fd < 0 || syncfs(fd) < 0)
		return error_errno(err, errno, "%s", b->temp);
	if (rename(b->temp, b->dir) == 0)
		return 0;
	if (renameat2(AT_FDCWD, b->temp, AT_FDCWD, b->dir, RENAME_EXCHANGE) == 0)
		return 0;
	/* A file system that cannot exchange. */
	if (rename(b->dir, aside) < 0 || rename(b->temp, b->dir) < 0) {
		error_errno(err, errno, "%s", b->dir);
		rename(aside, b->dir);
		return -1;
	}
	remove_tree(aside, NULL);
	return 0;
}

static int prepare(struct build *b, struct error **err)
{
	const struct image_build_options *o = b->options;
	_cleanup_free_ char *log = str_printf("%s/image-%s.log", o->cache_dir, o->name);

	if (!image_name_valid(o->name))
		return error_set(err, ERR_INVALID,
			"an image's name is lower-case letters, digits and . _ - only");
	if (make_dirs(o->image_dir, 0755, err) < 0 || make_dirs(o->cache_dir, 0755, err) < 0)
		return -1;
	b->share = str_printf("%s/share/orchestrator/vm-images", o->prefix);
	b->script = str_printf("%s/apt", b->share);
	b->pack_script = str_printf("%s/pack-root", b->share);
	b->worker = str_printf("%s/libexec/orchestrator/guest-worker", o->prefix);
	b->dir = str_printf("%s/%s", o->image_dir, o->name);
	b->temp = str_printf("%s/.%s.new", o->image_dir, o->name);
	b->work = str_printf("%s/.%s.work", o->image_dir, o->name);
	if (take_lock(b, err) < 0 || image_tools_start(&b->tools, log, b->lock, err) < 0)
		return -1;
	b->apt = (struct image_apt){.tools = &b->tools, .script = b->script, .cache = o->cache_dir};
	read_old(b);
	return choose_kernel(b, err) < 0 || choose_worker(b, err) < 0 || choose_root(b, err) < 0
		       ? -1
		       : 0;
}

static int clean(struct build *b, struct error **err)
{
	return image_root_remove(&b->tools, b->temp, err) < 0 ||
			       image_root_remove(&b->tools, b->work, err) < 0
		       ? -1
		       : 0;
}

static int make_bundle(struct build *b, struct error **err)
{
	if (check_space(b, err) < 0 || clean(b, err) < 0)
		return -1;
	if (mkdir(b->temp, 0755) < 0 || mkdir(b->work, 0755) < 0)
		return error_errno(err, errno, "%s", b->temp);
	return make_parts(b, err) < 0 || write_manifest(b, err) < 0 || publish(b, err) < 0 ? -1 : 0;
}

static int fill_result(struct build *b, struct image_build_result *ret, struct error **err)
{
	struct image *image = image_load(b->dir, b->options->name, err);

	if (!image)
		return -1;
	ret->dir = steal_ptr(image->dir);
	ret->digest = steal_ptr(image->digest);
	ret->kernel_kind = steal_ptr(image->kernel_kind);
	ret->kernel_release = steal_ptr(image->kernel_release);
	ret->size = image->size;
	image_free(image);
	return 0;
}

static void build_clear(struct build *b)
{
	image_tools_stop(&b->tools);
	image_free(b->old);
	image_manifest_clear(&b->old_manifest);
	image_manifest_clear(&b->manifest);
	recipe_clear(&b->recipe);
	free(b->share);
	free(b->script);
	free(b->pack_script);
	free(b->worker);
	free(b->dir);
	free(b->temp);
	free(b->work);
	free(b->sources);
	free(b->resolved);
	free(b->kernel_dir);
	free(b->kernel_file);
	close_fd(&b->lock);
}

int image_build(const struct image_build_options *options, struct image_build_result *ret,
	struct error **err)
{
	struct build b = {.options = options, .lock = -1, .tools = {.log = -1}};
	int r = -1;

	*ret = (struct image_build_result){0};
	if (prepare(&b, err) == 0) {
		ret->up_to_date = unchanged(&b, INPUT_KERNEL) && unchanged(&b, INPUT_INITRAMFS) &&
				  unchanged(&b, INPUT_ROOT);
		r = ret->up_to_date ? 0 : make_bundle(&b, err);
		if (!ret->up_to_date)
			clean(&b, NULL);
	}
	if (r == 0)
		r = fill_result(&b, ret, err);
	build_clear(&b);
	return r;
}

void image_build_result_clear(struct image_build_result *result)
{
	free(result->dir);
	free(result->digest);
	free(result->kernel_kind);
	free(result->kernel_release);
	*result = (struct image_build_result){0};
}
