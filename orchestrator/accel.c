#include "orchestrator/accel.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"

enum answer {
	UNKNOWN,
	ON_TRIAL, /* a VM is being started on KVM to find out */
	DOUBTED,  /* the trial failed; until a VM starts under TCG it may have been the image */
	WORKS,
	WORKS_NOT,
};

struct accel {
	enum config_accel wanted;
	char *file; /* owned */
	pthread_mutex_t lock;
	int answered_fd; /* an eventfd: readable while no VM is on trial */
	/* below: under lock */
	enum answer answer;
	char *reason; /* owned */
	char *host;   /* owned; what the answer holds for */
};

struct accel *accel_new(enum config_accel wanted, const char *file)
{
	struct accel *accel = xcalloc(1, sizeof(*accel));

	accel->wanted = wanted;
	accel->file = xstrdup(file);
	pthread_mutex_init(&accel->lock, NULL);
	accel->answered_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	return accel;
}

void accel_free(struct accel *accel)
{
	if (!accel)
		return;
	pthread_mutex_destroy(&accel->lock);
	close_fd(&accel->answered_fd);
	free(accel->file);
	free(accel->reason);
	free(accel->host);
	free(accel);
}

static void set_answer(struct accel *accel, enum answer answer, const char *reason)
{
	accel->answer = answer;
	free(accel->reason);
	accel->reason = xstrdup(reason);
}

static char *describe_host(const char *emulator)
{
	struct utsname u;
	struct stat st = {0};

	uname(&u);
	if (emulator && stat(emulator, &st) < 0)
		st = (struct stat){0};
	return str_printf("%s %s %s %lld %lld", u.release, u.version, emulator ? emulator : "",
		(long long)st.st_size, (long long)st.st_mtime);
}

static void recall(struct accel *accel)
{
	json_t *root = json_load_file(accel->file, 0, NULL);
	const char *host = json_string_value(json_object_get(root, "host"));
	const char *reason = json_string_value(json_object_get(root, "reason"));
	json_t *works = json_object_get(root, "kvm");

	if (str_eq(host, accel->host) && json_is_boolean(works))
		set_answer(accel, json_is_true(works) ? WORKS : WORKS_NOT, reason);
	json_decref(root);
}

static void remember(struct accel *accel, bool works)
{
	json_t *root = json_pack(
		"{s:s, s:b, s:s*}", "host", accel->host, "kvm", works, "reason", accel->reason);
	_cleanup_free_ char *text = json_dumps(root, JSON_INDENT(2));
	_cleanup_error_ struct error *err = NULL;

	if (text && write_file(accel->file, text, strlen(text), 0644, false, &err) < 0)
		log_warn("accel", "the answer is not remembered: %s", err->text);
	json_decref(root);
}

static const char *why_no_kvm(void)
{
	if (access("/dev/kvm", F_OK) < 0)
		return "/dev/kvm is not there";
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		return "no permission for /dev/kvm (be in the group kvm)";
	return NULL;
}

static int wait_answer(const struct accel *accel, int cancel_fd, struct error **err)
{
	struct pollfd fds[] = {
		{.fd = accel->answered_fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};

	if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
		return error_errno(err, errno, "poll");
	if (fds[1].revents)
		return error_set(err, ERR_CANCELLED, "cancelled while another VM tried KVM");
	return 0;
}

int accel_begin(struct accel *accel, const char *emulator, bool remote, int cancel_fd,
	enum accel_use *ret_use, struct error **err)
{
	const char *why = remote ? NULL : why_no_kvm();

	*ret_use = ACCEL_USE_TCG;
	if (accel->wanted == ACCEL_TCG)
		return 0;
	if (accel->wanted == ACCEL_KVM) {
		if (why)
			return error_set(err, ERR_UNSUPPORTED, "accel is kvm, but %s", why);
		*ret_use = ACCEL_USE_KVM;
		return 0;
	}
	if (why)
		return 0;
	pthread_mutex_lock(&accel->lock);
	if (!accel->host) {
		accel->host = describe_host(emulator);
		recall(accel);
	}
	while (accel->answer == ON_TRIAL) {
		pthread_mutex_unlock(&accel->lock);
		if (wait_answer(accel, cancel_fd, err) < 0)
			return -1;
		pthread_mutex_lock(&accel->lock);
	}
	if (accel->answer == WORKS)
		*ret_use = ACCEL_USE_KVM;
	else if (accel->answer == UNKNOWN) {
		eventfd_t none;
		eventfd_read(accel->answered_fd, &none);
		accel->answer = ON_TRIAL;
		*ret_use = ACCEL_USE_TRIAL;
	}
	pthread_mutex_unlock(&accel->lock);
	return 0;
}

void accel_report(struct accel *accel, enum accel_use use, bool worked, const char *why)
{
	pthread_mutex_lock(&accel->lock);
	if (use == ACCEL_USE_TRIAL) {
		if (worked) {
			set_answer(accel, WORKS, NULL);
			remember(accel, true);
			log_info("accel", "KVM works here");
		} else if (why) {
			set_answer(accel, DOUBTED, why);
			log_warn("accel",
				"/dev/kvm is there but did not run a guest (%s): emulating (TCG) "
				"instead. "
				"Emulation is slower, and QEMU promises no isolation under it",
				why);
		} else {
			set_answer(accel, UNKNOWN, NULL);
		}
		eventfd_write(accel->answered_fd, 1);
	} else if (use == ACCEL_USE_TCG && worked && accel->answer == DOUBTED) {
		accel->answer = WORKS_NOT;
		remember(accel, false);
	} else if (use == ACCEL_USE_TCG && !worked && accel->answer == DOUBTED) {
		/* It fails without KVM too: the trial said nothing about KVM. */
		set_answer(accel, UNKNOWN, NULL);
	}
	pthread_mutex_unlock(&accel->lock);
}

const char *accel_name(struct accel *accel)
{
	const char *name = NULL;

	if (accel->wanted != ACCEL_AUTO)
		return accel->wanted == ACCEL_KVM ? "kvm" : "tcg";
	if (why_no_kvm())
		return "tcg";
	pthread_mutex_lock(&accel->lock);
	if (accel->answer == WORKS)
		name = "kvm";
	else if (accel->answer == WORKS_NOT || accel->answer == DOUBTED)
		name = "tcg";
	pthread_mutex_unlock(&accel->lock);
	return name;
}
