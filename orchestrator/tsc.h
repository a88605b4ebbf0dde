/* The frequency of this host's time stamp counter, which is also an emulated guest's: a guest that
 * is not told finds it out against another timer, and on a loaded host that goes wrong. */
#pragma once

#include <stdint.h>

/* In kHz; measured once, in 40 ms. 0: not known, for there is none or it does not run evenly. */
uint32_t tsc_khz(void);
