/* rpc_cancel() takes locks, so a signal handler may not call it: the signals are blocked in every
 * thread, and one thread waits for them with sigwait(). It lives until the program ends. */
#include "orchestrator/cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* By the lock. */
static struct rpc_call *watched;
static bool held;
static int came;

static void take_signal(int sig)
{
	pthread_mutex_lock(&lock);
	if (!held || came)
		_exit(128 + sig);
	came = sig;
	if (watched)
		rpc_cancel(watched);
	pthread_mutex_unlock(&lock);
}

static void *wait_for_signals(void *arg)
{
	const sigset_t *set = arg;
	int sig;

	for (;;)
		if (sigwait(set, &sig) == 0)
			take_signal(sig);
	return NULL;
}

void interrupt_begin(void)
{
	static sigset_t set;
	static bool begun;
	struct sigaction old;
	pthread_t thread;

	if (begun)
		return;
	begun = true;
	sigemptyset(&set);
	/* Under nohup and in a script's background they are ignored, and stay so. */
	for (int i = 0; i < 2; i++) {
		int sig = i ? SIGTERM : SIGINT;
		if (sigaction(sig, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaddset(&set, sig);
	}
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&thread, NULL, wait_for_signals, &set) != 0)
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	else
		pthread_detach(thread);
}

void interrupt_hold(void)
{
	pthread_mutex_lock(&lock);
	held = true;
	pthread_mutex_unlock(&lock);
}

void interrupt_watch(struct rpc_call *call)
{
	pthread_mutex_lock(&lock);
	watched = call;
	if (call && came)
		rpc_cancel(call);
	pthread_mutex_unlock(&lock);
}

int interrupt_signal(void)
{
	pthread_mutex_lock(&lock);
	int sig = came;
	pthread_mutex_unlock(&lock);
	return sig;
}
