/* SIGINT and SIGTERM while a job is submitted or followed: what blocks is cancelled, and the
 * command says what goes on before it leaves. A second signal ends it at once. */
#pragma once

#include "common/rpc.h"

/* Before any other thread exists (that is before connect_daemon()). Until interrupt_hold() a signal
 * ends the program as it always does. */
void interrupt_begin(void);
/* From now on a signal is kept for interrupt_signal(), and cancels the call that is watched. */
void interrupt_hold(void);
/* NULL: none; before the call is closed. A signal that came already cancels it at once. */
void interrupt_watch(struct rpc_call *call);
/* The signal that came, or 0. */
int interrupt_signal(void);
