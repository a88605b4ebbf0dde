#include "guest-worker/job_user.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/util.h"

#define LIMIT_PASSWD (1 * MIB)
#define NOBODY	     65534

/* A decimal id of a user or group; (uid_t)-1 means "none" to the kernel and is refused. */
static int parse_id(const char *s, unsigned *ret)
{
	unsigned long v = 0;

	if (!*s || strlen(s) > 10)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -1;
		v = v * 10 + (unsigned long)(*s - '0');
	}
	if (v >= UINT32_MAX)
		return -1;
	*ret = (unsigned)v;
	return 0;
}

/* Cut the next line out of *text into n fields at ':'. False at the end. Short lines have NULL
 * fields, the last field takes what is left. */
static bool next_entry(char **text, char **fields, size_t n)
{
	char *line = strsep(text, "\n");

	if (!line)
		return false;
	for (size_t i = 0; i < n; i++)
		fields[i] = i + 1 < n ? strsep(&line, ":") : line;
	return true;
}

static bool copy_string(char *to, size_t size, const char *from)
{
	size_t n = strlen(from);

	if (n >= size)
		return false;
	memcpy(to, from, n + 1);
	return true;
}

/* The entry with that name, or with that uid if name is NULL. */
static bool find_passwd(
	const struct job_root *root, const char *name, uid_t uid, struct job_user *ret)
{
	_cleanup_free_ char *all = job_root_read(root, "/etc/passwd", LIMIT_PASSWD);
	char *rest = all, *f[7];
	unsigned found_uid, found_gid;

	while (rest && next_entry(&rest, f, 7)) {
		if (!f[6] || parse_id(f[2], &found_uid) < 0 || parse_id(f[3], &found_gid) < 0)
			continue;
		if (name ? !str_eq(f[0], name) : found_uid != uid)
			continue;
		if (!copy_string(ret->name, sizeof(ret->name), f[0]) ||
			!copy_string(ret->home, sizeof(ret->home), f[5]))
			continue;
		if (ret->home[0] != '/')
			strcpy(ret->home, "/");
		ret->uid = found_uid;
		ret->gid = found_gid;
		return true;
	}
	return false;
}

static void find_groups(const struct job_root *root, struct job_user *user)
{
	_cleanup_free_ char *all = job_root_read(root, "/etc/group", LIMIT_PASSWD);
	char *rest = all, *f[4];
	unsigned gid;

	while (rest && next_entry(&rest, f, 4) && user->n_groups < JOB_USER_GROUPS) {
		if (!f[3] || parse_id(f[2], &gid) < 0 || gid == user->gid)
			continue;
		for (char *member; (member = strsep(&f[3], ","));) {
			if (str_eq(member, user->name)) {
				user->groups[user->n_groups++] = gid;
				break;
			}
		}
	}
}

static void fill_nameless(struct job_user *user, unsigned uid)
{
	snprintf(user->name, sizeof(user->name), "%u", uid);
	strcpy(user->home, "/");
	user->uid = uid;
	user->gid = uid;
}

static int find_self(
	const struct job_root *root, const char *name, struct job_user *ret, struct error **err)
{
	struct job_user wanted = {0};
	unsigned uid;

	if (!find_passwd(root, NULL, geteuid(), ret))
		fill_nameless(ret, geteuid());
	ret->gid = getegid();
	ret->self = true;
	if (!name || str_eq(name, ret->name))
		return 0;
	if (parse_id(name, &uid) == 0
			? uid == ret->uid
			: find_passwd(root, name, 0, &wanted) && wanted.uid == ret->uid)
		return 0;
	return error_set(err, ERR_DENIED,
		"cannot become user %s: the worker runs as %s and not as root", name, ret->name);
}

int job_user_find(
	const struct job_root *root, const char *name, struct job_user *ret, struct error **err)
{
	unsigned uid;

	memset(ret, 0, sizeof(*ret));
	if (name && (!*name || strlen(name) > LIMIT_NAME || !utf8_valid(name, strlen(name))))
		return error_set(err, ERR_INVALID, "not a user's name");
	if (geteuid() != 0)
		return find_self(root, name, ret, err);

	if (!name) {
		if (!find_passwd(root, JOB_USER_DEFAULT, 0, ret)) {
			uid = job_root_is_separate(root) ? JOB_USER_ID : NOBODY;
			if (!find_passwd(root, NULL, uid, ret))
				fill_nameless(ret, uid);
		}
	} else if (!find_passwd(root, name, 0, ret)) {
		if (parse_id(name, &uid) < 0)
			return error_set(
				err, ERR_NOT_FOUND, "no user %s in the image's /etc/passwd", name);
		if (!find_passwd(root, NULL, uid, ret))
			fill_nameless(ret, uid);
	}
	find_groups(root, ret);
	return 0;
}

/* The system calls themselves are a thread's; libc's setgroups() is the whole process's. A thread
 * whose fsuid is not root's has none of the capabilities that pass over permissions. */
int job_user_enter_files(const struct job_user *user, struct error **err)
{
	if (user->self || user->uid == 0)
		return 0;
	if (syscall(SYS_setgroups, user->n_groups, user->groups) < 0)
		return error_errno(err, errno, "groups of user %s", user->name);
	setfsgid(user->gid);
	setfsuid(user->uid);
	/* They tell nothing but what was before. */
	if ((uid_t)setfsuid((uid_t)-1) == user->uid && (gid_t)setfsgid((gid_t)-1) == user->gid)
		return 0;
	job_user_leave_files(user);
	return error_set(err, ERR_DENIED, "cannot read as user %s", user->name);
}

void job_user_leave_files(const struct job_user *user)
{
	if (user->self || user->uid == 0)
		return;
	setfsuid(geteuid());
	setfsgid(getegid());
	syscall(SYS_setgroups, 0, NULL);
}
