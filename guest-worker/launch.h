/* Starting one job: the plan, made by the worker, and the process that carries it out.
 *
 *   worker ── clone ──> job init ── clone ──> the job's process ── exec ──> its program
 *
 * The job init (job_init.c) is process 1 of the job's namespaces: it makes their mounts, watches
 * the program, takes in its orphans, and when the program has ended kills what is left and reports.
 * It is made before there is a plan, with everything done that does not depend on one: the job's
 * process, confined already, waits for it at a socket. So it may be made ahead (spare.h). Then it
 * is the worker's own program executed anew: nothing of the worker's memory is in it, it is small,
 * and the exec of the job's program has little to take apart. That takes longer than a fork, so one
 * that is made when a job waits for it is a copy of the worker, on which job_init.c may do little.
 */
#pragma once

#include <stdbool.h>
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
	int report_fd; /* owned; from the job init; it stays until this is closed */
	int start_fd;  /* owned; to and from the job's process, until that has become the program */
	int out_fd;    /* owned; non-blocking */
	int err_fd;
};

/* launch_start.c: a job init without a plan. The calling thread must outlive it: its end would end
 * the job. cgroup_fd: of its directory, or -1. ahead: executed anew. */
int launch_prepare(const struct job_root *root, const struct sandbox *sandbox, int cgroup_fd,
	bool ahead, struct launched *ret, struct error **err);
/* Give it its plan, which has the same root and sandbox. Waits for the job's process to take that
 * in, a bounded time. On failure the job init is of no use any more. */
int launch_start(const struct launch *launch, const struct launched *process, struct error **err);
/* Kill a job init, wait for its end a bounded time, close what is open. False: it does not end. */
bool launched_end(struct launched *process);

#define LAUNCH_PIDS_MAX 4096 /* processes of a job */

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

/* The job's process says by start_fd: STARTING, of which the end of start_fd makes a start, or else
 * FAILED. The job init says by report_fd: ENDED, with which nothing of the job is left but itself,
 * or FAILED, when it could not make the job's process. Each comes whole. */
struct launch_report {
	enum { LAUNCH_STARTING = 1, LAUNCH_FAILED, LAUNCH_ENDED } type;
	int pid;		/* STARTING: as the job sees it */
	enum launch_step step;	/* FAILED */
	int errnum;		/* FAILED */
	int status;		/* ENDED: of waitpid */
	uint64_t user_usec;	/* ENDED: all processes of the job */
	uint64_t system_usec;	/* ENDED */
	uint64_t max_rss_bytes; /* ENDED: of the largest */
};

/* Between launch_start.c and job_init.c. -------------------------------------------------------
 */

/* A program that is executed with this as its only argument is a job init, before its main(). */
extern char job_init_name[];
/* Or, in a process forked from the worker. */
_Noreturn void job_init_run(void);

/* The job init's fds, which it has from its birth. */
enum {
	JOB_INIT_IN,
	JOB_INIT_OUT,
	JOB_INIT_ERR,
	JOB_INIT_REPORT,
	JOB_INIT_CGROUP, /* if it has one */
	JOB_INIT_START,
	JOB_INIT_FDS
};
