/* orchestrator: the command line, and with `serve` the daemon. One line per command. */
#include "orchestrator/cli/cli.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct cli_command *const commands[] = {
	&command_run,
	&command_submit,
	&command_list,
	&command_status,
	&command_logs,
	&command_result,
	&command_wait,
	&command_cancel,
	&command_retry,
	&command_gc,
	&command_validate,
	&command_image,
	&command_bench,
	&command_config,
	&command_doctor,
	&command_serve,
	&command_stop,
	&command_version,
	&command_help,
	NULL,
};

/* A standard stream that the caller closed must not become a socket of ours or a library's: what is
 * printed would go there. It is taken by something that fails as a closed one does. Libraries open
 * descriptors when they are loaded, so this comes before that, and before sanitizers are ready. */
__attribute__((no_sanitize("address", "thread", "undefined"))) static void hold_standard_streams(
	void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (syscall(SYS_fcntl, fd, F_GETFD) < 0)
			syscall(SYS_openat, AT_FDCWD, "/dev/null",
				fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(
	void) = hold_standard_streams;

int main(int argc, char **argv)
{
	return cli_main(commands, argc, argv);
}
