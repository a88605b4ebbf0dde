/* A cgroup (v2) for each job: its ceiling of memory and processes, whether the kernel had to kill
 * it for memory, and a way to kill all of it at once. Where there is no cgroup2 that we may write,
 * a job has none and everything here does nothing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cgroup_tree; /* where the worker may make cgroups */
struct cgroup;

/* NULL when there is no such place. As PID 1 it is the mount at /sys/fs/cgroup; else the worker's
 * own cgroup. */
struct cgroup_tree *cgroup_tree_open(bool init);
void cgroup_tree_free(struct cgroup_tree *tree);

struct cgroup_limits {
	uint64_t memory; /* bytes; 0: all of the machine's but a share for the worker */
	unsigned pids;	 /* 0: none */
};

/* NULL if the tree is NULL or the cgroup cannot be made (logged). name: a plain file name. */
struct cgroup *cgroup_new(
	struct cgroup_tree *tree, const char *name, const struct cgroup_limits *limits);
/* As in cgroup_limits, by what is available now; for one that was made a while ago. NULL is
 * allowed. */
void cgroup_renew_memory(struct cgroup *cgroup, uint64_t memory);
/* An fd of its directory, to make a process in it. Borrowed; -1 for NULL. */
int cgroup_fd(const struct cgroup *cgroup);
void cgroup_kill(struct cgroup *cgroup);
/* Did the kernel kill something in there for want of memory? */
bool cgroup_oom_killed(const struct cgroup *cgroup);
/* Kills what is left and removes the cgroup; waits for that a bounded time. */
void cgroup_free(struct cgroup *cgroup);
/* Kills for want of memory in the whole machine, for where there are no cgroups. */
uint64_t machine_oom_kills(void);
