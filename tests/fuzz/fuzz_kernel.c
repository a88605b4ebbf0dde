/* Any bytes as a kernel or a module: nothing is read or pointed to beyond them. */
#include <fcntl.h>
#include <sys/mman.h>

#include "orchestrator/image_kernel.h"
#include "tests/fuzz/fuzz.h"

static void inspect(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_close_ int fd = memfd_create("kernel", MFD_CLOEXEC);
	_cleanup_free_ char *path = str_printf("/proc/self/fd/%d", fd), *release = NULL;

	if (fd < 0 || write_all(fd, data, size) < 0)
		abort();
	if (kernel_inspect(path, &release, &err) == 0)
		must_be_harmless(release, "release");
	else
		must(err && err->code != ERR_INTERNAL, "error", err ? err->text : NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kernel_payload payload;
	_cleanup_error_ struct error *err = NULL;

	inspect(data, size);
	if (kernel_find_payload(data, size, &payload, &err) == 0)
		must(payload.offset <= size && payload.size <= size - payload.offset,
			"a payload beyond the file", payload.tool);
	_cleanup_free_ char *depends = kernel_module_depends(data, size);
	must(!depends || strlen(depends) <= size, "longer than the module", depends);
	return 0;
}
