/* Any bytes as a guest's console: what is kept is capped, what is shown is harmless. */
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include "common/sock.h"
#include "orchestrator/vm_watch.h"
#include "tests/fuzz/fuzz.h"

#define CAP 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vm_watcher *watcher;
	static struct endpoint ep;
	static char file[sizeof(ep.path) + 8];
	struct vm_watch_state state;
	struct stat st;

	if (!watcher) {
		atexit(fuzz_dir_remove);
		watcher = vm_watcher_new(NULL);
		snprintf(ep.path, sizeof(ep.path), "%s/s", fuzz_dir());
		snprintf(file, sizeof(file), "%s/console", fuzz_dir());
	}
	int listen_fd = sock_listen(&ep, 4, 0600, NULL);
	int file_fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct vm_watch *vm = vm_watch_new(watcher, listen_fd, file_fd, CAP, false, NULL);
	_cleanup_close_ int fd = sock_connect(&ep, 5000, NULL);
	if (!vm || fd < 0 || write_all(fd, data, size) < 0)
		abort();
	do {
		sched_yield();
		vm_watch_get(vm, &state);
	} while (state.bytes < size);
	must(memchr(state.panic, 0, sizeof(state.panic)) != NULL, "no end", NULL);
	must_be_harmless(state.panic, "panic");
	_cleanup_free_ char *tail = vm_watch_tail(vm, 300);
	if (tail)
		must_be_harmless(tail, "tail");
	vm_watch_free(vm);
	must(stat(file, &st) == 0 && st.st_size <= CAP, "console.log beyond its cap", file);
	unlink(ep.path);
	return 0;
}
