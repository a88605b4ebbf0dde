/* Places at which a test kills the process, to see what the next one makes of it. Only in programs
 * built with FAILPOINTS=1; elsewhere this is nothing at all.
 *
 * ORCHESTRATOR_FAILPOINT=NAME:N ends the process by SIGKILL when it passes NAME for the N-th time;
 * NAME:N:crash by an illegal instruction; with NAME:N:hang all its threads stand still from then
 * on. Names are literals, "where.what", so that a test finds them all in the sources. A guest's
 * worker has the variable from its kernel's command line. */
#pragma once

#ifdef FAILPOINTS
void failpoint_pass(const char *name);
#define FAILPOINT(name) failpoint_pass(name)
#else
#define FAILPOINT(name) ((void)0)
#endif
