/* Theory of operation. A root file system has files of many users and is made by programs that
 * believe they are root. Root runs them in new namespaces, so that their mounts end with them;
 * anybody else in a user namespace too, in which he is root and his subordinate ids are the others.
 * Each step enters the namespaces anew, the ids map the same way each time. */
#include "orchestrator/image_root.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>

#include "common/util.h"

#define INSTALL_TIMEOUT_MS (45 * 60 * 1000)
#define PACK_TIMEOUT_MS	   (20 * 60 * 1000)

/* Does /etc/subuid or /etc/subgid have a range for this user? */
static bool has_range(const char *path, const char *user)
{
	_cleanup_free_ char *text = read_file(path, MIB, NULL, NULL);
	_cleanup_free_ char *by_name = str_printf("%s:", user);
	_cleanup_free_ char *by_id = str_printf("%u:", (unsigned)getuid());
	char *save = NULL;

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
		line = strtok_r(NULL, "\n", &save))
		if (str_starts(line, by_name) || str_starts(line, by_id))
			return true;
	return false;
}

int image_root_check(bool from_recipe, struct error **err)
{
	static const char *const tools[] = {
		"unshare", "mkfs.erofs", "tar", "mmdebstrap", "newuidmap"};
	const struct passwd *user = getpwuid(getuid());
	const char *name = user ? user->pw_name : "?";

	if (image_tools_need(tools, from_recipe ? 4 : 3, err) < 0)
		return -1;
	if (geteuid() == 0)
		return 0;
	if (image_tools_need(tools + 4, 1, err) < 0)
		return -1;
	if (!has_range("/etc/subuid", name) || !has_range("/etc/subgid", name))
		return error_set(err, ERR_DENIED,
			"%s has no subordinate ids, without which only root can make a root file "
			"system; root gives them by: usermod --add-subuids 100000-165535 "
			"--add-subgids 100000-165535 %s",
			name, name);
	return 0;
}

static void enter_namespaces(struct arg_list *argv)
{
	arg_add(argv, "unshare");
	if (geteuid() != 0) {
		arg_add(argv, "--map-auto");
		arg_add(argv, "--map-root-user");
	}
	arg_add(argv, "--mount");
	arg_add(argv, "--pid");
	arg_add(argv, "--ipc");
	arg_add(argv, "--uts");
	arg_add(argv, "--mount-proc");
	arg_add(argv, "--kill-child");
	arg_add(argv, "--");
}

static int run_inside(struct image_tools *tools, const char *what, const struct arg_list *command,
	int timeout_ms, struct error **err)
{
	struct arg_list argv = {0};

	enter_namespaces(&argv);
	for (size_t i = 0; i < command->n; i++)
		arg_add(&argv, command->items[i]);
	int r = image_tools_run(tools, what, argv.items, -1, -1, timeout_ms, err);
	arg_clear(&argv);
	return r;
}

/* Calls add for each line of the answer that begins with the word. */
static void add_lines(
	struct arg_list *argv, const char *answer, const char *word, const char *format_prefix)
{
	_cleanup_free_ char *text = xstrdup(answer);
	_cleanup_free_ char *prefix = str_printf("%s ", word);
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (str_starts(line, prefix))
			arg_addf(argv, "%s%s", format_prefix, line + strlen(prefix));
}

int image_root_install(const struct image_root *root, struct error **err)
{
	const struct recipe *recipe = root->recipe;
	_cleanup_free_ char *began = str_printf("%s/began", root->work);
	struct arg_list argv = {0};

	/* What is newer than this file was written by the installation (pack-root). */
	if (write_file(began, "", 0, 0644, false, err) < 0)
		return -1;
	arg_add(&argv, "mmdebstrap");
	arg_add(&argv, "--mode=root");
	arg_add(&argv, "--format=directory");
	arg_add(&argv, "--verbose");
	arg_addf(&argv, "--variant=%s", recipe_variant_name(recipe->variant));
	/* The tree is thrown away when anything fails: no need to wait for the disk. */
	arg_add(&argv, "--dpkgopt=force-unsafe-io");
	arg_add(&argv, "--aptopt=Apt::Install-Recommends \"false\"");
	add_lines(&argv, root->sources, "option", "--aptopt=");
	for (size_t i = 0; i < recipe->n_exclude; i++)
		arg_addf(&argv, "--dpkgopt=path-exclude=%s", recipe->exclude[i]);
	for (size_t i = 0; i < recipe->n_packages; i++)
		arg_addf(&argv, "--include=%s", recipe->packages[i]);
	arg_add(&argv, recipe->suite);
	arg_addf(&argv, "%s/tree", root->work);
	if (recipe->mirror)
		arg_addf(&argv, "deb %s %s main", recipe->mirror, recipe->suite);
	else
		add_lines(&argv, root->sources, "source", "");
	int r = run_inside(root->tools, "installing packages", &argv, INSTALL_TIMEOUT_MS, err);
	arg_clear(&argv);
	return r;
}

int image_root_pack(const struct image_root *root, const char *foreign, struct error **err)
{
	const struct recipe *recipe = root->recipe;
	struct arg_list argv = {0};

	arg_add(&argv, root->pack_script);
	if (!foreign)
		arg_add(&argv, "--recipe");
	for (size_t i = 0; recipe && i < recipe->n_users; i++) {
		arg_add(&argv, "--user");
		arg_addf(&argv, "%s:%u:%s", recipe->users[i]->name, recipe->users[i]->uid,
			recipe->users[i]->home);
	}
	if (!recipe) {
		arg_add(&argv, "--user");
		arg_add(&argv, "job:1000:/home/job");
	}
	if (foreign)
		arg_add(&argv, foreign);
	else
		arg_addf(&argv, "%s/tree", root->work);
	arg_add(&argv, root->work);
	arg_add(&argv, root->output);
	arg_add(&argv, root->packages);
	int r = run_inside(root->tools, "making the root file system", &argv, PACK_TIMEOUT_MS, err);
	arg_clear(&argv);
	return r;
}

int image_root_remove(struct image_tools *tools, const char *path, struct error **err)
{
	struct arg_list argv = {0};

	if (remove_tree(path, NULL) == 0)
		return 0;
	arg_add(&argv, "rm");
	arg_add(&argv, "-rf");
	arg_add(&argv, "--");
	arg_add(&argv, path);
	int r = run_inside(
		tools, "removing what an earlier build left", &argv, PACK_TIMEOUT_MS, err);
	arg_clear(&argv);
	return r;
}
