#include "common/file_batch.h"

#include <assert.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"

#define RECORDS_FIELD 2
/* Few enough that they unpack to less than the receiver's limit, whatever they are. */
#define RECORDS_MOST 1024
/* A chunk, and before it the records of small files and a head. */
#define BATCH_BYTES (LIMIT_CHUNK + 16 * KIB)

/* The protobuf wire format: what follows is so many bytes long. All tags here have one byte. */
#define TAG_BYTES(field) ((uint8_t)((field) << 3 | 2))

static_assert(BATCH_BYTES <= LIMIT_GUEST_MESSAGE, "a batch is one message");

const size_t file_batch_chunk = LIMIT_CHUNK;

struct file_batch {
	struct rpc_call *call; /* borrowed */
	int wait_ms;
	uint8_t *buf; /* owned; BATCH_BYTES of it; NULL: nothing gathered */
	size_t used;
	unsigned records;
	uint8_t *room; /* in buf: given out last; NULL: not, or other records came since */
	size_t room_size;
};

static size_t varint_size(size_t value)
{
	size_t n = 1;

	while (value >>= 7)
		n++;
	return n;
}

static uint8_t *put_varint(uint8_t *to, size_t value)
{
	for (; value >= 0x80; value >>= 7)
		*to++ = (uint8_t)(value | 0x80);
	*to++ = (uint8_t)value;
	return to;
}

/* Of a field of so many bytes, with its tag and length. */
static size_t field_size(size_t size)
{
	return 1 + varint_size(size) + size;
}

static uint8_t *put_field(uint8_t *to, unsigned field, size_t size)
{
	*to++ = TAG_BYTES(field);
	return put_varint(to, size);
}

struct file_batch *file_batch_new(
	struct rpc_call *call, int wait_ms, const ProtobufCMessage *first, struct error **err)
{
	size_t size = first ? protobuf_c_message_get_packed_size(first) : 0;

	if (size > BATCH_BYTES / 2) {
		error_set(err, ERR_LIMIT, "the first message of a stream has %zu bytes", size);
		return NULL;
	}
	struct file_batch *batch = xcalloc(1, sizeof(*batch));
	batch->call = call;
	batch->wait_ms = wait_ms;
	if (first) {
		batch->buf = xmalloc(BATCH_BYTES);
		batch->used = protobuf_c_message_pack(first, batch->buf);
	}
	return batch;
}

void file_batch_free(struct file_batch *batch)
{
	if (!batch)
		return;
	free(batch->buf);
	free(batch);
}

int file_batch_flush(struct file_batch *batch, struct error **err)
{
	size_t size = batch->used;

	batch->room = NULL;
	batch->used = batch->records = 0;
	if (!batch->buf)
		return 0;
	return rpc_send_packed(batch->call, steal_ptr(batch->buf), size, batch->wait_ms, err);
}

/* Make room for a record that takes so much of the message. */
static int reserve(struct file_batch *batch, size_t size, struct error **err)
{
	batch->room = NULL;
	if (size > BATCH_BYTES)
		return error_set(err, ERR_LIMIT, "a file record of %zu bytes", size);
	if ((size > BATCH_BYTES - batch->used || batch->records == RECORDS_MOST) &&
		file_batch_flush(batch, err) < 0)
		return -1;
	if (!batch->buf)
		batch->buf = xmalloc(BATCH_BYTES);
	return 0;
}

uint8_t *file_batch_room(void *arg, size_t n, struct error **err)
{
	struct file_batch *batch = arg;
	size_t record = field_size(n);

	if (reserve(batch, field_size(record), err) < 0)
		return NULL;
	batch->room = batch->buf + batch->used + field_size(record) - n;
	batch->room_size = n;
	return batch->room;
}

/* The chunk that was read to where it shall be: what stands before it. */
static void frame_chunk(struct file_batch *batch)
{
	size_t n = batch->room_size, record = field_size(n);
	uint8_t *at = put_field(batch->buf + batch->used, RECORDS_FIELD, record);

	put_field(at, JOB__V1__FILE_RECORD__PART_CHUNK, n);
	batch->used += field_size(record);
	batch->records++;
	batch->room = NULL;
}

int file_batch_emit(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	struct file_batch *batch = arg;

	if (batch->room && record->part_case == JOB__V1__FILE_RECORD__PART_CHUNK &&
		record->chunk.data == batch->room && record->chunk.len == batch->room_size) {
		frame_chunk(batch);
		return 0;
	}
	size_t size = protobuf_c_message_get_packed_size(&record->base);
	if (reserve(batch, field_size(size), err) < 0)
		return -1;
	uint8_t *at = put_field(batch->buf + batch->used, RECORDS_FIELD, size);
	protobuf_c_message_pack(&record->base, at);
	batch->used += field_size(size);
	batch->records++;
	return 0;
}
