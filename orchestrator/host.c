#include "orchestrator/host_private.h"

#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/domain_xml.h"
#include "orchestrator/embed_left.h"
#include "orchestrator/process.h"

#define LIBVIRT_DOMAINS_DIR "/var/lib/libvirt/qemu"
#define SETTLE_MS	    3000

/* Two daemons with different state directories must not take each other's domains for their own. */
static char *owner_of(const char *state_dir)
{
	_cleanup_free_ char *real = realpath(state_dir, NULL);
	const char *path = real ? real : state_dir;
	unsigned char digest[16];

	crypto_generichash(
		digest, sizeof(digest), (const unsigned char *)path, strlen(path), NULL, 0);
	return hex_encode(digest, sizeof(digest));
}

struct host *host_new(const struct config *config, struct error **err)
{
	if (sodium_init() < 0) {
		error_set(err, ERR_INTERNAL, "libsodium does not start");
		return NULL;
	}
	struct host *host = xcalloc(1, sizeof(*host));
	_cleanup_free_ char *accel_file = str_printf("%s/accel.json", config->state_dir);
	_cleanup_free_ char *vms = NULL;
	_cleanup_free_ char *root = NULL;

	host->config = config;
	root = host_embed_root(host);
	host->virt = virt_new(config->libvirt_uri, root);
	pthread_mutex_init(&host->lock, NULL);
	host->idle_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	host->owner = owner_of(config->state_dir);
	struct cid_range cids = {0};
	/* The configuration was checked when it was read. */
	free(cid_range_parse(config->cids, &cids));
	host->cids = cid_pool_new(cids);
	host->accel = accel_new(config->accel, accel_file);
	vms = host_vm_dir(host, NULL);
	/* 0711: QEMU runs as another user where we are root, and each VM's directory is its own. */
	if (host->idle_fd < 0)
		error_errno(err, errno, "eventfd");
	if (host->idle_fd < 0 || make_dirs(vms, 0711, err) < 0 ||
		!(host->watcher = vm_watcher_new(err))) {
		host_free(host);
		return NULL;
	}
	return host;
}

void host_free(struct host *host)
{
	if (!host)
		return;
	_cleanup_free_ char *root = host_embed_root(host);
	/* The embedded driver goes with this process. What nobody waits for any more may end, so
	 * that no QEMU is left half started. */
	if (root) {
		virt_settle(host->virt, SETTLE_MS);
		embed_left_end_probes(root);
	}
	pthread_mutex_lock(&host->lock);
	bool busy = host->connecting || host->tidying;
	pthread_mutex_unlock(&host->lock);
	/* The process ends; what libvirt never answered to stays as it is. */
	if (busy)
		return;
	host_forget_domains(host);
	virt_close(host->virt);
	close_fd(&host->idle_fd);
	error_free(host->failed);
	vm_watcher_free(host->watcher);
	accel_free(host->accel);
	cid_pool_free(host->cids);
	pthread_mutex_destroy(&host->lock);
	free(host->owner);
	free(host->emulator);
	free(host);
}

const char *host_emulator(const struct host *host)
{
	return host->emulator;
}

int host_vsock(struct host *host, enum vsock_kind *ret_kind, struct error **err)
{
	int r = 0;

	pthread_mutex_lock(&host->lock);
	if (!host->vsock_known)
		r = vsock_choose(
			host->config->vsock, virt_is_system(host->virt), &host->vsock, err);
	if (r == 0) {
		host->vsock_known = true;
		*ret_kind = host->vsock;
	}
	pthread_mutex_unlock(&host->lock);
	return r;
}

const char *host_accelerator(struct host *host)
{
	return accel_name(host->accel);
}

const char *host_vsock_device(struct host *host)
{
	pthread_mutex_lock(&host->lock);
	const char *name = host->vsock_known ? vsock_kind_name(host->vsock) : NULL;
	pthread_mutex_unlock(&host->lock);
	return name;
}

char *host_embed_root(const struct host *host)
{
	return config_embeds_libvirt(host->config)
		       ? str_printf("%s/libvirt", host->config->state_dir)
		       : NULL;
}

char *host_vm_dir(const struct host *host, const char *vm_id)
{
	return str_printf(
		"%s/vm%s%s", host->config->runtime_dir, vm_id ? "/" : "", vm_id ? vm_id : "");
}

/* Can somebody who is neither owner nor in the group get to this directory and read there? */
static bool others_may_reach(const char *dir)
{
	_cleanup_free_ char *path = realpath(dir, NULL);
	struct stat st;

	if (!path)
		return false;
	for (char *end = path + strlen(path);; end = strrchr(path, '/')) {
		if (!end)
			return true;
		*end = 0;
		if (stat(*path ? path : "/", &st) < 0 || !(st.st_mode & S_IXOTH))
			return false;
		if (!*path)
			return true;
	}
}

/* Links are followed: what counts is where the file is. */
static bool others_may_read(const char *file)
{
	_cleanup_free_ char *path = realpath(file, NULL);
	char *slash = path ? strrchr(path, '/') : NULL;
	struct stat st;

	if (!slash || stat(path, &st) < 0 || !(st.st_mode & S_IROTH))
		return false;
	*slash = 0;
	return others_may_reach(*path ? path : "/");
}

void host_domain_name(const struct host *host, const char *vm_id, char *ret, size_t size)
{
	snprintf(
		ret, size, "%s%s", config_embeds_libvirt(host->config) ? "" : DOMAIN_PREFIX, vm_id);
}

/* libvirtd has its domains' own directories in one that on Debian just its own user and group may
 * pass. QEMU must read a file in there, as whoever it runs. */
static gid_t gid_of_libvirt(void)
{
	struct stat st;

	if (stat(LIBVIRT_DOMAINS_DIR, &st) < 0 || (st.st_mode & S_IXOTH))
		return getegid();
	return st.st_gid;
}

void host_qemu_user(const struct host *host, const char *image_root, uid_t *ret_uid, gid_t *ret_gid)
{
	bool remote = virt_is_system(host->virt);

	*ret_uid = (uid_t)-1;
	*ret_gid = (gid_t)-1;
	if (!remote && (geteuid() != 0 || !virt_is_embedded(host->virt)))
		return;
	/* The system's libvirtd may run QEMU as anybody; as us it reaches what is ours. */
	if (remote && geteuid() != 0) {
		*ret_uid = geteuid();
		*ret_gid = gid_of_libvirt();
		return;
	}
	const struct passwd *pw = getpwnam("libvirt-qemu");
	if (pw && others_may_read(image_root) && others_may_reach(host->config->runtime_dir) &&
		(remote || others_may_reach(host->config->state_dir))) {
		*ret_uid = pw->pw_uid;
		*ret_gid = pw->pw_gid;
		return;
	}
	*ret_uid = 0;
	*ret_gid = 0;
	log_warn("host",
		"QEMU runs as root: the user libvirt-qemu cannot reach all of %s, %s and %s",
		image_root, host->config->runtime_dir, host->config->state_dir);
}

int host_check_memory(uint64_t bytes, struct error **err)
{
	_cleanup_free_ char *text = read_file("/proc/meminfo", 64 * KIB, NULL, NULL);
	unsigned long long total = 0, available = 0;
	const char *p;

	if (!text)
		return 0; /* then QEMU will say */
	if ((p = strstr(text, "MemTotal:")))
		sscanf(p, "MemTotal: %llu", &total);
	if ((p = strstr(text, "MemAvailable:")))
		sscanf(p, "MemAvailable: %llu", &available);
	if (!available || bytes / KIB <= available)
		return 0;
	_cleanup_free_ char *want = format_size(bytes), *has = format_size(total * KIB),
			    *free_now = format_size(available * KIB);
	return error_set(err, ERR_LIMIT,
		"not enough memory: the job asks for %s, this host has %s, of which %s are free",
		want, has, free_now);
}

/* What a daemon before us left. ------------------------------------------------------------------
 */

/* Somebody waits for the daemon. */
#define SWEEP_CONNECT_MS 10000
#define SWEEP_DESTROY_MS 20000

struct sweep {
	struct host *host;
	struct host_left *keep;
	size_t n_keep;
	bool failed; /* libvirt is asked for nothing more */
};

static struct host_left *find_kept(const struct sweep *sweep, const char *id)
{
	for (size_t i = 0; i < sweep->n_keep; i++)
		if (str_eq(sweep->keep[i].id, id))
			return &sweep->keep[i];
	return NULL;
}

static void destroy_left(void *arg, struct virt_domain *domain, const char *name, const char *xml)
{
	_cleanup_error_ struct error *err = NULL;
	struct sweep *sweep = arg;
	char *id = NULL;
	_cleanup_free_ char *owner = domain_xml_owner(xml, &id);
	_cleanup_free_ char *owned_id = id;
	struct host_left *kept = owner && id ? find_kept(sweep, id) : NULL;

	if (kept) {
		kept->there = true;
		return;
	}
	log_info("host", "destroying %s, left behind by a daemon that is gone", name);
	if (!sweep->failed && virt_destroy(domain, SWEEP_DESTROY_MS, NULL, NULL, &err) == 0)
		return;
	sweep->failed = true;
	log_warn("host", "%s: %s", name, err ? err->text : "later");
	if (id)
		host_destroy_later(sweep->host, id);
}

/* The directories of VMs that are gone, or (later) of those that libvirt may still have: it removes
 * them. Their device's process left when its QEMU did. */
static void remove_left_dirs(const char *vms, const struct sweep *sweep, bool later)
{
	DIR *dir = opendir(vms);
	const struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		_cleanup_error_ struct error *err = NULL;
		if (!str_starts(entry->d_name, "vm-"))
			continue;
		const struct host_left *kept = find_kept(sweep, entry->d_name);
		if ((kept && kept->there) || host_is_doomed(sweep->host, entry->d_name))
			continue;
		_cleanup_free_ char *path = str_printf("%s/%s", vms, entry->d_name);
		if (later)
			host_destroy_later(sweep->host, entry->d_name);
		else if (remove_tree(path, &err) < 0)
			log_warn("host", "%s", err->text);
	}
	closedir(dir);
}

static void kill_left_processes(const char *vms, const struct sweep *sweep)
{
	_cleanup_free_ const char **ids = xcalloc(sweep->n_keep, sizeof(*ids));
	size_t n = 0;

	for (size_t i = 0; i < sweep->n_keep; i++)
		if (sweep->keep[i].there)
			ids[n++] = sweep->keep[i].id;
	process_kill_orphans(vms, ids, n);
}

/* The embedded driver takes up whatever it finds when it is opened: of a QEMU that is half made,
 * never came to be, or stands still, it lets nobody touch the domain for half a minute. So what may
 * not be taken up ends before. */
static void sweep_embedded(const struct host *host, const struct sweep *sweep, const char *vms)
{
	_cleanup_free_ char *root = host_embed_root(host);
	_cleanup_free_ const char **ids = xcalloc(sweep->n_keep, sizeof(*ids));

	if (!root)
		return;
	embed_left_end_probes(root);
	if (!embed_left_any(root))
		return;
	for (size_t i = 0; i < sweep->n_keep; i++)
		ids[i] = sweep->keep[i].id;
	process_kill_orphans(vms, ids, sweep->n_keep);
	embed_left_sweep(root, ids, sweep->n_keep);
}

/* Of those that might have been taken up, but have gone with the daemon: the driver has found that
 * out by itself, and leaves the log. */
static void remove_left_logs(const struct host *host, const struct sweep *sweep)
{
	_cleanup_free_ char *root = host_embed_root(host);

	for (size_t i = 0; root && i < sweep->n_keep; i++)
		if (!sweep->keep[i].there)
			embed_left_remove_log(root, sweep->keep[i].id);
}

static bool any_vm_dir(const char *vms)
{
	DIR *dir = opendir(vms);
	const struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir)))
		found = str_starts(entry->d_name, "vm-");
	closedir(dir);
	return found;
}

/* libvirt may be away, and its VMs are not: they are known by their QEMU, and followed without it.
 */
static void find_without_libvirt(struct sweep *sweep)
{
	for (size_t i = 0; i < sweep->n_keep; i++) {
		struct host_left *left = &sweep->keep[i];
		_cleanup_close_ int fd = process_open(left->qemu, left->qemu_start);

		left->there = fd >= 0;
	}
}

int host_sweep(struct host *host, struct host_left *keep, size_t n_keep, struct error **err)
{
	struct sweep sweep = {.host = host, .keep = keep, .n_keep = n_keep};
	_cleanup_free_ char *vms = host_vm_dir(host, NULL);

	/* A VM has its directory before its domain and after it: without one there is nothing to
	 * ask libvirt for, and the first command need not wait for it. After the machine was
	 * started anew there are none, but what libvirt wrote is on a disk. */
	bool any = any_vm_dir(vms);
	if (!any)
		sweep.n_keep = 0;
	sweep_embedded(host, &sweep, vms);
	if (!any)
		return 0;
	/* Somebody waits for the daemon, and libvirt may not be there. */
	struct virt *virt = host_virt_within(host, SWEEP_CONNECT_MS, err);
	/* VMs that an earlier daemon had are worth waiting for a libvirt that had them too. */
	host_expect_libvirt(host, n_keep > 0);
	bool swept = virt && virt_each_ours(virt, host->owner, destroy_left, &sweep, err) >= 0;
	if (!swept)
		find_without_libvirt(&sweep);
	kill_left_processes(vms, &sweep);
	remove_left_dirs(vms, &sweep, !swept);
	if (swept)
		remove_left_logs(host, &sweep);
	return swept ? 0 : error_wrap(err, "looking for VMs left behind");
}
