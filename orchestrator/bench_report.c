#include "orchestrator/bench_report.h"

#include <stdlib.h>

#include "common/util.h"

/* A third between rounds of one thing is more than what is to be compared often differs by. */
#define NOISY_SPREAD 0.33
/* So much of the host was taken before we began. */
#define NOISY_LOAD 0.5

static const struct {
	const char *name;
	double percent;
} percentiles[] = {{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p99.9", 99.9}};

/* The kinds of time that were measured. */
static const struct {
	const char *name, *title, *raw_title;
} kinds[] = {
	{"call", "gRPC call (Ping, 1 byte)", "raw echo, 1 byte"},
	{"connect", "gRPC connection: dial, hello, proof", "raw connection: dial, 1 byte back"},
};

static struct bench_samples *samples_of(
	struct bench_result *result, size_t kind, int layer, int transport)
{
	return kind ? &result->connects[layer][transport] : &result->calls[layer][transport];
}

static double mib(double bytes)
{
	return bytes / (double)MIB;
}

static const char *tcp_is(void)
{
	return "virtio-net on QEMU's user-mode network, by 127.0.0.1";
}

/* Noise. -----------------------------------------------------------------------------------------
 */

/* The median of all spreads: that of one cell is easily large by chance. */
static double typical_spread(const struct bench_result *result)
{
	double all[BENCH_LAYERS * BENCH_TRANSPORTS +
		   BENCH_TRANSPORTS * BENCH_DIRECTIONS * BENCH_SIZES];
	size_t n = 0;

	for (int layer = 0; layer < BENCH_LAYERS; layer++)
		for (int t = 0; t < BENCH_TRANSPORTS; t++)
			all[n++] = bench_samples_spread(&result->calls[layer][t]);
	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		for (int d = 0; d < BENCH_DIRECTIONS; d++)
			for (int size = 0; size < BENCH_SIZES; size++)
				all[n++] = bench_spread(result->streams[t][d][size].rates,
					result->streams[t][d][size].rounds);
	return bench_median(all, n);
}

static void warn(char ***warnings, size_t *n, char *text)
{
	*warnings = xreallocarray(*warnings, *n + 1, sizeof(**warnings));
	(*warnings)[(*n)++] = text;
}

char **bench_report_warnings(const struct bench_result *result, size_t *ret_n)
{
	const struct bench_conditions *c = &result->conditions;
	double spread = typical_spread(result);
	char **warnings = NULL;

	*ret_n = 0;
	if (c->host_cpus && c->load_before > NOISY_LOAD * c->host_cpus)
		warn(&warnings, ret_n,
			str_printf("the machine was busy before: load %.1f on %u cores; compare "
				   "only within this run",
				c->load_before, c->host_cpus));
	if (spread > NOISY_SPREAD)
		warn(&warnings, ret_n,
			str_printf("the rounds differ: typically by %.0f%% of their median",
				100 * spread));
	if (result->calls[BENCH_GRPC][BENCH_VSOCK].n < 1000)
		warn(&warnings, ret_n,
			str_printf("p99.9 of %zu calls says little: it needs 1000",
				result->calls[BENCH_GRPC][BENCH_VSOCK].n));
	if (str_eq(c->accelerator, "tcg"))
		warn(&warnings, ret_n,
			xstrdup("the guest is emulated (tcg): with KVM all numbers, and their "
				"ratios, are others"));
	return warnings;
}

static void free_warnings(char **warnings, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(warnings[i]);
	free(warnings);
}

/* JSON. ------------------------------------------------------------------------------------------
 */

/* Three places are more than is ever measured. */
static json_t *number(double value)
{
	return json_real((double)(long long)(value * 1000 + 0.5) / 1000);
}

static json_t *text(const char *s)
{
	return s ? json_string(s) : json_null();
}

static json_t *conditions_json(const struct bench_result *result)
{
	const struct bench_conditions *c = &result->conditions;
	json_t *devices = json_array();

	for (size_t i = 0; i < c->n_devices; i++)
		json_array_append_new(devices, text(c->devices[i]));
	return json_pack("{s:o s:o s:o s:o s:o s:o s:o s:o s:o s:i s:i s:o s:i s:o s:o s:i s:i s:i "
			 "s:i}",
		"time", text(c->time), "version", text(ORCHESTRATOR_VERSION), "accelerator",
		text(c->accelerator), "vsock_device", text(c->vsock_device), "tcp", text(tcp_is()),
		"image", text(c->image), "guest_kernel", text(c->guest_kernel), "host_kernel",
		text(c->host_kernel), "qemu", text(c->qemu), "host_cpus", (int)c->host_cpus,
		"guest_cpus", (int)c->guest_cpus, "devices", devices, "network_interfaces",
		(int)c->network_interfaces, "load_before", number(c->load_before), "load_after",
		number(c->load_after), "rounds", (int)result->plan.rounds, "calls_per_round",
		(int)result->plan.calls, "connections_per_round", (int)result->plan.connections,
		"stream_ms", (int)result->plan.stream_ms);
}

static json_t *samples_json(
	struct bench_samples *samples, enum bench_layer layer, enum bench_transport transport)
{
	json_t *row = json_pack("{s:s s:s s:s s:I}", "layer", bench_layer_name(layer), "transport",
		bench_transport_name(transport), "unit", "us", "n", (json_int_t)samples->n);

	for (size_t i = 0; i < ARRAY_SIZE(percentiles); i++)
		json_object_set_new(row, percentiles[i].name,
			number(bench_samples_percentile(samples, percentiles[i].percent)));
	json_object_set_new(row, "max", number(bench_samples_percentile(samples, 100)));
	json_object_set_new(row, "spread", number(bench_samples_spread(samples)));
	return row;
}

static json_t *stream_json(const struct bench_stream *stream, enum bench_layer layer,
	enum bench_transport transport, enum bench_direction direction, uint32_t size)
{
	json_t *cpu = json_object(), *rates = json_array();

	for (int p = 0; p <= BENCH_PROCESSES; p++)
		json_object_set_new(cpu, bench_process_name((enum bench_process)p),
			number(bench_cpu_per_gib(stream, (enum bench_process)p)));
	for (unsigned i = 0; i < stream->rounds; i++)
		json_array_append_new(rates, number(mib(stream->rates[i])));
	return json_pack("{s:s s:s s:s s:I s:I s:o s:o s:o s:o}", "layer", bench_layer_name(layer),
		"transport", bench_transport_name(transport), "direction",
		bench_direction_name(direction), "message_bytes", (json_int_t)size, "bytes",
		(json_int_t)stream->bytes, "mib_per_s",
		number(mib(bench_median(stream->rates, stream->rounds))), "spread",
		number(bench_spread(stream->rates, stream->rounds)), "rounds_mib_per_s", rates,
		"cpu_s_per_gib", cpu);
}

static json_t *streams_json(const struct bench_result *result)
{
	json_t *rows = json_array();

	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		for (int d = 0; d < BENCH_DIRECTIONS; d++) {
			for (int i = 0; i < BENCH_SIZES; i++)
				json_array_append_new(
					rows, stream_json(&result->streams[t][d][i], BENCH_GRPC,
						      (enum bench_transport)t,
						      (enum bench_direction)d, bench_sizes[i]));
			json_array_append_new(
				rows, stream_json(&result->raw_streams[t][d], BENCH_RAW,
					      (enum bench_transport)t, (enum bench_direction)d,
					      (uint32_t)BENCH_RAW_CHUNK));
		}
	return rows;
}

json_t *bench_report_json(struct bench_result *result)
{
	json_t *root = json_object(), *warnings = json_array();
	size_t n;
	char **lines = bench_report_warnings(result, &n);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(warnings, text(lines[i]));
	free_warnings(lines, n);
	json_object_set_new(root, "conditions", conditions_json(result));
	json_object_set_new(root, "warnings", warnings);
	for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		json_t *rows = json_array();
		for (int layer = 0; layer < BENCH_LAYERS; layer++)
			for (int t = 0; t < BENCH_TRANSPORTS; t++)
				json_array_append_new(rows,
					samples_json(samples_of(result, kind, layer, t),
						(enum bench_layer)layer, (enum bench_transport)t));
		json_object_set_new(root, kinds[kind].name, rows);
	}
	json_object_set_new(root, "stream", streams_json(result));
	return root;
}

/* CSV. -------------------------------------------------------------------------------------------
 */

static void csv_samples(struct bench_result *result, size_t kind, int layer, int t, FILE *to)
{
	struct bench_samples *samples = samples_of(result, kind, layer, t);

	for (size_t i = 0; i < ARRAY_SIZE(percentiles); i++)
		fprintf(to, "%s,%s,%s,,1,%s,us,%.3f\n", kinds[kind].name,
			bench_layer_name((enum bench_layer)layer),
			bench_transport_name((enum bench_transport)t), percentiles[i].name,
			bench_samples_percentile(samples, percentiles[i].percent));
}

static void csv_stream(const struct bench_stream *stream, enum bench_layer layer, int t, int d,
	uint32_t size, FILE *to)
{
	const char *transport = bench_transport_name((enum bench_transport)t);
	const char *direction = bench_direction_name((enum bench_direction)d);

	fprintf(to, "stream,%s,%s,%s,%u,median,MiB/s,%.3f\n", bench_layer_name(layer), transport,
		direction, size, mib(bench_median(stream->rates, stream->rounds)));
	for (int p = 0; p < BENCH_PROCESSES; p++)
		fprintf(to, "cpu_%s,%s,%s,%s,%u,mean,s/GiB,%.3f\n",
			bench_process_name((enum bench_process)p), bench_layer_name(layer),
			transport, direction, size,
			bench_cpu_per_gib(stream, (enum bench_process)p));
}

char *bench_report_csv(struct bench_result *result)
{
	char *csv = NULL;
	size_t size;
	FILE *to = open_memstream(&csv, &size);

	if (!to)
		return xstrdup("");
	fputs("kind,layer,transport,direction,message_bytes,statistic,unit,value\n", to);
	for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++)
		for (int layer = 0; layer < BENCH_LAYERS; layer++)
			for (int t = 0; t < BENCH_TRANSPORTS; t++)
				csv_samples(result, kind, layer, t, to);
	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		for (int d = 0; d < BENCH_DIRECTIONS; d++) {
			for (int i = 0; i < BENCH_SIZES; i++)
				csv_stream(&result->streams[t][d][i], BENCH_GRPC, t, d,
					bench_sizes[i], to);
			csv_stream(&result->raw_streams[t][d], BENCH_RAW, t, d,
				(uint32_t)BENCH_RAW_CHUNK, to);
		}
	fclose(to);
	return csv;
}

/* Text. ------------------------------------------------------------------------------------------
 */

static const char *or_unknown(const char *s)
{
	return s ? s : "unknown";
}

static void print_conditions(const struct bench_result *result, FILE *to)
{
	const struct bench_conditions *c = &result->conditions;
	const struct bench_plan *plan = &result->plan;

	fprintf(to, "Guest   image %s, Linux %s, %u CPU, %s\n", or_unknown(c->image),
		or_unknown(c->guest_kernel), c->guest_cpus, or_unknown(c->accelerator));
	fprintf(to, "vsock   %s device\n",
		str_eq(c->vsock_device, "kernel") ? "the kernel's vhost-vsock" : "the userspace");
	fprintf(to, "TCP     %s\n", tcp_is());
	fprintf(to, "Host    Linux %s, %u cores, QEMU %s, load %.2f before, %.2f after\n",
		or_unknown(c->host_kernel), c->host_cpus, or_unknown(c->qemu), c->load_before,
		c->load_after);
	fprintf(to,
		"Rounds  %u, interleaved; in each, by transport: %u calls, %u connections, streams "
		"of about %u ms\n",
		plan->rounds, plan->calls, plan->connections, plan->stream_ms);
}

static void print_samples(struct bench_result *result, size_t kind, int layer, FILE *to)
{
	fprintf(to, "%s\n", layer == BENCH_GRPC ? kinds[kind].title : kinds[kind].raw_title);
	for (int t = 0; t < BENCH_TRANSPORTS; t++) {
		struct bench_samples *samples = samples_of(result, kind, layer, t);
		fprintf(to, "  %-6s", bench_transport_name((enum bench_transport)t));
		for (size_t i = 0; i < ARRAY_SIZE(percentiles); i++)
			fprintf(to, "%10.0f",
				bench_samples_percentile(samples, percentiles[i].percent));
		fprintf(to, "%8.0f%%\n", 100 * bench_samples_spread(samples));
	}
}

static void print_latency(struct bench_result *result, FILE *to)
{
	fprintf(to, "\nTIME, us    ");
	for (size_t i = 0; i < ARRAY_SIZE(percentiles); i++)
		fprintf(to, "%*s", i ? 10 : 6, percentiles[i].name);
	fprintf(to, "   SPREAD\n");
	for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++)
		for (int layer = 0; layer < BENCH_LAYERS; layer++)
			print_samples(result, kind, layer, to);
}

/* Both directions of one size: vsock, tcp, and how many times as fast vsock is. */
static void print_rates(const char *label,
	const struct bench_stream *streams[BENCH_TRANSPORTS][BENCH_DIRECTIONS], FILE *to)
{
	fprintf(to, "  %-10s", label);
	for (int d = 0; d < BENCH_DIRECTIONS; d++) {
		double rates[BENCH_TRANSPORTS];
		for (int t = 0; t < BENCH_TRANSPORTS; t++)
			rates[t] = mib(bench_median(streams[t][d]->rates, streams[t][d]->rounds));
		fprintf(to, "%10.1f%10.1f%8.2fx", rates[BENCH_VSOCK], rates[BENCH_TCP],
			rates[BENCH_TCP] > 0 ? rates[BENCH_VSOCK] / rates[BENCH_TCP] : 0);
	}
	fputc('\n', to);
}

static void print_throughput(const struct bench_result *result, FILE *to)
{
	const struct bench_stream *streams[BENCH_TRANSPORTS][BENCH_DIRECTIONS];

	fprintf(to, "\nSTREAM, MiB/s        to guest                    from guest\n"
		    "  message        vsock       tcp   vsock/tcp  vsock       tcp   vsock/tcp\n");
	for (int size = 0; size <= BENCH_SIZES; size++) {
		_cleanup_free_ char *label = size == BENCH_SIZES ? xstrdup("raw")
					     : size == BENCH_SIZES - 1
						     ? xstrdup("1M")
						     : format_size(bench_sizes[size]);
		for (int t = 0; t < BENCH_TRANSPORTS; t++)
			for (int d = 0; d < BENCH_DIRECTIONS; d++)
				streams[t][d] = size == BENCH_SIZES ? &result->raw_streams[t][d]
								    : &result->streams[t][d][size];
		print_rates(label, streams, to);
	}
}

static void print_cpu(const struct bench_result *result, FILE *to)
{
	fprintf(to, "\nPROCESSOR, seconds per GiB, 64K messages\n"
		    "                    QEMU    device    client       all\n");
	for (int d = 0; d < BENCH_DIRECTIONS; d++)
		for (int t = 0; t < BENCH_TRANSPORTS; t++) {
			const struct bench_stream *stream = &result->streams[t][d][BENCH_RAW_SIZE];
			fprintf(to, "  %-6s%-10s", t ? "tcp" : "vsock",
				d ? "from guest" : "to guest");
			for (int p = 0; p <= BENCH_PROCESSES; p++)
				fprintf(to, "%*.2f", p ? 10 : 6,
					bench_cpu_per_gib(stream, (enum bench_process)p));
			fputc('\n', to);
		}
}

void bench_report_text(struct bench_result *result, FILE *to)
{
	size_t n;
	char **warnings = bench_report_warnings(result, &n);

	print_conditions(result, to);
	print_latency(result, to);
	print_throughput(result, to);
	print_cpu(result, to);
	for (size_t i = 0; i < n; i++)
		fprintf(to, "%sNote: %s\n", i ? "" : "\n", warnings[i]);
	free_warnings(warnings, n);
}
