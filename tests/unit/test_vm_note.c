/* The note that a daemon leaves to the next one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/vm_note.h"

static char dir[] = "/tmp/vm-note-test-XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir, NULL);
}

static void what_is_written_is_read(void **state)
{
	struct vm_note note = {.attempt = 3,
		.id = "vm-12345678",
		.uuid = "12345678-0000-4000-8000-000000000000",
		.image = "debian",
		.image_digest = "sha256:00",
		.cid = 0xfffffff0,
		.vsock_kind = VSOCK_DEVICE_USER,
		.kvm = true,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.cpus = 2,
		.memory_bytes = UINT64_C(1) << 40,
		.started_usec = UINT64_C(1790000000000000),
		.device = 77,
		.qemu = 78,
		.device_start = 1234567890123,
		.qemu_start = 1,
		.cancelled = "cancelled by its user"};
	struct vm_note back;

	(void)state;
	memset(note.secret, 0xa5, sizeof(note.secret));
	for (size_t i = 0; i < STAGES; i++)
		note.times[i] = UINT64_C(1790000000000000) + i;
	assert_int_equal(vm_note_write(dir, &note, NULL), 0);
	assert_int_equal(vm_note_read(dir, &back, NULL), 0);
	assert_int_equal(back.attempt, 3);
	assert_string_equal(back.id, note.id);
	assert_string_equal(back.uuid, note.uuid);
	assert_string_equal(back.image, note.image);
	assert_string_equal(back.image_digest, note.image_digest);
	assert_memory_equal(back.secret, note.secret, sizeof(note.secret));
	assert_string_equal(back.cancelled, note.cancelled);
	assert_int_equal(back.cid, note.cid);
	assert_int_equal(back.vsock_kind, note.vsock_kind);
	assert_true(back.kvm);
	assert_int_equal(back.uid, (uid_t)-1);
	assert_int_equal(back.gid, (gid_t)-1);
	assert_int_equal(back.cpus, 2);
	assert_true(back.memory_bytes == note.memory_bytes);
	assert_true(back.started_usec == note.started_usec);
	assert_int_equal(back.device, 77);
	assert_int_equal(back.qemu, 78);
	assert_true(back.device_start == note.device_start);
	assert_int_equal(back.qemu_start, 1);
	assert_memory_equal(back.times, note.times, sizeof(note.times));

	vm_note_remove(dir);
	_cleanup_error_ struct error *err = NULL;
	assert_int_equal(vm_note_read(dir, &back, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
}

static void what_is_not_a_note_is_refused(void **state)
{
	static const char *const texts[] = {
		"", "{", "[]", "{}", "{\"attempt\": \"1\"}", "{\"attempt\": 1, \"id\": \"vm-1\"}"};
	_cleanup_free_ char *path = str_printf("%s/vm.json", dir);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		_cleanup_error_ struct error *err = NULL;
		struct vm_note back;

		assert_int_equal(
			write_file(path, texts[i], strlen(texts[i]), 0600, false, NULL), 0);
		assert_int_equal(vm_note_read(dir, &back, &err), -1);
		assert_int_equal(err->code, ERR_DATA_LOSS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(what_is_not_a_note_is_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
