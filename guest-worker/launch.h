/* Starting one job: the plan, made by the worker, and the process that carries it out.
 *
 *   worker ── clone ──> job init ── clone ──> the job's process ── exec ──> its program
 *
 * The job init (job_init.c) is process 1 of the job's namespaces: it makes their mounts, watches
 * the program, takes in its orphans, and when the program has ended kills what is left and reports.
 * It is forked from a program with threads and never execs, so it works only on what the plan has
 * ready: it allocates nothing, takes no lock, and reads no clock.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "guest-worker/job_root.h"
#include "guest-worker/job_user.h"
#include "guest-worker/sandbox.h"
#include "worker.pb-c.h"

struct launch {
	const struct job_root *root;   /* borrowed */
	const struct sandbox *sandbox; /* borrowed */
	struct job_user user;
	char **argv, **envp; /* owned */
	char **programs;     /* owned; paths to try in this order */
	char *workdir;	     /* owned; absolute */
	char *script;	     /* owned; name below the root's /tmp, removed with the plan; or NULL */
};

/* ERR_INVALID: the request contradicts itself. Anything else: it cannot be started here. */
int launch_plan(const Worker__V1__RunStart *start, const struct job_root *root,
	const struct sandbox *sandbox, struct launch *ret, struct error **err);
void launch_destroy(struct launch *launch);

struct launched {
	pid_t pid;     /* of the job init */
	int pidfd;     /* owned; readable when no process of the job is left */
	int report_fd; /* owned; struct launch_report, non-blocking */
	int out_fd;    /* owned; non-blocking */
	int err_fd;
};

/* The calling thread must outlive the job: its end would end the job. cgroup_fd: of its directory,
 * or -1. */
int launch_start(
	const struct launch *launch, int cgroup_fd, struct launched *ret, struct error **err);

/* Signals that the job init takes. */
#define LAUNCH_SIGNAL_STOP SIGTERM /* passes it on to the program's process group */
#define LAUNCH_SIGNAL_KILL SIGUSR1 /* kills everything */

enum launch_step {
	STEP_PREPARE, /* pipes, fds */
	STEP_MOUNT,
	STEP_ROOT,
	STEP_FORK,
	STEP_CGROUP,
	STEP_LIMITS,
	STEP_CAPS,
	STEP_USER,
	STEP_WORKDIR,
	STEP_FILTER,
	STEP_INTERPRETER, /* the program is there, the interpreter it names is not */
	STEP_EXEC,
};

/* At most two come: STARTED or FAILED, then ENDED after STARTED. Smaller than PIPE_BUF, so each is
 * read whole. */
struct launch_report {
	enum { LAUNCH_STARTED, LAUNCH_FAILED, LAUNCH_ENDED } type;
	int pid;		/* STARTED: as the job sees it */
	enum launch_step step;	/* FAILED */
	int errnum;		/* FAILED */
	int status;		/* ENDED: of waitpid */
	uint64_t user_usec;	/* ENDED: all processes of the job */
	uint64_t system_usec;	/* ENDED */
	uint64_t max_rss_bytes; /* ENDED: of the largest */
};

/* job_init.c */
struct job_init_fds {
	int in, out, err, report, cgroup;
};
_Noreturn void job_init_run(
	const struct launch *launch, unsigned namespaces, const struct job_init_fds *fds);
