/* The ports of vsock_guest.c. */
#pragma once

/* in the guest */
#define GUEST_ECHO    1000
#define GUEST_SINK    1001
#define GUEST_SOURCE  1002
#define GUEST_HALF    1003
#define GUEST_CONTROL 1004
#define GUEST_NOBODY  1999 /* nobody listens there */

/* on the host */
#define GUEST_READY  9998
#define GUEST_RESULT 2000
