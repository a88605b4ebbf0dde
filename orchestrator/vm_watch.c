/* One epoll thread. Each VM has up to three descriptors in the set: the listening socket until QEMU
 * has connected, the connection, and a pidfd of QEMU. What the thread and the VM's owner share is
 * under vm->lock; a VM is taken out of the set by its owner under the watcher's lock, which the
 * thread holds while it handles events, so no event can come for a VM that is gone. */
#include "orchestrator/vm_watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/sock.h"
#include "common/util.h"

#define TAIL_BYTES 4096
#define LINE_BYTES 256

static const char ready_line[] = "orchestrator-worker: ready";
static const char panic_line[] = "Kernel panic - not syncing: ";

enum source_kind { SOURCE_LISTEN, SOURCE_CONSOLE, SOURCE_QEMU };

struct source {
	enum source_kind kind;
	int fd;
	struct vm_watch *vm; /* borrowed */
};

struct vm_watch {
	struct vm_watcher *watcher; /* borrowed */
	struct source listen, console, qemu;
	int file_fd;
	uint64_t cap;
	bool reap;
	int event_fd;

	pthread_mutex_t lock; /* below: */
	struct vm_watch_state state;
	char line[LINE_BYTES]; /* the line that is being printed */
	size_t line_len;
	char tail[TAIL_BYTES]; /* ring of what was printed last */
	uint64_t tail_end;
	void (*on_end)(void *arg);
	void *on_end_arg;
};

struct vm_watcher {
	int epoll_fd;
	int stop_fd;
	pthread_t thread;
	pthread_mutex_t lock; /* held while events are handled */
};

static void tell(struct vm_watch *vm)
{
	eventfd_write(vm->event_fd, 1);
}

/* Watch a descriptor; level-triggered. */
static int add_source(struct vm_watch *vm, struct source *source, enum source_kind kind, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = source};

	*source = (struct source){.kind = kind, .fd = fd, .vm = vm};
	return epoll_ctl(vm->watcher->epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

static void drop_source(struct vm_watch *vm, struct source *source)
{
	if (source->fd < 0)
		return;
	epoll_ctl(vm->watcher->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	close_fd(&source->fd);
}

/* What is printed. -------------------------------------------------------------------------------
 */

static void end_of_line(struct vm_watch *vm)
{
	vm->line[vm->line_len] = 0;
	vm->line_len = 0;
	if (strstr(vm->line, ready_line))
		vm->state.ready = true;
	const char *panic = strstr(vm->line, panic_line);
	if (!panic || vm->state.panicked)
		return;
	panic += sizeof(panic_line) - 1;
	_cleanup_free_ char *safe = str_escape(panic, strlen(panic), false);
	snprintf(vm->state.panic, sizeof(vm->state.panic), "%s", safe);
	vm->state.panicked = true;
}

static void take_bytes(struct vm_watch *vm, const char *bytes, size_t n)
{
	pthread_mutex_lock(&vm->lock);
	struct vm_watch_state before = vm->state;
	for (size_t i = 0; i < n; i++) {
		vm->tail[vm->tail_end++ % TAIL_BYTES] = bytes[i];
		if (bytes[i] == '\n' || bytes[i] == '\r')
			end_of_line(vm);
		else if (vm->line_len < sizeof(vm->line) - 1)
			vm->line[vm->line_len++] = bytes[i];
	}
	vm->state.bytes += n;
	bool changed = vm->state.ready != before.ready || vm->state.panicked != before.panicked;
	pthread_mutex_unlock(&vm->lock);
	uint64_t room = vm->cap > before.bytes ? vm->cap - before.bytes : 0;
	/* A full disk costs the console's copy, not the job. */
	if (room && write_all(vm->file_fd, bytes, MIN(n, room)) < 0)
		vm->cap = 0;
	if (changed)
		tell(vm);
}

static void on_console(struct vm_watch *vm)
{
	char buf[16384];
	ssize_t n = recv(vm->console.fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n > 0) {
		take_bytes(vm, buf, (size_t)n);
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	drop_source(vm, &vm->console);
	pthread_mutex_lock(&vm->lock);
	end_of_line(vm); /* a last line without its end */
	pthread_mutex_unlock(&vm->lock);
	tell(vm);
}

/* QEMU's life. -----------------------------------------------------------------------------------
 */

/* Under vm->lock. */
static void note_end(struct vm_watch *vm, int status)
{
	vm->state.qemu_ended = true;
	vm->state.qemu_status = status;
	if (vm->on_end)
		vm->on_end(vm->on_end_arg);
	vm->on_end = NULL;
}

static void qemu_ended(struct vm_watch *vm, int status)
{
	pthread_mutex_lock(&vm->lock);
	note_end(vm, status);
	pthread_mutex_unlock(&vm->lock);
	tell(vm);
}

static void on_qemu_end(struct vm_watch *vm)
{
	siginfo_t info = {0};
	int status = -1;

	/* libvirt waits for the pid to vanish, so the zombie must be collected now, not later. */
	if (vm->reap && waitid(P_PIDFD, (id_t)vm->qemu.fd, &info, WEXITED) == 0)
		status = info.si_code == CLD_EXITED ? W_EXITCODE(info.si_status, 0)
						    : W_EXITCODE(0, info.si_status);
	/* Its last words may still be in the socket. */
	for (int i = 0; i < 64 && vm->console.fd >= 0; i++)
		on_console(vm);
	drop_source(vm, &vm->qemu);
	qemu_ended(vm, status);
}

static void watch_process(struct vm_watch *vm, pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		qemu_ended(vm, -1); /* gone already */
	else if (add_source(vm, &vm->qemu, SOURCE_QEMU, fd) < 0)
		drop_source(vm, &vm->qemu);
}

static void on_connect(struct vm_watch *vm)
{
	_cleanup_close_ int fd = sock_accept(vm->listen.fd, 0, NULL);
	pid_t pid = 0;
	uid_t uid;

	if (fd < 0 || vm->console.fd >= 0 || sock_peer_uid(fd, &uid, &pid, NULL) < 0)
		return;
	if (add_source(vm, &vm->console, SOURCE_CONSOLE, steal_fd(fd)) < 0) {
		drop_source(vm, &vm->console);
		return;
	}
	pthread_mutex_lock(&vm->lock);
	bool first = vm->state.qemu_pid == 0;
	vm->state.qemu_pid = pid;
	pthread_mutex_unlock(&vm->lock);
	if (first && pid > 0)
		watch_process(vm, pid);
	tell(vm);
}

/* The thread. ------------------------------------------------------------------------------------
 */

static void *run(void *arg)
{
	struct vm_watcher *watcher = arg;

	for (;;) {
		struct epoll_event ev;
		/* One at a time: handling one may close another of the same VM. */
		int n = epoll_wait(watcher->epoll_fd, &ev, 1, -1);
		if (n < 0 && errno != EINTR)
			return NULL;
		if (n <= 0)
			continue;
		if (!ev.data.ptr)
			return NULL;
		pthread_mutex_lock(&watcher->lock);
		/* Between epoll_wait and here the VM may have been removed: ask again, now that
		 * removal is kept out. */
		if (epoll_wait(watcher->epoll_fd, &ev, 1, 0) == 1 && ev.data.ptr) {
			struct source *source = ev.data.ptr;
			if (source->kind == SOURCE_LISTEN)
				on_connect(source->vm);
			else if (source->kind == SOURCE_CONSOLE)
				on_console(source->vm);
			else
				on_qemu_end(source->vm);
		}
		pthread_mutex_unlock(&watcher->lock);
	}
}

struct vm_watcher *vm_watcher_new(struct error **err)
{
	struct vm_watcher *watcher = xcalloc(1, sizeof(*watcher));
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

	pthread_mutex_init(&watcher->lock, NULL);
	watcher->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	watcher->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (watcher->epoll_fd < 0 || watcher->stop_fd < 0 ||
		epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, watcher->stop_fd, &ev) < 0 ||
		(errno = pthread_create(&watcher->thread, NULL, run, watcher)) != 0) {
		error_errno(err, errno, "starting the thread that watches VMs");
		close_fd(&watcher->epoll_fd);
		close_fd(&watcher->stop_fd);
		free(watcher);
		return NULL;
	}
	return watcher;
}

void vm_watcher_free(struct vm_watcher *watcher)
{
	if (!watcher)
		return;
	eventfd_write(watcher->stop_fd, 1);
	pthread_join(watcher->thread, NULL);
	close_fd(&watcher->epoll_fd);
	close_fd(&watcher->stop_fd);
	pthread_mutex_destroy(&watcher->lock);
	free(watcher);
}

struct vm_watch *vm_watch_new(struct vm_watcher *watcher, int listen_fd, int file_fd, uint64_t cap,
	bool reap, struct error **err)
{
	struct vm_watch *vm = xcalloc(1, sizeof(*vm));

	pthread_mutex_init(&vm->lock, NULL);
	vm->watcher = watcher;
	vm->console.fd = vm->qemu.fd = -1;
	vm->listen.fd = listen_fd;
	vm->file_fd = file_fd;
	vm->cap = cap;
	vm->reap = reap;
	vm->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->event_fd < 0 || add_source(vm, &vm->listen, SOURCE_LISTEN, listen_fd) < 0) {
		error_errno(err, errno, "watching the VM's console");
		vm_watch_free(vm);
		return NULL;
	}
	return vm;
}

void vm_watch_adopt(struct vm_watch *vm, pid_t pid, int pidfd)
{
	pthread_mutex_lock(&vm->watcher->lock);
	pthread_mutex_lock(&vm->lock);
	bool first = vm->state.qemu_pid == 0;
	vm->state.qemu_pid = pid;
	pthread_mutex_unlock(&vm->lock);
	if (!first)
		close_fd(&pidfd); /* it was faster, and is watched */
	else if (pidfd < 0)
		qemu_ended(vm, -1);
	else if (add_source(vm, &vm->qemu, SOURCE_QEMU, pidfd) < 0)
		drop_source(vm, &vm->qemu);
	pthread_mutex_unlock(&vm->watcher->lock);
}

static int copy_file(int from, int to)
{
	char buf[16384];
	ssize_t n;

	for (off_t at = 0; (n = pread(from, buf, sizeof(buf), at)) > 0; at += n)
		if (write_all(to, buf, (size_t)n) < 0)
			return -1;
	return n < 0 ? -1 : 0;
}

int vm_watch_move_file(struct vm_watch *vm, int file_fd, struct error **err)
{
	/* The watcher's thread writes under this lock. */
	pthread_mutex_lock(&vm->watcher->lock);
	int r = copy_file(vm->file_fd, file_fd);
	int e = errno;
	close_fd(&vm->file_fd);
	vm->file_fd = file_fd;
	pthread_mutex_unlock(&vm->watcher->lock);
	return r < 0 ? error_errno(err, e, "the console's file") : 0;
}

int vm_watch_fd(struct vm_watch *vm)
{
	return vm->event_fd;
}

void vm_watch_get(struct vm_watch *vm, struct vm_watch_state *ret)
{
	pthread_mutex_lock(&vm->lock);
	*ret = vm->state;
	pthread_mutex_unlock(&vm->lock);
}

char *vm_watch_tail(struct vm_watch *vm, size_t max)
{
	char raw[TAIL_BYTES];
	size_t n, skip = 0, out = 0;

	pthread_mutex_lock(&vm->lock);
	n = MIN(MIN(vm->tail_end, (uint64_t)TAIL_BYTES), max);
	bool whole = n == vm->tail_end;
	for (size_t i = 0; i < n; i++)
		raw[i] = vm->tail[(vm->tail_end - n + i) % TAIL_BYTES];
	pthread_mutex_unlock(&vm->lock);
	if (!whole)
		while (skip < n && raw[skip++] != '\n')
			;
	/* A serial console ends its lines with both characters. */
	for (size_t i = skip; i < n; i++)
		if (raw[i] != '\r')
			raw[out++] = raw[i];
	return str_escape(raw, out, true);
}

int vm_watch_wait_end(struct vm_watch *vm, int timeout_ms)
{
	uint64_t end = now_mono_usec() + (uint64_t)timeout_ms * 1000;

	for (;;) {
		struct vm_watch_state state;
		struct pollfd pfd = {.fd = vm->event_fd, .events = POLLIN};
		eventfd_t seen;

		vm_watch_get(vm, &state);
		if (state.qemu_ended || !state.qemu_pid)
			return 0;
		uint64_t now = now_mono_usec();
		if (now >= end)
			return -1;
		if (poll(&pfd, 1, (int)((end - now) / 1000) + 1) > 0)
			eventfd_read(vm->event_fd, &seen);
	}
}

void vm_watch_on_end(struct vm_watch *vm, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&vm->lock);
	vm->on_end = fn;
	vm->on_end_arg = arg;
	if (vm->state.qemu_ended)
		note_end(vm, vm->state.qemu_status);
	pthread_mutex_unlock(&vm->lock);
}

void vm_watch_kill(struct vm_watch *vm)
{
	pthread_mutex_lock(&vm->watcher->lock);
	if (vm->qemu.fd >= 0)
		syscall(SYS_pidfd_send_signal, vm->qemu.fd, SIGKILL, NULL, 0);
	pthread_mutex_unlock(&vm->watcher->lock);
}

void vm_watch_note_stop(struct vm_watch *vm)
{
	pthread_mutex_lock(&vm->lock);
	/* With a pid, the pidfd tells the end, and the status with it. */
	bool ends = !vm->state.qemu_pid && !vm->state.qemu_ended;
	if (ends)
		note_end(vm, -1);
	pthread_mutex_unlock(&vm->lock);
	if (ends)
		tell(vm);
}

void vm_watch_free(struct vm_watch *vm)
{
	if (!vm)
		return;
	pthread_mutex_lock(&vm->watcher->lock);
	drop_source(vm, &vm->listen);
	drop_source(vm, &vm->console);
	drop_source(vm, &vm->qemu);
	pthread_mutex_unlock(&vm->watcher->lock);
	close_fd(&vm->file_fd);
	close_fd(&vm->event_fd);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}
