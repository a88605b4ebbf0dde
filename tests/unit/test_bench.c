/* The benchmark's numbers and what is made of them; the measuring itself needs a VM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "common/util.h"
#include "guest-worker/bench.h"
#include "orchestrator/bench_plot.h"
#include "orchestrator/bench_report.h"

static void assert_near(double value, double expected)
{
	if (fabs(value - expected) > 1e-6 * fmax(1, fabs(expected)))
		fail_msg("%f is not %f", value, expected);
}

/* Statistics. ------------------------------------------------------------------------------------
 */

static void percentiles_are_values_that_were_measured(void **state)
{
	struct bench_samples samples = {0};

	(void)state;
	assert_near(bench_samples_percentile(&samples, 50), 0);
	for (int i = 1000; i >= 1; i--) /* 1 ... 1000, in no order that helps */
		bench_samples_add(&samples, i);
	assert_near(bench_samples_percentile(&samples, 50), 500);
	assert_near(bench_samples_percentile(&samples, 90), 900);
	assert_near(bench_samples_percentile(&samples, 99), 990);
	assert_near(bench_samples_percentile(&samples, 99.9), 999);
	assert_near(bench_samples_percentile(&samples, 100), 1000);
	assert_near(bench_samples_percentile(&samples, 0.0001), 1);
	bench_samples_clear(&samples);
	bench_samples_add(&samples, 7);
	assert_near(bench_samples_percentile(&samples, 50), 7);
	assert_near(bench_samples_percentile(&samples, 99.9), 7);
	bench_samples_clear(&samples);
}

static void median_and_spread(void **state)
{
	const double odd[] = {9, 1, 5}, even[] = {4, 1, 3, 2};

	(void)state;
	assert_near(bench_median(odd, 3), 5);
	assert_near(bench_median(even, 4), 2.5);
	assert_near(bench_median(NULL, 0), 0);
	assert_near(odd[0], 9); /* left as it was */
	assert_near(bench_spread(odd, 3), (9.0 - 1) / 5);
	assert_near(bench_spread(odd, 1), 0);
	assert_near(bench_spread(NULL, 0), 0);
}

static void a_round_is_what_came_since_the_last(void **state)
{
	struct bench_samples samples = {0};

	(void)state;
	bench_samples_end_round(&samples);
	assert_int_equal(samples.rounds, 0);
	for (int round = 1; round <= BENCH_ROUNDS_MAX + 5; round++) {
		for (int i = 0; i < 3; i++)
			bench_samples_add(&samples, round * 10 + i);
		bench_samples_end_round(&samples);
	}
	assert_int_equal(samples.rounds, BENCH_ROUNDS_MAX);
	assert_near(samples.round_medians[0], 11);
	assert_near(samples.round_medians[1], 21);
	bench_samples_clear(&samples);
}

static void processor_time_is_per_gib(void **state)
{
	struct bench_stream stream = {.bytes = GIB / 4, .cpu = {1, 0.5, 0.25}};

	(void)state;
	assert_near(bench_cpu_per_gib(&stream, BENCH_QEMU), 4);
	assert_near(bench_cpu_per_gib(&stream, BENCH_DEVICE), 2);
	assert_near(bench_cpu_per_gib(&stream, BENCH_PROCESSES), 7);
	stream.bytes = 0;
	assert_near(bench_cpu_per_gib(&stream, BENCH_QEMU), 0);
}

/* Reports. ---------------------------------------------------------------------------------------
 */

static void fill_stream(struct bench_stream *stream, double rate)
{
	stream->rounds = 2;
	stream->rates[0] = rate;
	stream->rates[1] = rate * 1.1;
	stream->bytes = GIB;
	stream->cpu[BENCH_QEMU] = 2;
}

static void fill(struct bench_result *result)
{
	*result = (struct bench_result){
		.plan = {.rounds = 2, .calls = 600, .connections = 3, .stream_ms = 20}};
	struct bench_conditions *c = &result->conditions;

	c->accelerator = xstrdup("kvm");
	c->vsock_device = xstrdup("user");
	c->image = xstrdup("debian");
	c->guest_kernel = xstrdup("6.1' \n`touch /tmp/x`; system(\"id\")");
	c->host_kernel = xstrdup("6.2");
	c->time = xstrdup("2026-01-01T00:00:00Z");
	c->host_cpus = 4;
	c->network_interfaces = 1;
	for (int layer = 0; layer < BENCH_LAYERS; layer++)
		for (int t = 0; t < BENCH_TRANSPORTS; t++)
			for (int round = 0; round < 2; round++) {
				for (int i = 1; i <= 600; i++)
					bench_samples_add(
						&result->calls[layer][t], 100 * (t + 1) + i);
				bench_samples_add(&result->connects[layer][t], 5000);
				bench_samples_end_round(&result->calls[layer][t]);
				bench_samples_end_round(&result->connects[layer][t]);
			}
	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		for (int d = 0; d < BENCH_DIRECTIONS; d++) {
			for (int i = 0; i < BENCH_SIZES; i++)
				fill_stream(
					&result->streams[t][d][i], (double)MIB * (i + 1) * (t + 1));
			fill_stream(&result->raw_streams[t][d], 500 * (double)MIB);
		}
}

static json_t *find(json_t *rows, const char *layer, const char *transport, const char *direction,
	json_int_t size)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		if (str_eq(json_string_value(json_object_get(row, "layer")), layer) &&
			str_eq(json_string_value(json_object_get(row, "transport")), transport) &&
			(!direction || (str_eq(json_string_value(json_object_get(row, "direction")),
						direction) &&
					       json_integer_value(json_object_get(
						       row, "message_bytes")) == size)))
			return row;
	}
	fail_msg("no row %s %s", layer, transport);
	return NULL;
}

static double real(json_t *row, const char *key)
{
	return json_number_value(json_object_get(row, key));
}

static void json_has_every_number_once(void **state)
{
	struct bench_result result;

	(void)state;
	fill(&result);
	json_t *root = bench_report_json(&result);
	json_t *calls = json_object_get(root, "call"), *streams = json_object_get(root, "stream");
	assert_int_equal(json_array_size(calls), 4);
	assert_int_equal(json_array_size(json_object_get(root, "connect")), 4);
	assert_int_equal(json_array_size(streams), 2 * 2 * (BENCH_SIZES + 1));
	json_t *row = find(calls, "grpc", "tcp", NULL, 0);
	assert_int_equal(json_integer_value(json_object_get(row, "n")), 1200);
	assert_near(real(row, "p50"), 500);
	assert_near(real(row, "p99.9"), 800);
	assert_near(real(row, "spread"), 0);
	row = find(streams, "grpc", "tcp", "from_guest", 1024);
	assert_near(real(row, "mib_per_s"), 4.2);
	assert_near(real(json_object_get(row, "cpu_s_per_gib"), "qemu"), 2);
	find(streams, "raw", "vsock", "to_guest", 64 * KIB);
	json_t *conditions = json_object_get(root, "conditions");
	assert_string_equal(json_string_value(json_object_get(conditions, "accelerator")), "kvm");
	assert_int_equal(json_integer_value(json_object_get(conditions, "network_interfaces")), 1);
	assert_true(json_is_null(json_object_get(conditions, "qemu")));
	json_decref(root);
	bench_result_clear(&result);
}

static void csv_has_as_many_columns_in_every_line(void **state)
{
	struct bench_result result;
	size_t lines = 0;

	(void)state;
	fill(&result);
	_cleanup_free_ char *csv = bench_report_csv(&result);
	for (char *rest = csv, *line; (line = strsep(&rest, "\n")) && *line; lines++) {
		size_t commas = 0;
		for (const char *p = line; *p; p++)
			commas += *p == ',';
		assert_int_equal(commas, 7);
	}
	/* The title; 2 kinds, 2 layers, 2 transports, 4 percentiles; and for each stream its rate
	 * and three processes. */
	assert_int_equal(lines, 1 + 2 * 2 * 2 * 4 + 2 * 2 * (BENCH_SIZES + 1) * 4);
	bench_result_clear(&result);
}

static size_t count_warnings(const struct bench_result *result, const char *what)
{
	size_t n, found = 0;
	char **warnings = bench_report_warnings(result, &n);

	for (size_t i = 0; i < n; i++) {
		found += strstr(warnings[i], what) != NULL;
		free(warnings[i]);
	}
	free(warnings);
	return what[0] ? found : n;
}

static void noise_is_warned_of(void **state)
{
	struct bench_result result;

	(void)state;
	fill(&result);
	assert_int_equal(count_warnings(&result, ""), 0);
	result.conditions.load_before = 2.1; /* of 4 */
	assert_int_equal(count_warnings(&result, "busy"), 1);
	result.conditions.load_before = 1.9;
	assert_int_equal(count_warnings(&result, "busy"), 0);
	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		for (int d = 0; d < BENCH_DIRECTIONS; d++)
			for (int i = 0; i < BENCH_SIZES; i++)
				result.streams[t][d][i].rates[1] *= 2;
	assert_int_equal(count_warnings(&result, "rounds differ"), 1);
	free(result.conditions.accelerator);
	result.conditions.accelerator = xstrdup("tcg");
	assert_int_equal(count_warnings(&result, "emulated"), 1);
	bench_result_clear(&result);
	assert_int_equal(count_warnings(&result, "p99.9 of 0 calls"), 1);
}

static void text_and_picture_of_nothing_are_no_crash(void **state)
{
	struct bench_result empty = {0};
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);

	(void)state;
	bench_report_text(&empty, to);
	fclose(to);
	assert_non_null(strstr(text, "p99.9"));
	free(text);
	_cleanup_free_ char *script = bench_plot_script(&empty, false);
	assert_non_null(strstr(script, "plot"));
}

/* The picture. -----------------------------------------------------------------------------------
 */

static void what_a_guest_says_is_no_gnuplot(void **state)
{
	struct bench_result result;

	(void)state;
	fill(&result);
	_cleanup_free_ char *script = bench_plot_script(&result, false);
	assert_null(strstr(script, "`"));
	assert_null(strstr(script, "\"id\""));
	assert_non_null(
		strstr(script, "guest Linux 6.1? ??touch /tmp/x?? system(?id?); host Linux 6.2,"));
	assert_non_null(strstr(script, "set terminal svg"));
	/* Rates of 64-byte messages: 1 and 1.1 MiB/s by rounds, raw 500 and 550. */
	assert_non_null(strstr(script, "$rate_0_0 << EOD\n0 1.050000 525.000000\n"));
	assert_non_null(strstr(script, "$call_0_1 << EOD\n"));
	_cleanup_free_ char *png = bench_plot_script(&result, true);
	assert_non_null(strstr(png, "set terminal pngcairo"));
	bench_result_clear(&result);
}

static void a_pictures_name_says_its_kind(void **state)
{
	static const char *const bad[] = {"", "x", "x.pdf", "svg", "x.svg.gz", "x.SVG"};

	(void)state;
	assert_int_equal(bench_plot_check_name("a/b.svg", NULL), 0);
	assert_int_equal(bench_plot_check_name("b.png", NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_error_ struct error *err = NULL;
		assert_int_equal(bench_plot_check_name(bad[i], &err), -1);
		assert_int_equal(err->code, ERR_INVALID);
	}
}

static void without_gnuplot_it_says_what_to_install(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *path = xstrdup(getenv("PATH"));

	(void)state;
	setenv("PATH", "/nonexistent", 1);
	int r = bench_plot_available(&err);
	setenv("PATH", path, 1);
	assert_int_equal(r, -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
	assert_non_null(strstr(err->text, "gnuplot-nox"));
}

/* The guest's side. ------------------------------------------------------------------------------
 */

static void only_the_whole_word_asks_for_it(void **state)
{
	(void)state;
	assert_true(bench_in_cmdline("quiet orchestrator.bench panic=-1\n"));
	assert_true(bench_in_cmdline("orchestrator.bench"));
	assert_true(bench_in_cmdline("orchestrator.bench=no orchestrator.bench\n"));
	assert_false(bench_in_cmdline(""));
	assert_false(bench_in_cmdline("quiet panic=-1\n"));
	assert_false(bench_in_cmdline("orchestrator.benchmark"));
	assert_false(bench_in_cmdline("xorchestrator.bench"));
	assert_false(bench_in_cmdline("orchestrator.bench=1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(percentiles_are_values_that_were_measured),
		cmocka_unit_test(median_and_spread),
		cmocka_unit_test(a_round_is_what_came_since_the_last),
		cmocka_unit_test(processor_time_is_per_gib),
		cmocka_unit_test(json_has_every_number_once),
		cmocka_unit_test(csv_has_as_many_columns_in_every_line),
		cmocka_unit_test(noise_is_warned_of),
		cmocka_unit_test(text_and_picture_of_nothing_are_no_crash),
		cmocka_unit_test(what_a_guest_says_is_no_gnuplot),
		cmocka_unit_test(a_pictures_name_says_its_kind),
		cmocka_unit_test(without_gnuplot_it_says_what_to_install),
		cmocka_unit_test(only_the_whole_word_asks_for_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
