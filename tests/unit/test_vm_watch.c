/* A child process plays QEMU: it connects to the console's socket, talks, and ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/loop.h"
#include "orchestrator/vm_watch.h"

struct fixture {
	char dir[32];
	struct endpoint ep;
	char file[64];
	struct vm_watcher *watcher;
	struct vm_watch *vm;
};

static void begin(struct fixture *f, uint64_t cap)
{
	memset(f, 0, sizeof(*f));
	strcpy(f->dir, "/tmp/test_vm_watch.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->ep.path, sizeof(f->ep.path), "%s/s", f->dir);
	snprintf(f->file, sizeof(f->file), "%s/console", f->dir);
	f->watcher = vm_watcher_new(NULL);
	assert_non_null(f->watcher);
	int listen_fd = sock_listen(&f->ep, 4, 0600, NULL);
	int file_fd = open(f->file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(listen_fd >= 0 && file_fd >= 0);
	f->vm = vm_watch_new(f->watcher, listen_fd, file_fd, cap, true, NULL);
	assert_non_null(f->vm);
}

static void end(struct fixture *f)
{
	vm_watch_free(f->vm);
	vm_watcher_free(f->watcher);
	remove_tree(f->dir, NULL);
}

/* Says each text, then waits to be killed, or ends with this code. */
static pid_t play_qemu(const struct fixture *f, const char *text, int exit_code)
{
	pid_t pid = fork();

	if (pid == 0) {
		int fd = sock_connect(&f->ep, 5000, NULL);
		if (fd < 0 || write_all(fd, text, strlen(text)) < 0)
			_exit(99);
		if (exit_code < 0)
			pause();
		_exit(exit_code);
	}
	return pid;
}

static void wait_for(
	struct fixture *f, bool (*met)(const struct vm_watch_state *), struct vm_watch_state *ret)
{
	struct pollfd pfd = {.fd = vm_watch_fd(f->vm), .events = POLLIN};
	eventfd_t seen;

	for (;;) {
		vm_watch_get(f->vm, ret);
		if (met(ret))
			return;
		assert_int_equal(poll(&pfd, 1, 20000), 1);
		eventfd_read(pfd.fd, &seen);
	}
}

static bool ended(const struct vm_watch_state *s)
{
	return s->qemu_ended;
}

static bool ready(const struct vm_watch_state *s)
{
	return s->ready;
}

static void console_is_kept_and_understood(void **state)
{
	struct vm_watch_state s;
	struct fixture f;

	(void)state;
	begin(&f, 4096);
	pid_t pid = play_qemu(&f, "boot\r\norchestrator-worker: ready\r\n", -1);
	wait_for(&f, ready, &s);
	assert_int_equal(s.qemu_pid, pid);
	assert_false(s.panicked);
	assert_false(s.qemu_ended);
	assert_int_equal(vm_watch_wait_end(f.vm, 10), -1);
	_cleanup_free_ char *tail = vm_watch_tail(f.vm, 1000);
	assert_string_equal(tail, "boot\norchestrator-worker: ready\n");
	vm_watch_kill(f.vm);
	assert_int_equal(vm_watch_wait_end(f.vm, 20000), 0);
	vm_watch_get(f.vm, &s);
	assert_true(WIFSIGNALED(s.qemu_status) && WTERMSIG(s.qemu_status) == SIGKILL);
	assert_int_equal(waitpid(pid, NULL, WNOHANG), -1); /* collected already */
	_cleanup_free_ char *file = read_file(f.file, 4096, NULL, NULL);
	assert_string_equal(file, "boot\r\norchestrator-worker: ready\r\n");
	end(&f);
}

static void a_panic_is_told_in_the_kernels_words_escaped(void **state)
{
	struct vm_watch_state s;
	struct fixture f;

	(void)state;
	begin(&f, 4096);
	play_qemu(&f, "[    1.0] Kernel panic - not syncing: bad \033[2J thing", 7);
	wait_for(&f, ended, &s);
	assert_true(s.panicked);
	assert_string_equal(s.panic, "bad \\x1b[2J thing");
	assert_true(WIFEXITED(s.qemu_status) && WEXITSTATUS(s.qemu_status) == 7);
	end(&f);
}

static void a_chatty_guest_fills_neither_disk_nor_memory(void **state)
{
	size_t n = 300000;
	_cleanup_free_ char *noise = xmalloc(n + 1);
	struct vm_watch_state s;
	struct fixture f;

	(void)state;
	memset(noise, 'x', n);
	noise[n] = 0;
	begin(&f, 1000);
	play_qemu(&f, noise, 0);
	wait_for(&f, ended, &s);
	assert_int_equal(s.bytes, n);
	_cleanup_free_ char *file = read_file(f.file, 1000, NULL, NULL);
	assert_non_null(file);
	assert_int_equal(strlen(file), 1000);
	end(&f);
}

static void a_qemu_that_never_connected_ends_by_libvirts_word(void **state)
{
	struct vm_watch_state s;
	struct fixture f;

	(void)state;
	begin(&f, 1000);
	vm_watch_get(f.vm, &s);
	assert_false(s.qemu_ended);
	vm_watch_note_stop(f.vm);
	wait_for(&f, ended, &s);
	assert_int_equal(s.qemu_status, -1);
	end(&f);
}

static void on_end(void *arg)
{
	latch_open(arg);
}

static void its_end_is_told_once(void **state)
{
	struct vm_watch_state s;
	struct latch told;
	struct fixture f;

	(void)state;
	begin(&f, 4096);
	play_qemu(&f, "orchestrator-worker: ready\n", -1);
	wait_for(&f, ready, &s);
	latch_init(&told);
	vm_watch_on_end(f.vm, on_end, &told);
	assert_false(told.open);
	vm_watch_kill(f.vm);
	latch_wait(&told); /* and it is gone: a second call would be one too many */
	vm_watch_note_stop(f.vm);
	/* Who asks late is told at once. */
	latch_init(&told);
	vm_watch_on_end(f.vm, on_end, &told);
	assert_true(told.open);
	latch_wait(&told);
	end(&f);
}

static void removed_while_qemu_talks(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct fixture f;
		begin(&f, 1000);
		pid_t pid = play_qemu(&f, "a\nb\nc\n", -1);
		if (i % 2)
			sleep_ms(2); /* not to wait for something: to meet it at another point */
		end(&f);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(console_is_kept_and_understood),
		cmocka_unit_test(a_panic_is_told_in_the_kernels_words_escaped),
		cmocka_unit_test(a_chatty_guest_fills_neither_disk_nor_memory),
		cmocka_unit_test(a_qemu_that_never_connected_ends_by_libvirts_word),
		cmocka_unit_test(its_end_is_told_once),
		cmocka_unit_test(removed_while_qemu_talks),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("vm_watch", tests, NULL, NULL);
}
