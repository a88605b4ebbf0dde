#include "orchestrator/vm_note.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

#define NOTE_CAP (64 * KIB)

static char *path_of(const char *job_dir)
{
	return str_printf("%s/vm.json", job_dir);
}

int vm_note_write(const char *job_dir, const struct vm_note *note, struct error **err)
{
	_cleanup_free_ char *path = path_of(job_dir);
	_cleanup_free_ char *secret = hex_encode(note->secret, sizeof(note->secret));
	json_t *times = json_array();

	for (size_t i = 0; i < STAGES; i++)
		json_array_append_new(times, json_integer((json_int_t)note->times[i]));
	json_t *json = json_pack("{s:I,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:b,s:b,s:I,s:I,s:I,s:I,s:I,s:I,"
				 "s:I,s:I,s:I,s:o,s:s}",
		"attempt", (json_int_t)note->attempt, "id", note->id, "uuid", note->uuid, "image",
		note->image, "image_digest", note->image_digest, "secret", secret, "cid",
		(json_int_t)note->cid, "vsock", (json_int_t)note->vsock_kind, "kvm", note->kvm,
		"pooled", note->pooled, "uid", (json_int_t)note->uid, "gid", (json_int_t)note->gid,
		"cpus", (json_int_t)note->cpus, "memory", (json_int_t)note->memory_bytes, "started",
		(json_int_t)note->started_usec, "device", (json_int_t)note->device, "qemu",
		(json_int_t)note->qemu, "device_start", (json_int_t)note->device_start,
		"qemu_start", (json_int_t)note->qemu_start, "times", times, "cancelled",
		note->cancelled);
	_cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!text)
		return error_set(err, ERR_INTERNAL, "%s: cannot be made", path);
	/* Not durable: a VM does not survive what takes the page cache away. */
	return write_file(path, text, strlen(text), 0600, false, err);
}

static int copy(char *to, size_t size, const char *from)
{
	return (size_t)snprintf(to, size, "%s", from) < size ? 0 : -1;
}

static int unpack(json_t *json, struct vm_note *ret)
{
	const char *id, *uuid, *image, *digest, *secret, *cancelled = "";
	json_int_t attempt, cid, vsock, uid, gid, cpus, memory, started, device, qemu, device_start,
		qemu_start;
	json_t *times;
	int kvm, pooled = 0; /* which, as cancelled, notes of earlier versions do not have */

	if (json_unpack(json,
		    "{s:I,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:b,s?b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,"
		    "s:o,s?s}",
		    "attempt", &attempt, "id", &id, "uuid", &uuid, "image", &image, "image_digest",
		    &digest, "secret", &secret, "cid", &cid, "vsock", &vsock, "kvm", &kvm, "pooled",
		    &pooled, "uid", &uid, "gid", &gid, "cpus", &cpus, "memory", &memory, "started",
		    &started, "device", &device, "qemu", &qemu, "device_start", &device_start,
		    "qemu_start", &qemu_start, "times", &times, "cancelled", &cancelled) < 0 ||
		json_array_size(times) != STAGES || strlen(secret) != 2 * PROOF_SECRET_BYTES ||
		hex_decode(secret, ret->secret, PROOF_SECRET_BYTES) < 0 ||
		copy(ret->id, sizeof(ret->id), id) < 0 ||
		copy(ret->uuid, sizeof(ret->uuid), uuid) < 0 ||
		copy(ret->image, sizeof(ret->image), image) < 0 ||
		copy(ret->image_digest, sizeof(ret->image_digest), digest) < 0 ||
		copy(ret->cancelled, sizeof(ret->cancelled), cancelled) < 0)
		return -1;
	ret->attempt = (unsigned)attempt;
	ret->cid = (uint32_t)cid;
	ret->vsock_kind = (enum vsock_kind)vsock;
	ret->kvm = kvm;
	ret->pooled = pooled;
	ret->uid = (uid_t)uid;
	ret->gid = (gid_t)gid;
	ret->cpus = (uint32_t)cpus;
	ret->memory_bytes = (uint64_t)memory;
	ret->started_usec = (uint64_t)started;
	ret->device = (pid_t)device;
	ret->qemu = (pid_t)qemu;
	ret->device_start = (uint64_t)device_start;
	ret->qemu_start = (uint64_t)qemu_start;
	for (size_t i = 0; i < STAGES; i++)
		ret->times[i] = (uint64_t)json_integer_value(json_array_get(times, i));
	return 0;
}

int vm_note_read(const char *job_dir, struct vm_note *ret, struct error **err)
{
	_cleanup_free_ char *path = path_of(job_dir);
	size_t size = 0;

	memset(ret, 0, sizeof(*ret));
	_cleanup_free_ char *text = read_file(path, NOTE_CAP, &size, err);
	if (!text)
		return -1;
	json_t *json = json_loadb(text, size, 0, NULL);
	int r = json ? unpack(json, ret) : -1;
	json_decref(json);
	return r < 0 ? error_set(err, ERR_DATA_LOSS, "%s: not as it was written", path) : 0;
}

void vm_note_remove(const char *job_dir)
{
	_cleanup_free_ char *path = path_of(job_dir);

	unlink(path);
}
