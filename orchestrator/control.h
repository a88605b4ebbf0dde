/* The daemon's door: the control socket, who may come in, and the calls they make. */
#pragma once

#include "common/error.h"

struct control;
struct daemon;

/* Listens on the control socket. On the loop's thread, as all else here. */
struct control *control_new(struct daemon *daemon, struct error **err);
/* No new connections; the socket's name is free. Calls go on. */
void control_close(struct control *control);
/* End the calls that are still under way, wherever they wait, and say so on the loop. */
void control_end(struct control *control, void (*done)(void *arg), void *arg);
/* After control_end()'s callback, or when nobody was let in yet. NULL is allowed. */
void control_free(struct control *control);

unsigned control_connections(const struct control *control);
