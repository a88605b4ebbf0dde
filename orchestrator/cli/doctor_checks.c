#include "orchestrator/cli/doctor_checks.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "common/util.h"
#include "orchestrator/image.h"
#include "orchestrator/virt.h"
#include "orchestrator/vsock.h"

#define LIBVIRT_MS 60000

void finding_set(struct finding *finding, enum finding_level level, char *text, const char *advice)
{
	finding_clear(finding);
	*finding = (struct finding){.level = level, .text = text, .advice = xstrdup(advice)};
}

void finding_clear(struct finding *finding)
{
	free(finding->text);
	free(finding->advice);
	*finding = (struct finding){0};
}

/* Where a program is, by PATH; NULL: nowhere. */
static char *find_program(const char *name)
{
	const char *path = getenv("PATH");

	for (const char *p = path ? path : "/usr/bin:/bin"; *p; p += strspn(p, ":")) {
		size_t n = strcspn(p, ":");
		_cleanup_free_ char *candidate = str_printf("%.*s/%s", (int)n, p, name);
		if (access(candidate, X_OK) == 0)
			return steal_ptr(candidate);
		p += n;
	}
	return NULL;
}

static void check_qemu(const struct config *config, struct finding *ret)
{
	char *path = find_program("qemu-system-x86_64");

	(void)config;
	if (path)
		finding_set(ret, FINDING_OK, path, NULL);
	else
		finding_set(ret, FINDING_FAIL, xstrdup("qemu-system-x86_64 is not in PATH"),
			"apt-get install qemu-system-x86");
}

/* Really connects: the library may be there without its QEMU driver. The embedded driver does so
 * below a directory of its own, since a running daemon holds the real one. */
static void connect_libvirt(const struct config *config, const char *root, struct finding *ret)
{
	_cleanup_error_ struct error *err = NULL;
	struct virt *virt = virt_new(config->libvirt_uri, root);
	bool connected = virt_connect(virt, &err) == 0;
	_cleanup_free_ char *emulator = connected ? virt_emulator(virt) : NULL;

	if (emulator)
		finding_set(
			ret, FINDING_OK, str_printf("%s, with %s", virt_uri(virt), emulator), NULL);
	else if (connected)
		finding_set(ret, FINDING_FAIL,
			str_printf("%s knows no QEMU for x86_64", virt_uri(virt)),
			"apt-get install qemu-system-x86");
	else
		finding_set(ret, FINDING_FAIL, xstrdup(err->text),
			"apt-get install libvirt-daemon-driver-qemu, or set libvirt_uri to a "
			"libvirt that runs");
	virt_close(virt);
}

/* In a process of its own, so that it may hang, crash, and say what it likes on stderr. The answer
 * comes by the pipe: level, text, advice. */
static void __attribute__((noreturn))
connect_libvirt_apart(const struct config *config, const char *root, int answer_fd)
{
	struct finding finding = {0};
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(null, STDERR_FILENO);
	connect_libvirt(config, root, &finding);
	dprintf(answer_fd, "%d\n%s\n%s", (int)finding.level, finding.text,
		finding.advice ? finding.advice : "");
	_exit(0);
}

static void read_answer(const struct config *config, int fd, struct finding *ret)
{
	uint64_t deadline = now_mono_usec() + LIBVIRT_MS * UINT64_C(1000);
	char answer[4096];
	size_t n = 0;
	ssize_t got = 1;

	while (got != 0 && n < sizeof(answer) - 1) {
		uint64_t now = now_mono_usec();
		struct pollfd pfd = {.fd = fd, .events = POLLIN};

		if (now >= deadline) {
			struct virt *virt = virt_new(config->libvirt_uri, "/");
			finding_set(ret, FINDING_FAIL,
				str_printf("%s: libvirt did not answer within %d s", virt_uri(virt),
					LIBVIRT_MS / 1000),
				virt_advice(virt));
			virt_close(virt);
			return;
		}
		if (poll(&pfd, 1, (int)((deadline - now + 999) / 1000)) <= 0)
			continue;
		got = read(fd, answer + n, sizeof(answer) - 1 - n);
		n += got > 0 ? (size_t)got : 0;
	}
	answer[n] = 0;
	char *text = strchr(answer, '\n'), *advice = text ? strchr(text + 1, '\n') : NULL;
	if (!advice || answer[0] < '0' + FINDING_OK || answer[0] > '0' + FINDING_FAIL) {
		finding_set(ret, FINDING_FAIL, xstrdup("libvirt's client library crashed"), NULL);
		return;
	}
	*advice++ = 0;
	finding_set(ret, (enum finding_level)(answer[0] - '0'), xstrdup(text + 1),
		*advice ? advice : NULL);
}

static void check_libvirt(const struct config *config, struct finding *ret)
{
	char root[] = "/tmp/orchestrator-doctor.XXXXXX";
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0 || !mkdtemp(root)) {
		finding_set(ret, FINDING_WARN,
			str_printf("not tried: %s: %s", root, strerrordesc_np(errno)), NULL);
		return;
	}
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		close(fds[0]);
		connect_libvirt_apart(config, root, fds[1]);
	}
	close(fds[1]);
	read_answer(config, fds[0], ret);
	close(fds[0]);
	if (pid > 0) {
		kill(pid, SIGKILL); /* if it hangs */
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	remove_tree(root, NULL);
}

/* What the daemon found out by booting a guest (accel.c); -1: nothing yet. */
static int remembered_kvm(const struct config *config)
{
	_cleanup_free_ char *path = str_printf("%s/accel.json", config->state_dir);
	json_t *root = json_load_file(path, 0, NULL);
	const json_t *works = json_object_get(root, "kvm");
	int answer = json_is_boolean(works) ? json_is_true(works) : -1;

	json_decref(root);
	return answer;
}

static void check_kvm(const struct config *config, struct finding *ret)
{
	enum finding_level bad = config->accel == ACCEL_KVM ? FINDING_FAIL : FINDING_WARN;
	_cleanup_close_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (config->accel == ACCEL_TCG) {
		finding_set(ret, FINDING_OK, xstrdup("not used: accel is tcg"), NULL);
	} else if (fd < 0 && errno == EACCES) {
		finding_set(ret, bad,
			xstrdup("no permission for /dev/kvm; VMs are emulated, slowly"),
			"be in its group: usermod -aG kvm $USER, then log in again");
	} else if (fd < 0) {
		finding_set(ret, bad,
			str_printf(
				"/dev/kvm: %s; VMs are emulated, slowly", strerrordesc_np(errno)),
			"enable virtualization in the firmware, and load kvm_intel or kvm_amd");
	} else if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		finding_set(
			ret, bad, xstrdup("/dev/kvm opens but is not KVM as QEMU knows it"), NULL);
	} else if (remembered_kvm(config) == 0) {
		finding_set(ret, bad,
			xstrdup("/dev/kvm opens, but a guest did not run on it; VMs are emulated, "
				"slowly"),
			"a nested hypervisor may lack support; to try once more remove accel.json "
			"from the "
			"state directory");
	} else {
		finding_set(ret, FINDING_OK,
			xstrdup(remembered_kvm(config) == 1
					? "/dev/kvm runs guests"
					: "/dev/kvm opens; the first VM will show "
					  "whether it runs guests"),
			NULL);
	}
}

static void check_vsock(const struct config *config, struct finding *ret)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *prefix = install_prefix();
	_cleanup_free_ char *device = str_printf("%s/libexec/orchestrator/vsock-device", prefix);
	bool remote = !config_embeds_libvirt(config);
	enum vsock_kind kind;

	if (vsock_choose(config->vsock, remote, &kind, &err) < 0)
		finding_set(ret, FINDING_FAIL, xstrdup(err->text),
			"or set vsock to auto or user: a userspace device needs no privileges");
	else if (kind == VSOCK_DEVICE_KERNEL)
		finding_set(ret, FINDING_OK, xstrdup("/dev/vhost-vsock"), NULL);
	else if (access(device, X_OK) < 0)
		finding_set(ret, FINDING_FAIL, str_printf("%s: %s", device, strerrordesc_np(errno)),
			"build and install all of the programs: make install");
	else
		finding_set(ret, FINDING_OK,
			xstrdup(access("/dev/vhost-vsock", F_OK) == 0
					? "userspace device (/dev/vhost-vsock is there but not "
					  "ours to "
					  "open: be in the group kvm)"
					: "userspace device (the kernel has no /dev/vhost-vsock)"),
			NULL);
}

static void check_image(const struct config *config, struct finding *ret)
{
	_cleanup_error_ struct error *err = NULL;
	struct image *image = image_find(config, config->default_image, &err);

	if (image) {
		_cleanup_free_ char *size = format_size(image->size);
		finding_set(ret, FINDING_OK,
			str_printf("%s: %s, %s kernel %s", image->name, size, image->kernel_kind,
				image->kernel_release),
			NULL);
		image_free(image);
		return;
	}
	finding_set(ret, FINDING_FAIL, xstrdup(err->text), NULL); /* it says what to do */
}

static void check_disk(const struct config *config, struct finding *ret)
{
	_cleanup_free_ char *dir = xstrdup(config->state_dir);
	struct statvfs fs;
	char *slash;

	/* The state directory may not be there yet. */
	while (statvfs(dir, &fs) < 0 && (slash = strrchr(dir, '/')) && slash != dir)
		*slash = 0;
	if (statvfs(dir, &fs) < 0) {
		finding_set(ret, FINDING_FAIL, str_printf("%s: %s", dir, strerrordesc_np(errno)),
			"set state_dir, or give --state-dir");
		return;
	}
	uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	_cleanup_free_ char *size = format_size(bytes), *least = format_size(config->min_free_disk);
	if (access(dir, W_OK) < 0)
		finding_set(ret, FINDING_FAIL, str_printf("%s: not writable", dir),
			"set state_dir, or give --state-dir");
	else if (bytes < config->min_free_disk)
		finding_set(ret, FINDING_FAIL,
			str_printf("%s free for %s, less than min_free_disk (%s)", size,
				config->state_dir, least),
			"remove old results, or set state_dir elsewhere");
	else
		finding_set(ret, FINDING_OK, str_printf("%s free for %s", size, config->state_dir),
			NULL);
}

static void check_memory(const struct config *config, struct finding *ret)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	_cleanup_free_ char *have = format_size(kib * KIB),
			    *one = format_size(config->default_memory);
	char *text =
		str_printf("%s available, %s for a VM unless its job says otherwise", have, one);
	if (kib * KIB < config->default_memory)
		finding_set(ret, FINDING_WARN, text,
			"lower default_memory, or say resources.memory in jobs");
	else
		finding_set(ret, FINDING_OK, text, NULL);
}

static bool can_unshare(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) == 0 ? 0 : 1);
	while (pid > 0 && waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void check_build(const struct config *config, struct finding *ret)
{
	_cleanup_free_ char *bootstrap = find_program("mmdebstrap"),
			    *mkfs = find_program("mkfs.erofs");

	(void)config;
	if (!bootstrap || !mkfs)
		finding_set(ret, FINDING_WARN,
			str_printf("%s is not in PATH; images cannot be built",
				bootstrap ? "mkfs.erofs" : "mmdebstrap"),
			"apt-get install mmdebstrap erofs-utils");
	else if (geteuid() != 0 && !can_unshare())
		finding_set(ret, FINDING_WARN,
			xstrdup("no user namespaces; images can only be built by root"),
			"sysctl kernel.unprivileged_userns_clone=1, or build as root");
	else
		finding_set(
			ret, FINDING_OK, xstrdup("mmdebstrap, mkfs.erofs, user namespaces"), NULL);
}

const struct check doctor_checks[] = {
	{"qemu", check_qemu},
	{"libvirt", check_libvirt},
	{"kvm", check_kvm},
	{"vsock", check_vsock},
	{"image", check_image},
	{"disk", check_disk},
	{"memory", check_memory},
	{"image build", check_build},
	{NULL, NULL},
};
