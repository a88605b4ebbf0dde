/* Any bytes as the small files of the state directory, which may be damaged: the note about a VM,
 * which must come back as it was read, and the remembered accelerator. */
#include "orchestrator/accel.h"
#include "orchestrator/vm_note.h"
#include "tests/fuzz/fuzz.h"

static void note(const char *dir)
{
	_cleanup_error_ struct error *err = NULL;
	struct vm_note a, b;

	if (vm_note_read(dir, &a, &err) < 0) {
		must(err->code == ERR_DATA_LOSS || err->code == ERR_LIMIT, "code", err->text);
		return;
	}
	must(memchr(a.id, 0, sizeof(a.id)) && memchr(a.uuid, 0, sizeof(a.uuid)) &&
			memchr(a.image, 0, sizeof(a.image)),
		"no end", NULL);
	if (vm_note_write(dir, &a, &err) < 0 || vm_note_read(dir, &b, &err) < 0)
		must(false, "does not read back", err->text);
	must(str_eq(a.id, b.id) && a.cid == b.cid && a.qemu == b.qemu &&
			a.qemu_start == b.qemu_start &&
			!memcmp(a.secret, b.secret, sizeof(a.secret)) &&
			!memcmp(a.times, b.times, sizeof(a.times)),
		"another note", a.id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *note_path, *accel_path;

	if (!size)
		return 0;
	if (!note_path) {
		atexit(fuzz_dir_remove);
		note_path = str_printf("%s/vm.json", fuzz_dir());
		accel_path = str_printf("%s/accel.json", fuzz_dir());
	}
	bool is_note = data[0] != 'a';
	if (write_file(is_note ? note_path : accel_path, data + 1, size - 1, 0600, false, NULL) < 0)
		abort();
	if (is_note) {
		note(fuzz_dir());
		return 0;
	}
	struct accel *accel = accel_new(ACCEL_TCG, accel_path);
	enum accel_use use;
	if (accel_begin(accel, NULL, true, -1, &use, NULL) == 0)
		accel_report(accel, use, true, NULL);
	accel_free(accel);
	return 0;
}
