/* Processes that are not our children: known by pid and start time, and killed by the file they
 * name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/process.h"

/* A process that sleeps and is called so. */
static pid_t sleeper(const char *name)
{
	pid_t pid = fork();

	if (pid == 0) {
		execl("/bin/sleep", name, "1000", NULL);
		_exit(127);
	}
	/* Its command line is our own until then. */
	for (int i = 0; i < 1000; i++) {
		_cleanup_free_ char *path = str_printf("/proc/%d/cmdline", pid);
		_cleanup_free_ char *text = read_file(path, 64 * KIB, NULL, NULL);
		if (str_eq(text, name))
			break;
		sleep_ms(5);
	}
	return pid;
}

/* How it ended: a signal, 0 if it has not. */
static int killed_by(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, WNOHANG) != pid)
		return 0;
	return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void a_process_is_its_pid_and_its_start(void **state)
{
	pid_t pid = sleeper("sleeper");
	uint64_t start = process_start_time(pid);

	(void)state;
	assert_true(start > 0);
	assert_int_equal(process_open(pid, start + 1), -1);
	assert_int_equal(process_open(pid, 0), -1);
	assert_int_equal(process_open(1, process_start_time(1)), -1);
	_cleanup_close_ int fd = process_open(pid, start);
	assert_true(fd >= 0);
	process_end(fd, 10);
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&pfd, 1, 0), 1);
	assert_int_equal(killed_by(pid), SIGKILL);
	assert_int_equal(process_start_time(pid), 0);
	assert_int_equal(process_open(pid, start), -1);
}

static void only_orphans_are_killed(void **state)
{
	static const char *const keep[] = {"vm-kept", "vm-2"};
	pid_t orphan = sleeper("/none/vm/vm-gone/qemu-system-x86_64");
	pid_t device = sleeper("/none/vm/vm-gone/vsock-device");
	pid_t others[] = {
		sleeper("/none/vm/vm-kept/qemu-system-x86_64"),
		sleeper("/none/vm/vm-gone/editor"),
		sleeper("/other/none/vn/vm-gone/qemu-system-x86_64"),
		sleeper("/none/vm/else/qemu-system-x86_64"),
	};

	(void)state;
	process_kill_orphans("/none/vm", keep, ARRAY_SIZE(keep));
	assert_int_equal(killed_by(orphan), SIGKILL);
	assert_int_equal(killed_by(device), SIGKILL);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		assert_int_equal(killed_by(others[i]), 0);
		end(others[i]);
	}
}

static void what_names_a_path_is_killed(void **state)
{
	pid_t named = sleeper("/none/lib/qemu/qmp-AbC123/qemu-system-x86_64");
	pid_t others[] = {
		sleeper("/none/lib/qemu/qmp-AbC123/editor"),
		sleeper("/none/lib/qemu/domain-1-vm-2/qemu-system-x86_64"),
	};

	(void)state;
	process_kill_naming("/none/lib/qemu/qmp-");
	assert_int_equal(killed_by(named), SIGKILL);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		assert_int_equal(killed_by(others[i]), 0);
		end(others[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_is_its_pid_and_its_start),
		cmocka_unit_test(only_orphans_are_killed),
		cmocka_unit_test(what_names_a_path_is_killed),
	};

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
