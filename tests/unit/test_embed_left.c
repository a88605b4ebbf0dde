/* What libvirt's embedded driver left of VMs: of which it goes, and of which it stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"
#include "orchestrator/embed_left.h"

enum { STAYS = 1, DIRECTORY = 2 };

static char root[] = "/tmp/test_embed_left.XXXXXX";

static void make(const char *name, bool directory)
{
	_cleanup_free_ char *path = str_printf("%s/%s", root, name);
	_cleanup_free_ char *dir = str_printf("%.*s", (int)(strrchr(path, '/') - path), path);

	assert_int_equal(make_dirs(directory ? path : dir, 0700, NULL), 0);
	if (!directory)
		assert_int_equal(write_file(path, "x", 1, 0600, false, NULL), 0);
}

static bool is_there(const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", root, name);

	return access(path, F_OK) == 0;
}

static void what_is_of_nobody_goes(void **state)
{
	static const char *const keep[] = {"vm-11111111", "vm-22223333"};
	static const struct {
		const char *name;
		unsigned is;
	} table[] = {
		{"run/qemu/vm-11111111.xml", STAYS},
		{"run/qemu/vm-11111111.pid", STAYS},
		{"run/qemu/vm-22222222.xml", 0},
		{"run/qemu/vm-22222222.pid", 0},
		{"run/qemu/driver.pid", STAYS},
		{"run/qemu/elsevm-22222222.xml", STAYS},
		/* Cut by libvirt: the beginning says enough. */
		{"lib/qemu/domain-2-vm-1111", DIRECTORY | STAYS},
		{"lib/qemu/domain-3-vm-2222", DIRECTORY | STAYS},
		{"lib/qemu/domain-4-vm-4444", DIRECTORY},
		{"lib/qemu/domain-4-vm-4444/monitor.sock", 0},
		{"lib/qemu/channel/target/domain-4-vm-4444", DIRECTORY},
		{"lib/qemu/ram/4-vm-4444", DIRECTORY},
		{"log/qemu/vm-44444444.log", 0},
		{"log/qemu/vm-22223333.log", STAYS},
	};

	(void)state;
	assert_false(embed_left_any(root));
	embed_left_sweep(root, keep, ARRAY_SIZE(keep)); /* there is nothing yet */
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		make(table[i].name, table[i].is & DIRECTORY);
	embed_left_sweep(root, keep, ARRAY_SIZE(keep));
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (is_there(table[i].name) != !!(table[i].is & STAYS))
			fail_msg("%s", table[i].name);
	assert_true(embed_left_any(root));
	embed_left_remove_log(root, "vm-22223333");
	assert_false(is_there("log/qemu/vm-22223333.log"));
	embed_left_sweep(root, NULL, 0);
	assert_false(embed_left_any(root));
}

static void a_probe_goes(void **state)
{
	(void)state;
	embed_left_end_probes("/none"); /* there is no such place */
	make("lib/qemu/qmp-AbC123/qmp.pid", false);
	make("lib/qemu/domain-9-vm-9999", true);
	embed_left_end_probes(root);
	assert_false(is_there("lib/qemu/qmp-AbC123"));
	assert_true(is_there("lib/qemu/domain-9-vm-9999"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_of_nobody_goes),
		cmocka_unit_test(a_probe_goes),
	};

	assert_non_null(mkdtemp(root));
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	remove_tree(root, NULL);
	return failed;
}
