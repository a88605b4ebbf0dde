#include "orchestrator/embed_left.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/process.h"

/* Statuses and pid files; monitor sockets and keys; the rest by what libvirt makes for any VM. */
static const char *const places[] = {
	"run/qemu", "lib/qemu", "lib/qemu/channel/target", "lib/qemu/ram", "log/qemu"};

/* The VM's id, or its beginning where libvirt cuts names: "vm-28cb0017.xml",
 * "domain-2-vm-28cb0017". NULL: of no VM of ours. */
static char *vm_of(const char *name)
{
	const char *at = strstr(name, "vm-");

	if (!at || (at != name && at[-1] != '-'))
		return NULL;
	return str_printf("%.*s", (int)strcspn(at, "."), at);
}

static bool is_kept(const char *id, const char *const *keep, size_t n_keep)
{
	for (size_t i = 0; i < n_keep; i++)
		if (str_starts(keep[i], id))
			return true;
	return false;
}

/* Remove those that are not kept; with look: see whether there are any. */
static bool sweep(const char *path, const char *const *keep, size_t n_keep, bool look)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;
	bool any = false;

	if (!dir)
		return false;
	while (!(any && look) && (entry = readdir(dir))) {
		_cleanup_error_ struct error *err = NULL;
		_cleanup_free_ char *id = vm_of(entry->d_name);

		if (!id || is_kept(id, keep, n_keep))
			continue;
		any = true;
		_cleanup_free_ char *left = str_printf("%s/%s", path, entry->d_name);
		if (!look && remove_tree(left, &err) < 0)
			log_warn("host", "%s", err->text);
	}
	closedir(dir);
	return any;
}

static bool sweep_all(const char *root, const char *const *keep, size_t n_keep, bool look)
{
	bool any = false;

	for (size_t i = 0; i < ARRAY_SIZE(places) && !(any && look); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", root, places[i]);

		any |= sweep(path, keep, n_keep, look);
	}
	return any;
}

bool embed_left_any(const char *root)
{
	return sweep_all(root, NULL, 0, true);
}

void embed_left_sweep(const char *root, const char *const *keep, size_t n_keep)
{
	sweep_all(root, keep, n_keep, false);
}

/* lib/qemu/qmp-XXXXXX/ has the probe's monitor and pid file. */
void embed_left_end_probes(const char *root)
{
	_cleanup_free_ char *path = str_printf("%s/lib/qemu", root);
	_cleanup_free_ char *prefix = str_printf("%s/qmp-", path);
	DIR *dir = opendir(path);
	const struct dirent *entry;
	bool ended = false;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		_cleanup_error_ struct error *err = NULL;

		if (!str_starts(entry->d_name, "qmp-"))
			continue;
		if (!ended)
			process_kill_naming(prefix);
		ended = true;
		_cleanup_free_ char *left = str_printf("%s/%s", path, entry->d_name);
		if (remove_tree(left, &err) < 0)
			log_warn("host", "%s", err->text);
	}
	closedir(dir);
}

void embed_left_remove_log(const char *root, const char *vm_id)
{
	_cleanup_free_ char *path = str_printf("%s/log/qemu/%s.log", root, vm_id);

	unlink(path);
}
