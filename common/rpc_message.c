/* Messages and status texts between their wire form and ours. The bytes may be hostile. */
#include <grpc/byte_buffer_reader.h>
#include <string.h>

#include "common/rpc_internal.h"
#include "common/util.h"

/* What a small allocation costs besides its bytes, so that a million empty strings are not free. */
#define ALLOC_OVERHEAD 16

struct budget {
	size_t left;
	bool spent;
};

/* Memory that was freed again is not given back to the budget: what unpacking needs in between is
 * bounded by the same number. */
static void *budget_alloc(void *arg, size_t size)
{
	struct budget *budget = arg;

	if (size > budget->left || budget->left - size < ALLOC_OVERHEAD) {
		budget->spent = true;
		return NULL;
	}
	budget->left -= size + ALLOC_OVERHEAD;
	return xmalloc(size);
}

static void budget_free(void *arg, void *p)
{
	(void)arg;
	free(p);
}

static bool may_be_sent(size_t size, const struct rpc_limits *limits, struct error **err)
{
	if (size > limits->message)
		error_set(err, ERR_LIMIT, "a message of %zu bytes; at most %zu may be sent", size,
			limits->message);
	return size <= limits->message;
}

/* Takes the slice. */
static grpc_byte_buffer *buffer_of(grpc_slice slice)
{
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

	grpc_slice_unref(slice);
	return buffer;
}

grpc_byte_buffer *rpc_message_pack(
	const ProtobufCMessage *message, const struct rpc_limits *limits, struct error **err)
{
	size_t size = protobuf_c_message_get_packed_size(message);

	if (!may_be_sent(size, limits, err))
		return NULL;
	grpc_slice slice = grpc_slice_malloc(size);
	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	return buffer_of(slice);
}

grpc_byte_buffer *rpc_message_wrap(
	uint8_t *data, size_t size, const struct rpc_limits *limits, struct error **err)
{
	grpc_slice slice = grpc_slice_new(data, size, free);

	if (!may_be_sent(size, limits, err)) {
		grpc_slice_unref(slice);
		return NULL;
	}
	return buffer_of(slice);
}

/* The buffer's bytes in one piece: without a copy if they are that already. */
static grpc_slice read_all(grpc_byte_buffer *buffer)
{
	grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;
	grpc_byte_buffer_reader reader;

	if (slices->count == 1)
		return grpc_slice_ref(slices->slices[0]);
	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		return grpc_empty_slice();
	grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	return all;
}

ProtobufCMessage *rpc_message_unpack(grpc_byte_buffer *buffer,
	const ProtobufCMessageDescriptor *type, const struct rpc_limits *limits, struct error **err)
{
	struct budget budget = {.left = limits->unpacked};
	ProtobufCAllocator allocator = {
		.alloc = budget_alloc,
		.free = budget_free,
		.allocator_data = &budget,
	};

	if (buffer->type != GRPC_BB_RAW || buffer->data.raw.compression != GRPC_COMPRESS_NONE) {
		error_set(err, ERR_UNSUPPORTED, "a compressed message, which is not accepted");
		return NULL;
	}
	grpc_slice all = read_all(buffer);
	ProtobufCMessage *message = protobuf_c_message_unpack(
		type, &allocator, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
	grpc_slice_unref(all);
	if (!message && budget.spent)
		error_set(err, ERR_LIMIT, "a %s that unpacks to more than %zu bytes", type->name,
			limits->unpacked);
	else if (!message)
		error_set(err, ERR_INVALID, "bytes that are no %s", type->name);
	return message;
}

void rpc_message_free(ProtobufCMessage *message)
{
	/* budget_free is free, as is the default. */
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

/* gRPC percent-encodes the text, to three times its size at worst, and all of the metadata counts
 * against the peer's limit. */
static size_t text_max(const struct rpc_limits *limits)
{
	return limits->metadata / 4;
}

/* The length of the text cut to max bytes, not within a UTF-8 sequence. */
static size_t cut(const char *text, size_t n, size_t max)
{
	if (n <= max)
		return n;
	for (n = max; n > 0 && max - n < 3 && ((unsigned char)text[n] & 0xc0) == 0x80;)
		n--;
	return n;
}

grpc_slice rpc_status_text_out(const char *text, const struct rpc_limits *limits)
{
	return grpc_slice_from_copied_buffer(text, cut(text, strlen(text), text_max(limits)));
}

char *rpc_status_text_in(grpc_slice text, const struct rpc_limits *limits)
{
	const char *s = (const char *)GRPC_SLICE_START_PTR(text);

	return str_escape(s, cut(s, GRPC_SLICE_LENGTH(text), text_max(limits)), true);
}
