/* The host's connection to libvirt: made at the first call, and again after libvirtd has gone and
 * come back, while our VMs run on. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/host_private.h"
#include "orchestrator/process.h"

#define CONNECT_TIMEOUT_MS 60000
/* When it has been there before. */
#define CONNECT_AGAIN_MS 30000
/* Once it has answered, it starts QEMU some times to see what that can do, the first time. */
#define ASK_TIMEOUT_MS 240000
/* A libvirtd that is started again is back in a few seconds. */
#define RECONNECT_MS	 30000
#define RETRY_FIRST_MS	 200
#define RETRY_LONGEST_MS 3000
/* Who is to be destroyed later. Most of it is done at once or in a moment. */
#define TIDY_CONNECT_MS 25000
#define TIDY_WAIT_MS	3000
#define TIDY_SOON	20
#define TIDY_LONG_MS	30000
/* A libvirtd that was started again waits half a minute for the QEMU that we killed. Each call that
 * is left to itself may keep one of its twenty threads: the next one comes ever later. */
#define TIDY_DESTROY_MS	  60000
#define TIDY_AGAIN_USEC	  UINT64_C(60000000)
#define TIDY_LONGEST_USEC UINT64_C(1200000000)
/* A libvirtd that stood still finds our order in its socket when it goes on, and carries it out
 * although nobody waits: so that there is no such domain is sure when this has passed. */
#define ABSENT_USEC UINT64_C(15000000)

/* A VM whose domain may be there still, because libvirt did not answer when it ended. */
struct host_doomed {
	struct host_doomed *next;
	char id[32];
	uint64_t absent_usec; /* when libvirt first said that there is none; 0: it has not */
	bool told;	      /* that it is not done yet */
	uint64_t not_before, wait_usec;
};

void host_forget_domains(struct host *host)
{
	while (host->doomed) {
		struct host_doomed *doomed = host->doomed;
		host->doomed = doomed->next;
		free(doomed);
	}
}

static int destroy_domain(
	struct host *host, const char *vm_id, bool *ret_absent, struct error **err)
{
	_cleanup_error_ struct error *failed = NULL;
	char name[64];

	host_domain_name(host, vm_id, name, sizeof(name));
	struct virt_domain *domain = virt_find(host->virt, name, host->owner, &failed);

	*ret_absent = !domain && failed->code == ERR_NOT_FOUND;
	if (!domain)
		return *ret_absent ? 0 : error_move(err, steal_ptr(failed));
	int r = virt_destroy(domain, TIDY_DESTROY_MS, NULL, NULL, err);
	virt_domain_free(domain);
	if (r == 0)
		log_info("host", "%s: its domain is destroyed", vm_id);
	return r;
}

/* Returns 1 when there is nothing more to be done. */
static int destroy_doomed(struct host *host, struct host_doomed *doomed, struct error **err)
{
	_cleanup_free_ char *vms = host_vm_dir(host, NULL);
	_cleanup_free_ char *dir = host_vm_dir(host, doomed->id);
	bool absent;

	if (destroy_domain(host, doomed->id, &absent, err) < 0)
		return -1;
	/* What libvirt does not know of. */
	process_kill_vm(vms, doomed->id);
	/* Without its files a QEMU that comes late does not start. */
	if (remove_tree(dir, err) < 0)
		return -1;
	uint64_t now = now_mono_usec();
	if (absent && !doomed->absent_usec)
		doomed->absent_usec = now;
	return !absent || now - doomed->absent_usec >= ABSENT_USEC;
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
		int r = now_mono_usec() < doomed->not_before ? 0
							     : destroy_doomed(host, doomed, &err);
		if (r > 0) {
			free(doomed);
			continue;
		}
		if (r < 0 && !doomed->told)
			log_info("host", "%s is destroyed later: %s", doomed->id, err->text);
		doomed->told |= r < 0;
		if (r < 0 && err->code == ERR_TIMEOUT && virt_is_connected(host->virt)) {
			doomed->wait_usec =
				MIN(MAX(2 * doomed->wait_usec, TIDY_AGAIN_USEC), TIDY_LONGEST_USEC);
			doomed->not_before = now_mono_usec() + doomed->wait_usec;
		}
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
 * or not at all, and nobody needs to wait for it. */
static void *tidy(void *arg)
{
	struct host *host = arg;

	for (int i = 1;; i++) {
		if (host_virt_within(host, TIDY_CONNECT_MS, NULL))
			destroy_all_doomed(host);
		pthread_mutex_lock(&host->lock);
		bool again = host->doomed != NULL;
		/* Once it is false, the host may be freed. */
		host->tidying = again;
		pthread_mutex_unlock(&host->lock);
		if (!again)
			return NULL;
		sleep_ms(i < TIDY_SOON ? TIDY_WAIT_MS : TIDY_LONG_MS);
	}
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
	if (!host->doomed || host->tidying)
		return;
	host->tidying = start_thread(tidy, host) == 0;
}

/* virConnectOpen() has no deadline, so it has a thread of its own, which may be left to itself. */
static void *connect_libvirt(void *arg)
{
	struct host *host = arg;
	struct error *err = NULL;
	char *emulator = NULL;
	bool connected = virt_connect(host->virt, &err) == 0;

	pthread_mutex_lock(&host->lock);
	if (connected && host->known)
		log_info("libvirt", "connected again");
	bool ask = connected && !host->emulator;
	host->asking = ask;
	pthread_mutex_unlock(&host->lock);
	if (ask)
		emulator = virt_emulator(host->virt);

	pthread_mutex_lock(&host->lock);
	host->asking = false;
	host->known |= connected;
	if (ask)
		host->emulator = emulator;
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
	return !host->connecting && virt_is_connected(host->virt) ? host->virt : NULL;
}

void host_destroy_later(struct host *host, const char *vm_id)
{
	struct host_doomed *doomed = xcalloc(1, sizeof(*doomed));

	snprintf(doomed->id, sizeof(doomed->id), "%s", vm_id);
	add_doomed(host, doomed);
	pthread_mutex_lock(&host->lock);
	begin_tidying(host);
	pthread_mutex_unlock(&host->lock);
}

bool host_is_doomed(struct host *host, const char *vm_id)
{
	pthread_mutex_lock(&host->lock);
	const struct host_doomed *doomed = host->doomed;
	while (doomed && !str_eq(doomed->id, vm_id))
		doomed = doomed->next;
	pthread_mutex_unlock(&host->lock);
	return doomed != NULL;
}

/* patient: a libvirt that has answered, and finds out what QEMU can do, gets more time. */
struct
try {
	unsigned timeout_ms;
	bool patient;
	int cancel_fd;
};

/* One try; who comes while another is under way shares it. */
static struct virt *try_connect(struct host *host, const struct try *try, struct error **err)
{
	pthread_mutex_lock(&host->lock);
	struct virt *virt = connected(host);
	int r = virt || host->connecting ? 0 : begin_connecting(host, err);
	pthread_mutex_unlock(&host->lock);
	if (virt || r < 0)
		return virt;
	uint64_t begun = now_mono_usec(), end = begun + UINT64_C(1000) * try->timeout_ms;
	r = wait_for(host->idle_fd, end, try->cancel_fd, err);
	pthread_mutex_lock(&host->lock);
	bool asking = host->asking;
	pthread_mutex_unlock(&host->lock);
	if (r == 0 && asking && try->patient)
		r = wait_for(
			host->idle_fd, end + UINT64_C(1000) * ASK_TIMEOUT_MS, try->cancel_fd, err);
	if (r == 0)
		error_set(err, ERR_TIMEOUT, "%s: libvirt has not answered for %u s (%s); %s",
			virt_uri(host->virt), (unsigned)((now_mono_usec() - begun) / 1000000),
			asking ? "virConnectGetDomainCapabilities" : "virConnectOpen",
			virt_advice(host->virt));
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

	pthread_mutex_lock(&host->lock);
	bool known = host->known;
	bool worth_it = host->expected || known || starts_by_itself(host);
	pthread_mutex_unlock(&host->lock);
	const struct try try = {.timeout_ms = known ? CONNECT_AGAIN_MS : CONNECT_TIMEOUT_MS,
		.patient = true,
		.cancel_fd = cancel_fd};
	for (;;) {
		_cleanup_error_ struct error *failed = NULL;
		struct virt *virt = try_connect(host, &try, &failed);
		uint64_t now = now_mono_usec();

		if (virt)
			return virt;
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

struct virt *host_virt_within(struct host *host, unsigned timeout_ms, struct error **err)
{
	return try_connect(host, &(struct try){.timeout_ms = timeout_ms, .cancel_fd = -1}, err);
}

void host_expect_libvirt(struct host *host, bool expected)
{
	pthread_mutex_lock(&host->lock);
	host->expected = host->expected || expected;
	pthread_mutex_unlock(&host->lock);
}
