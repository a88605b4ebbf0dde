#include "orchestrator/image_building.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/cpio.h"
#include "orchestrator/image_kernel.h"
#include "orchestrator/image_root.h"

#define TOOL_TIMEOUT_MS 600000

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

/* vmlinux and modules of the distribution's kernel, in the cache. */
static int unpack_stock(
	struct image_building *b, const char *deb, const char *to, struct error **err)
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

static int make_stock(struct image_building *b, struct error **err)
{
	_cleanup_free_ char *temp = str_printf("%s.XXXXXX", b->kernel_dir);
	struct arg_list args = {0};

	if (access(b->kernel_file, R_OK) == 0)
		return 0;
	arg_add(&args, b->script);
	arg_add(&args, "fetch");
	arg_add(&args, b->options->cache_dir);
	arg_add(&args, IMAGE_STOCK_PACKAGE);
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

static int make_kernel(struct image_building *b, struct error **err)
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

static int make_root(struct image_building *b, struct error **err)
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
			build_step(b, 2, "installing %zu packages%s", n,
				n > 20 ? " (about a minute)" : "");
		else
			build_step(b, 2, "installing packages");
		if (image_root_install(&root, err) < 0)
			return -1;
	} else {
		build_step(b, 2, "packages: none, the root is %s", b->options->root);
	}
	build_step(b, 3, "making the root file system");
	if (image_root_pack(&root, b->options->root, err) < 0)
		return -1;
	if (chmod(output, 0444) < 0)
		return error_errno(err, errno, "%s", output);
	return 0;
}

static void add_packages(struct image_building *b, char *text)
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
static void list_packages(struct image_building *b)
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

static int add_modules(struct image_building *b, struct cpio *cpio, struct error **err)
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
static int make_initramfs(struct image_building *b, struct error **err)
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

static int keep_file(struct image_building *b, enum image_file which, struct error **err)
{
	const char *const old[IMAGE_FILES] = {b->old->kernel, b->old->initramfs, b->old->root};
	_cleanup_free_ char *to = str_printf("%s/%s", b->temp, b->old_manifest.files[which].name);

	return image_tools_share_file(old[which], to, err);
}

int image_parts_make(struct image_building *b, struct error **err)
{
	if (build_unchanged(b, INPUT_KERNEL)) {
		build_step(
			b, 1, "kernel: kept (%s %s)", b->old->kernel_kind, b->old->kernel_release);
		b->manifest.kernel_release = xstrdup(b->old->kernel_release);
		/* Its modules are wanted again with a new worker. */
		if ((b->kernel_dir && !build_unchanged(b, INPUT_INITRAMFS) &&
			    make_stock(b, err) < 0) ||
			keep_file(b, IMAGE_KERNEL, err) < 0)
			return -1;
	} else {
		build_step(b, 1, "kernel: %s",
			b->kernel_dir ? "the distribution's (unpacking, not installing it)"
				      : b->kernel_kind);
		if (make_kernel(b, err) < 0)
			return -1;
	}
	if (build_unchanged(b, INPUT_ROOT)) {
		build_step(b, 2, "packages: kept");
		build_step(b, 3, "root file system: kept");
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
	if (build_unchanged(b, INPUT_INITRAMFS)) {
		build_step(b, 4, "initramfs: kept");
		return keep_file(b, IMAGE_INITRAMFS, err);
	}
	build_step(b, 4, "initramfs with the worker");
	return make_initramfs(b, err);
}
