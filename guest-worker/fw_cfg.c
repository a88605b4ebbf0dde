#include "guest-worker/fw_cfg.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>

#include "common/util.h"

#define PORT_SELECT   0x510
#define PORT_DATA     0x511
#define PORTS	      2
#define KEY_SIGNATURE 0x00
#define KEY_DIRECTORY 0x19
#define NAME_BYTES    56
/* The host is trusted; this is against reading an absent device for ever. */
#define FILES_MAX 1024

static void read_bytes(void *to, size_t n)
{
	uint8_t *p = to;

	while (n--)
		*p++ = inb(PORT_DATA);
}

static uint32_t read_be32(void)
{
	uint8_t b[4];

	read_bytes(b, sizeof(b));
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* The key and size of a file; -1: there is none of that name. */
static int find(const char *name, uint16_t *ret_key, uint32_t *ret_size)
{
	char signature[4];

	outw(KEY_SIGNATURE, PORT_SELECT);
	read_bytes(signature, sizeof(signature));
	if (memcmp(signature, "QEMU", sizeof(signature)) != 0)
		return -1;
	outw(KEY_DIRECTORY, PORT_SELECT);
	uint32_t count = read_be32();
	count = MIN(count, (uint32_t)FILES_MAX);
	while (count--) {
		char found[NAME_BYTES];
		uint32_t size = read_be32();
		uint32_t key = read_be32() >> 16; /* two bytes of key, two that are reserved */
		read_bytes(found, sizeof(found));
		if (strncmp(found, name, sizeof(found)) == 0) {
			*ret_key = (uint16_t)key;
			*ret_size = size;
			return 0;
		}
	}
	return -1;
}

char *fw_cfg_read(const char *name, size_t cap, size_t *ret_size, struct error **err)
{
	char *text = NULL;
	uint16_t key;
	uint32_t size;

	if (ioperm(PORT_SELECT, PORTS, 1) < 0)
		return NULL; /* a machine, or a container, where this is not ours to do */
	if (find(name, &key, &size) == 0) {
		if (size > cap) {
			error_set(err, ERR_LIMIT, "fw_cfg %s: larger than %zu bytes", name, cap);
		} else {
			text = xcalloc(size + 1, 1);
			outw(key, PORT_SELECT);
			read_bytes(text, size);
			*ret_size = size;
		}
	}
	/* Children inherit the right: give it back before there are any. */
	ioperm(PORT_SELECT, PORTS, 0);
	return text;
}
