/* Making an image as a whole. */
#include "tests/unit/image_fixture.h"

#include <sys/file.h>

#include "orchestrator/image.h"
#include "orchestrator/image_build.h"

static unsigned n_steps;
static void count_step(void *arg, unsigned n, unsigned of, const char *text)
{
	(void)arg;
	(void)text;
	assert_true(n >= 1 && n <= of);
	n_steps++;
}

/* An installation with a worker, a kernel file and a root directory. */
static struct image_build_options installation(char *paths[static 4])
{
	struct small_kernel k = small_kernel();

	free(put_text("prefix/libexec/orchestrator/guest-worker", "worker 1"));
	free(put_text("root/bin/tool", "a program"));
	free(put_text("root/etc/os-release", "NAME=test"));
	_cleanup_free_ char *share = in_dir("prefix/share/orchestrator");
	assert_int_equal(make_dirs(share, 0755, NULL), 0);
	_cleanup_free_ char *ours = realpath("vm-images", NULL);
	_cleanup_free_ char *link = in_dir("prefix/share/orchestrator/vm-images");
	assert_non_null(ours);
	assert_int_equal(symlink(ours, link), 0);
	paths[0] = put("kernel", &k, sizeof(k));
	paths[1] = in_dir("root");
	paths[2] = in_dir("images");
	paths[3] = in_dir("prefix");
	return (struct image_build_options){.name = "mine",
		.root = paths[1],
		.kernel_choice = KERNEL_FILE,
		.kernel = paths[0],
		.image_dir = paths[2],
		.cache_dir = paths[2],
		.prefix = paths[3],
		.on_step = count_step};
}

static ino_t inode_of(const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/images/mine/%s", dir, name);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static char *build_digest(const struct image_build_options *o, bool up_to_date)
{
	struct image_build_result result;
	struct error *err = NULL;

	n_steps = 0;
	if (image_build(o, &result, &err) < 0)
		fail_msg("%s", err->text);
	assert_int_equal(result.up_to_date, up_to_date);
	assert_int_equal(n_steps, up_to_date ? 0 : 5);
	assert_string_equal(result.kernel_release, "6.1.7-test");
	char *digest = steal_ptr(result.digest);
	image_build_result_clear(&result);
	return digest;
}

/* Namespaces may be forbidden here; then none of this can be seen. */
static bool can_build(void)
{
	char *argv[] = {(char *)(uintptr_t) "unshare", (char *)(uintptr_t) "--mount",
		(char *)(uintptr_t) "true", NULL};

	if (image_root_check(false, NULL) < 0)
		return false;
	return geteuid() != 0 || image_tools_run(&tools, "trying", argv, -1, -1, 60000, NULL) == 0;
}

static void only_what_changed_is_made_again(void **state)
{
	char *paths[4];

	(void)state;
	if (!can_build())
		skip();
	struct image_build_options o = installation(paths);
	_cleanup_free_ char *first = build_digest(&o, false);
	_cleanup_free_ char *same = build_digest(&o, true);
	assert_string_equal(first, same);
	/* The same inputs give the same bytes. */
	o.force = true;
	_cleanup_free_ char *forced = build_digest(&o, false);
	assert_string_equal(first, forced);
	o.force = false;

	ino_t root = inode_of("root.erofs"), kernel = inode_of("kernel"),
	      initramfs = inode_of("initramfs");
	free(put_text("prefix/libexec/orchestrator/guest-worker", "worker 2"));
	_cleanup_free_ char *new_worker = build_digest(&o, false);
	assert_string_not_equal(first, new_worker);
	assert_int_equal(inode_of("root.erofs"), root);
	assert_int_equal(inode_of("kernel"), kernel);
	assert_int_not_equal(inode_of("initramfs"), initramfs);

	/* Without a root or recipe named, the root stays what it is. */
	o.root = NULL;
	_cleanup_free_ char *kept = build_digest(&o, true);
	assert_string_equal(kept, new_worker);

	o.root = paths[1];
	free(put_text("root/bin/tool", "another program"));
	_cleanup_free_ char *new_root = build_digest(&o, false);
	assert_string_not_equal(new_root, new_worker);
	assert_int_not_equal(inode_of("root.erofs"), root);

	struct error *err = NULL;
	_cleanup_free_ char *image_dir = in_dir("images/mine");
	struct image *image = image_load(image_dir, "mine", &err);
	assert_non_null(image);
	assert_int_equal(image_verify(image, &err), 0);
	assert_string_equal(image->kernel_kind, "custom");
	image_free(image);
	/* Nothing is left of the making, and the user's directory is as it was. */
	_cleanup_free_ char *work = in_dir("images/.mine.work"), *temp = in_dir("images/.mine.new");
	_cleanup_free_ char *untouched = in_dir("root/etc/passwd");
	assert_int_equal(access(work, F_OK), -1);
	assert_int_equal(access(temp, F_OK), -1);
	assert_int_equal(access(untouched, F_OK), -1);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

static void a_failed_build_leaves_the_old_image(void **state)
{
	struct image_build_result result;
	struct error *err = NULL;
	char *paths[4];

	(void)state;
	if (!can_build())
		skip();
	struct image_build_options o = installation(paths);
	_cleanup_free_ char *first = build_digest(&o, false);
	/* What a killed build left is no obstacle. */
	free(put_text("images/.mine.new/kernel", "half"));
	free(put_text("images/.mine.work/tree/x", "half"));
	_cleanup_free_ char *tarball = put_text("broken.tar", "this is no tar file");
	o.root = tarball;
	assert_int_equal(image_build(&o, &result, &err), -1);
	image_build_result_clear(&result);
	assert_non_null(strstr(err->text, "image-mine.log"));
	assert_non_null(strstr(err->text, "pack-root failed"));
	fails_with(err, ERR_UNKNOWN, "making the root file system");
	o.root = paths[1];
	_cleanup_free_ char *still = build_digest(&o, true);
	assert_string_equal(first, still);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

/* Links in a foreign root lead nowhere outside it. */
static void a_hostile_root_touches_nothing_outside(void **state)
{
	static const char *const links[] = {
		"dev", "proc", "sys", "run", "tmp", "etc", "home", "var"};
	char *paths[4];

	(void)state;
	if (!can_build())
		skip();
	struct image_build_options o = installation(paths);
	_cleanup_free_ char *outside = put_text("outside/precious", "keep me");
	_cleanup_free_ char *target = in_dir("outside"), *etc = in_dir("root/etc");
	assert_int_equal(remove_tree(etc, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		_cleanup_free_ char *link = str_printf("%s/root/%s", dir, links[i]);
		assert_int_equal(symlink(target, link), 0);
	}
	_cleanup_free_ char *digest = build_digest(&o, false);
	_cleanup_free_ char *passwd = in_dir("outside/passwd"), *job = in_dir("outside/job");
	assert_int_equal(access(outside, F_OK), 0);
	assert_int_equal(access(passwd, F_OK), -1);
	assert_int_equal(access(job, F_OK), -1);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

static void wrong_orders_are_refused(void **state)
{
	struct image_build_result result;
	struct error *err = NULL;
	char *paths[4];

	(void)state;
	struct image_build_options o = installation(paths);
	o.name = "../mine";
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_INVALID, "an image's name");
	o.name = "mine";
	o.root = NULL;
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_NOT_FOUND, "there are: debian, minimal");
	o.root = "/nonexistent/root";
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_NOT_FOUND, "/nonexistent/root");
	o.root = paths[1];
	_cleanup_free_ char *text_kernel = put_text("text", "this is no kernel");
	o.kernel = text_kernel;
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_INVALID, "not a kernel");
	o.kernel = paths[0];
	/* Another build of the same image. */
	_cleanup_free_ char *lock = in_dir("images/.mine.lock");
	_cleanup_close_ int fd = open(lock, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_STATE, "being built by another process");
	close_fd(&fd);
	_cleanup_free_ char *worker = in_dir("prefix/libexec/orchestrator/guest-worker");
	unlink(worker);
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_NOT_FOUND, worker);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(only_what_changed_is_made_again),
		TEST(a_failed_build_leaves_the_old_image),
		TEST(a_hostile_root_touches_nothing_outside),
		TEST(wrong_orders_are_refused),
	};
	return cmocka_run_group_tests_name("image_build", tests, NULL, NULL);
}
