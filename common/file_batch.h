/* File records on their way out of here, many in a message: the sink of a tree_send_to() whose
 * messages are a stream of { repeated job.v1.FileRecord records = 2; }, as are PutRequest and
 * GetReply.
 *
 * Records are packed one after the other into the message, and the content of files is read into it
 * by the walk itself, so between the file and the transport it is copied once. A message leaves
 * when the next record finds no room, and at the flush.
 */
#pragma once

#include "common/file_tree.h"
#include "common/rpc.h"

struct file_batch;

/* call is borrowed; each send waits as long as rpc_send_within() with wait_ms. first, if not NULL,
 * is a message of the stream's type without records, whose fields the first message has. */
struct file_batch *file_batch_new(
	struct rpc_call *call, int wait_ms, const ProtobufCMessage *first, struct error **err);
/* What was not flushed is dropped. */
void file_batch_free(struct file_batch *batch);

/* A tree_emit; arg is the batch. */
int file_batch_emit(void *arg, const Job__V1__FileRecord *record, struct error **err);
/* For tree_sink.room, with this as its chunk; arg is the batch. */
uint8_t *file_batch_room(void *arg, size_t n, struct error **err);
extern const size_t file_batch_chunk;
int file_batch_flush(struct file_batch *batch, struct error **err);
