/* Who a job runs as. The job root's own /etc/passwd and /etc/group are read here, by hand and with
 * caps: libc's functions would read the worker's, and do not work in a static program. */
#pragma once

#include <sys/types.h>

#include "common/error.h"
#include "guest-worker/job_root.h"

#define JOB_USER_DEFAULT "job"
#define JOB_USER_ID	 1000
#define JOB_USER_GROUPS	 32

struct job_user {
	char name[64];
	char home[256]; /* absolute */
	uid_t uid;
	gid_t gid;
	gid_t groups[JOB_USER_GROUPS]; /* supplementary */
	size_t n_groups;
	/* This process cannot become anybody else, so nothing is to be changed. */
	bool self;
};

/* name: a name, a number, or NULL for the default user: "job", or uid 1000 in a root that has no
 * such name (in a machine's own root "nobody", as uid 1000 may well be a person there). A worker
 * without root privileges is always itself; another user's name is then ERR_DENIED. */
int job_user_find(
	const struct job_root *root, const char *name, struct job_user *ret, struct error **err);

/* From here on this thread, and no other, opens files with no more rights than the user has; until
 * job_user_leave_files(). Nothing changes for `self`. */
int job_user_enter_files(const struct job_user *user, struct error **err);
void job_user_leave_files(const struct job_user *user);
