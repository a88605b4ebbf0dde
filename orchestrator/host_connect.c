/* The host's connection to libvirt: made at the first call, and again after libvirtd has gone and
 * come back, while our VMs run on. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/host_private.h"

#define CONNECT_TIMEOUT_MS 60000
/* Once it has answered, it starts QEMU some times to see what that can do, the first time. */
#define ASK_TIMEOUT_MS 240000
/* For who has something else to go on with. */
#define NOW_TIMEOUT_MS 25000
/* A libvirtd that is started again is back in a few seconds. */
#define RECONNECT_MS	 30000
#define RETRY_FIRST_MS	 200
#define RETRY_LONGEST_MS 3000
/* libvirt itself gives up after 30 seconds. */
#define TIDY_WAIT_MS 3000
#define TIDY_TRIES   40

/* A domain that may be there still, because libvirt was not when its VM ended. */
struct host_doomed {
	struct host_doomed *next;
	char uuid[40];
	char *dir; /* owned; the VM's: while it is there, so may be the domain */
};

static void doomed_free(struct host_doomed *doomed)
{
	free(doomed->dir);
	free(doomed);
}

void host_forget_domains(struct host *host)
{
	while (host->doomed) {
		struct host_doomed *doomed = host->doomed;
		host->doomed = doomed->next;
		doomed_free(doomed);
	}
}

static int destroy_doomed(
	struct virt *virt, const char *owner, const struct host_doomed *doomed, struct error **err)
{
	struct virt_domain *domain = virt_find(virt, doomed->uuid, owner, err);
	int r = domain ? virt_destroy(domain, err) : -1;

	virt_domain_free(domain);
	if (!domain && (*err)->code == ERR_NOT_FOUND) {
		error_free(steal_ptr(*err));
		r = 0;
	}
	return r < 0 ? -1 : remove_tree(doomed->dir, err);
}

static void add_doomed(struct host *host, struct host_doomed *doomed)
{
	pthread_mutex_lock(&host->lock);
	doomed->next = host->doomed;
	host->doomed = doomed;
	pthread_mutex_unlock(&host->lock);
}

static void destroy_all_doomed(struct host *host)
{
	struct host_doomed *left = NULL;

	pthread_mutex_lock(&host->lock);
	struct host_doomed *all = steal_ptr(host->doomed);
	pthread_mutex_unlock(&host->lock);
	while (all) {
		_cleanup_error_ struct error *err = NULL;
		struct host_doomed *doomed = all;

		all = doomed->next;
		if (destroy_doomed(host->virt, host->owner, doomed, &err) == 0) {
			doomed_free(doomed);
			continue;
		}
		log_info("host", "%s: %s", doomed->dir, err->text);
		doomed->next = left;
		left = doomed;
	}
	while (left) {
		struct host_doomed *doomed = left;

		left = doomed->next;
		add_doomed(host, doomed);
	}
}

/* On a thread of its own: a libvirtd that is looking for the same QEMU that we killed answers late,
 * and nobody needs to wait for it. */
static void *tidy(void *arg)
{
	struct host *host = arg;
	bool again = true;

	for (int i = 1; again; i++) {
		destroy_all_doomed(host);
		pthread_mutex_lock(&host->lock);
		again = host->doomed && i < TIDY_TRIES && virt_is_connected(host->virt);
		/* Once it is false, the host may be freed. */
		host->tidying = again;
		pthread_mutex_unlock(&host->lock);
		if (again)
			sleep_ms(TIDY_WAIT_MS);
	}
	return NULL;
}

static int start_thread(void *(*fn)(void *), struct host *host)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int e = pthread_create(&thread, &attr, fn, host);
	pthread_attr_destroy(&attr);
	return e;
}

/* Under the lock. */
static void begin_tidying(struct host *host)
{
	if (!host->doomed || host->tidying || !host->virt || !virt_is_connected(host->virt))
		return;
	host->tidying = start_thread(tidy, host) == 0;
}

/* virConnectOpen() has no deadline, so it has a thread of its own, which may be left to itself. */
static void *connect_libvirt(void *arg)
{
	struct host *host = arg;
	struct error *err = NULL;

	pthread_mutex_lock(&host->lock);
	struct virt *virt = host->virt;
	pthread_mutex_unlock(&host->lock);
	bool again = virt != NULL;
	if (again) {
		if (virt_reconnect(virt, &err) == 0)
			log_info("libvirt", "connected again");
	} else {
		_cleanup_free_ char *root = str_printf("%s/libvirt", host->config->state_dir);
		/* The configuration may be outlived. */
		_cleanup_free_ char *uri = xstrdup(host->config->libvirt_uri);
		virt = virt_open(uri, root, &err);
	}
	pthread_mutex_lock(&host->lock);
	host->asking = virt && !again;
	pthread_mutex_unlock(&host->lock);
	char *emulator = virt && !again ? virt_emulator(virt) : NULL;

	pthread_mutex_lock(&host->lock);
	host->asking = false;
	if (!again) {
		host->virt = virt;
		host->emulator = emulator;
	}
	error_free(host->failed);
	host->failed = err;
	host->connecting = false;
	begin_tidying(host);
	/* Under the lock: once it is released, the host may be freed. */
	eventfd_write(host->idle_fd, 1);
	pthread_mutex_unlock(&host->lock);
	return NULL;
}

/* Under the lock. */
static int begin_connecting(struct host *host, struct error **err)
{
	eventfd_t idle;
	int e = start_thread(connect_libvirt, host);

	if (e)
		return error_errno(err, e, "starting a thread");
	eventfd_read(host->idle_fd, &idle);
	host->connecting = true;
	return 0;
}

/* Wait until end_usec, or until fd is readable. 1: it is; 0: the time is over; -1 with
 * ERR_CANCELLED. */
static int wait_for(int fd, uint64_t end_usec, int cancel_fd, struct error **err)
{
	struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};

	for (;;) {
		uint64_t now = now_mono_usec();
		int ms = now >= end_usec ? 0 : (int)((end_usec - now) / 1000) + 1;
		int n = poll(fds, ARRAY_SIZE(fds), ms);
		if (n < 0 && errno != EINTR)
			return error_errno(err, errno, "poll");
		if (n > 0 && fds[1].revents)
			return error_set(err, ERR_CANCELLED, "cancelled while connecting");
		if (n > 0)
			return 1;
		if (n == 0)
			return 0;
	}
}

static struct virt *connected(struct host *host)
{
	return host->virt && !host->connecting && virt_is_connected(host->virt) ? host->virt : NULL;
}

void host_destroy_later(struct host *host, const char *uuid, const char *dir)
{
	struct host_doomed *doomed = xcalloc(1, sizeof(*doomed));

	snprintf(doomed->uuid, sizeof(doomed->uuid), "%s", uuid);
	doomed->dir = xstrdup(dir);
	add_doomed(host, doomed);
	pthread_mutex_lock(&host->lock);
	begin_tidying(host);
	pthread_mutex_unlock(&host->lock);
}

/* One try; who comes while another is under way shares it. */
static struct virt *try_connect(
	struct host *host, unsigned timeout_ms, int cancel_fd, struct error **err)
{
	pthread_mutex_lock(&host->lock);
	struct virt *virt = connected(host);
	int r = virt || host->connecting ? 0 : begin_connecting(host, err);
	pthread_mutex_unlock(&host->lock);
	if (virt || r < 0)
		return virt;
	uint64_t end = now_mono_usec() + UINT64_C(1000) * timeout_ms;
	r = wait_for(host->idle_fd, end, cancel_fd, err);
	pthread_mutex_lock(&host->lock);
	bool asking = host->asking;
	pthread_mutex_unlock(&host->lock);
	if (r == 0 && asking && timeout_ms == CONNECT_TIMEOUT_MS)
		r = wait_for(host->idle_fd, end + UINT64_C(1000) * ASK_TIMEOUT_MS, cancel_fd, err);
	if (r == 0)
		error_set(
			err, ERR_TIMEOUT, "%s: libvirt does not answer", host->config->libvirt_uri);
	if (r <= 0)
		return NULL;
	pthread_mutex_lock(&host->lock);
	virt = connected(host);
	if (!virt && host->failed)
		error_set(err, host->failed->code, "%s", host->failed->text);
	else if (!virt)
		error_set(err, ERR_UNAVAILABLE, "libvirt is being connected to again");
	pthread_mutex_unlock(&host->lock);
	return virt;
}

/* libvirt starts the user's libvirtd, and waits five seconds for it to listen: too short for a slow
 * machine, where it is there at the next try. */
static bool starts_by_itself(const struct host *host)
{
	return str_starts(host->config->libvirt_uri, "qemu:///session") && geteuid() != 0;
}

struct virt *host_virt(struct host *host, int cancel_fd, struct error **err)
{
	uint64_t end = now_mono_usec() + UINT64_C(1000) * RECONNECT_MS;
	unsigned wait_ms = RETRY_FIRST_MS;

	for (;;) {
		_cleanup_error_ struct error *failed = NULL;
		struct virt *virt = try_connect(host, CONNECT_TIMEOUT_MS, cancel_fd, &failed);
		uint64_t now = now_mono_usec();

		if (virt)
			return virt;
		pthread_mutex_lock(&host->lock);
		bool worth_it = host->expected || host->virt || starts_by_itself(host);
		pthread_mutex_unlock(&host->lock);
		if (failed->code != ERR_UNAVAILABLE || !worth_it ||
			now + wait_ms * UINT64_C(1000) > end) {
			error_move(err, steal_ptr(failed));
			return NULL;
		}
		if (wait_for(-1, now + wait_ms * UINT64_C(1000), cancel_fd, err) < 0)
			return NULL;
		wait_ms = MIN(2 * wait_ms, RETRY_LONGEST_MS);
	}
}

struct virt *host_virt_now(struct host *host, struct error **err)
{
	return try_connect(host, NOW_TIMEOUT_MS, -1, err);
}

void host_expect_libvirt(struct host *host, bool expected)
{
	pthread_mutex_lock(&host->lock);
	host->expected = host->expected || expected;
	pthread_mutex_unlock(&host->lock);
}
