#include "orchestrator/bench_result.h"

#include <stdlib.h>

#include "common/util.h"

const uint32_t bench_sizes[BENCH_SIZES] = {
	64, 1024, 16 * KIB, 64 * KIB, 256 * KIB, (uint32_t)BENCH_PAYLOAD_MAX};

const char *bench_transport_name(enum bench_transport transport)
{
	return transport == BENCH_VSOCK ? "vsock" : "tcp";
}

const char *bench_layer_name(enum bench_layer layer)
{
	return layer == BENCH_GRPC ? "grpc" : "raw";
}

const char *bench_direction_name(enum bench_direction direction)
{
	return direction == BENCH_TO_GUEST ? "to_guest" : "from_guest";
}

const char *bench_process_name(enum bench_process process)
{
	static const char *const names[] = {
		[BENCH_QEMU] = "qemu", [BENCH_DEVICE] = "vsock_device", [BENCH_SELF] = "client"};

	return process < BENCH_PROCESSES ? names[process] : "all";
}

double bench_cpu_per_gib(const struct bench_stream *stream, enum bench_process process)
{
	double seconds = 0;

	for (int i = 0; i < BENCH_PROCESSES; i++)
		if (process == BENCH_PROCESSES || (int)process == i)
			seconds += stream->cpu[i];
	return stream->bytes ? seconds * (double)GIB / (double)stream->bytes : 0;
}

void bench_result_clear(struct bench_result *result)
{
	struct bench_conditions *c = &result->conditions;

	for (int layer = 0; layer < BENCH_LAYERS; layer++)
		for (int transport = 0; transport < BENCH_TRANSPORTS; transport++) {
			bench_samples_clear(&result->calls[layer][transport]);
			bench_samples_clear(&result->connects[layer][transport]);
		}
	for (size_t i = 0; i < c->n_devices; i++)
		free(c->devices[i]);
	free(c->devices);
	free(c->accelerator);
	free(c->vsock_device);
	free(c->image);
	free(c->guest_kernel);
	free(c->host_kernel);
	free(c->qemu);
	free(c->time);
	*result = (struct bench_result){0};
}
