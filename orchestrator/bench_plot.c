/* The script goes to gnuplot's stdin and the picture comes by its stdout, so no file's name has to
 * be quoted in its language. Words that came out of the guest (its kernel's name) lose every
 * character that could mean something there. */
#include "orchestrator/bench_plot.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/util.h"
#include "orchestrator/spawn.h"

#define GNUPLOT_MS    60000
#define PICTURE_BYTES (16 * MIB)
#define POINTS	      120 /* of a percentile curve */
#define NINES	      3.0 /* it ends at p99.9 */

static const char *const colours[BENCH_TRANSPORTS] = {"#0b7285", "#d9480f"};
static const char *const dashes[BENCH_LAYERS] = {"dt 1 lw 2.5", "dt (6,4) lw 1.6"};

static bool is_png(const char *path)
{
	const char *dot = strrchr(path, '.');

	return str_eq(dot, ".png");
}

int bench_plot_check_name(const char *path, struct error **err)
{
	const char *dot = strrchr(path, '.');

	if (str_eq(dot, ".svg") || str_eq(dot, ".png"))
		return 0;
	return error_set(
		err, ERR_INVALID, "--plot %s: the picture's name ends in .svg or .png", path);
}

int bench_plot_available(struct error **err)
{
	char gnuplot[] = "gnuplot", version[] = "--version";
	char *argv[] = {gnuplot, version, NULL};

	if (spawn_run(argv, GNUPLOT_MS, NULL) == 0)
		return 0;
	return error_set(
		err, ERR_NOT_FOUND, "no picture without gnuplot: apt-get install gnuplot-nox");
}

/* The script. ------------------------------------------------------------------------------------
 */

static char *harmless(const char *s)
{
	char *copy = xstrdup(s ? s : "unknown");

	for (char *p = copy; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr(" .,:()+-_/~", *p))
			*p = '?';
	return copy;
}

static void write_title(const struct bench_result *result, FILE *to)
{
	const struct bench_conditions *c = &result->conditions;
	_cleanup_free_ char *guest = harmless(c->guest_kernel), *accel = harmless(c->accelerator),
			    *qemu = harmless(c->qemu), *host = harmless(c->host_kernel);
	const char *device =
		str_eq(c->vsock_device, "kernel") ? "kernel vhost-vsock" : "userspace vsock device";

	qemu[strcspn(qemu, " ")] = 0; /* what the distribution adds has no place here */
	fprintf(to, "set label 1 'gRPC between host and guest: vsock and TCP/IP' "
		    "at screen 0.045,0.955 left font ',19'\n");
	fprintf(to,
		"set label 2 '%s, %s; TCP over virtio-net and QEMU user-mode network; %u rounds, "
		"%zu calls by each way' at screen 0.045,0.908 left tc rgb '#555555'\n",
		str_eq(c->accelerator, "tcg") ? "emulated guest (tcg)" : accel, device,
		result->plan.rounds, result->calls[BENCH_GRPC][BENCH_VSOCK].n);
	fprintf(to,
		"set label 3 'guest Linux %.40s; host Linux %.40s, %u cores, load %.1f before; "
		"QEMU %.20s' at screen 0.045,0.872 left tc rgb '#555555'\n",
		guest, host, c->host_cpus, c->load_before, qemu);
}

/* x counts nines: 0 is the least, 1 is p90, 2 is p99. Milliseconds. */
static void write_curve(struct bench_samples *samples, const char *name, FILE *to)
{
	double end = samples->n > 1 ? fmin(NINES, log10((double)samples->n)) : 0;

	fprintf(to, "$%s << EOD\n", name);
	for (int i = 0; i <= POINTS; i++) {
		double x = end * i / POINTS;
		double percent = 100 * (1 - pow(10, -x));
		fprintf(to, "%.4f %.6f\n", x,
			bench_samples_percentile(samples, fmax(percent, 1e-6)) / 1000);
	}
	fputs("EOD\n", to);
}

static void write_rates(const struct bench_result *result, int transport, int direction, FILE *to)
{
	const struct bench_stream *raw = &result->raw_streams[transport][direction];

	fprintf(to, "$rate_%d_%d << EOD\n", transport, direction);
	for (int i = 0; i < BENCH_SIZES; i++) {
		const struct bench_stream *s = &result->streams[transport][direction][i];
		fprintf(to, "%d %.6f %.6f\n", i, bench_median(s->rates, s->rounds) / (double)MIB,
			bench_median(raw->rates, raw->rounds) / (double)MIB);
	}
	fputs("EOD\n", to);
}

static void write_data(struct bench_result *result, FILE *to)
{
	for (int layer = 0; layer < BENCH_LAYERS; layer++)
		for (int t = 0; t < BENCH_TRANSPORTS; t++) {
			char name[32];
			snprintf(name, sizeof(name), "call_%d_%d", layer, t);
			write_curve(&result->calls[layer][t], name, to);
		}
	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		for (int d = 0; d < BENCH_DIRECTIONS; d++)
			write_rates(result, t, d, to);
}

static const char *legend(int layer, int transport)
{
	static const char *const names[BENCH_LAYERS][BENCH_TRANSPORTS] = {
		{"gRPC on vsock", "gRPC on TCP"}, {"raw vsock", "raw TCP"}};

	return names[layer][transport];
}

static void plot_latency(FILE *to)
{
	fputs("set origin 0.0,0.0\nset size 0.5,0.86\n"
	      "set title 'Time of one call, by percentile'\n"
	      "set xrange [0:3]\n"
	      "set xtics ('min' 0, 'p50' 0.30103, 'p90' 1, 'p99' 2, 'p99.9' 3)\n"
	      "set ylabel 'milliseconds (1 byte there and back)'\n"
	      "set key top left\n"
	      "set autoscale yfixmin\n"
	      "plot ",
		to);
	for (int layer = 0; layer < BENCH_LAYERS; layer++)
		for (int t = 0; t < BENCH_TRANSPORTS; t++)
			fprintf(to, "%s$call_%d_%d using 1:2 with lines %s lc rgb '%s' title '%s'",
				layer || t ? ", " : "", layer, t, dashes[layer], colours[t],
				legend(layer, t));
	fputs("\nunset label 1\nunset label 2\nunset label 3\n", to);
}

static void plot_rates(int direction, FILE *to)
{
	fprintf(to,
		"set origin 0.5,%s\nset size 0.5,%s\n"
		"set title 'Stream %s, by size of message'\n"
		"set xrange [-0.2:5.2]\n"
		"set xtics ('64 B' 0, '1 KiB' 1, '16 KiB' 2, '64 KiB' 3, '256 KiB' 4, '1 MiB' 5)\n"
		"set ylabel 'MiB/s'\n"
		"set key bottom right\n"
		"set autoscale y\n"
		"plot ",
		direction == BENCH_TO_GUEST ? "0.43" : "0.0", "0.43",
		direction == BENCH_TO_GUEST ? "to the guest" : "from the guest");
	for (int t = 0; t < BENCH_TRANSPORTS; t++)
		fprintf(to,
			"%s$rate_%d_%d using 1:2 with linespoints pt 7 ps 0.6 %s lc rgb '%s' "
			"title '%s', $rate_%d_%d using 1:3 with lines %s lc rgb '%s' title '%s'",
			t ? ", " : "", t, direction, dashes[BENCH_GRPC], colours[t],
			legend(BENCH_GRPC, t), t, direction, dashes[BENCH_RAW], colours[t],
			legend(BENCH_RAW, t));
	fputc('\n', to);
}

char *bench_plot_script(struct bench_result *result, bool png)
{
	char *script = NULL;
	size_t size;
	FILE *to = open_memstream(&script, &size);

	if (!to)
		return xstrdup("");
	fprintf(to,
		"set terminal %s size 1120,680 noenhanced font 'sans,%d' background '#ffffff'\n",
		png ? "pngcairo" : "svg dynamic", png ? 11 : 13);
	write_data(result, to);
	write_title(result, to);
	fputs("set multiplot\n"
	      "set logscale y\n"
	      "set border 3 lc rgb '#888888'\n"
	      "set tics nomirror textcolor rgb '#333333'\n"
	      "set grid ytics lc rgb '#dddddd' lw 1\n"
	      "set lmargin 9\n"
	      "set format y '%g'\n",
		to);
	plot_latency(to);
	plot_rates(BENCH_TO_GUEST, to);
	plot_rates(BENCH_FROM_GUEST, to);
	fputs("unset multiplot\n", to);
	fclose(to);
	return script;
}

/* The picture. -----------------------------------------------------------------------------------
 */

static int run_gnuplot(int script, int picture, int said, struct error **err)
{
	const struct spawn_fd fds[] = {{script, 0}, {picture, 1}, {said, 2}};
	char gnuplot[] = "gnuplot", from_stdin[] = "-", line[300];
	char *argv[] = {gnuplot, from_stdin, NULL};
	int status;

	pid_t pid = spawn_process(argv, fds, ARRAY_SIZE(fds), err);
	if (pid < 0)
		return -1;
	if (spawn_wait(pid, GNUPLOT_MS, &status) < 0) {
		kill(pid, SIGKILL);
		spawn_wait(pid, -1, &status);
		return error_set(err, ERR_TIMEOUT, "gnuplot does not end");
	}
	if (status == 0)
		return 0;
	ssize_t n = pread(said, line, sizeof(line), 0);
	_cleanup_free_ char *words = str_escape(line, n > 0 ? (size_t)n : 0, false);
	return error_set(err, ERR_UNKNOWN, "gnuplot failed: %s", words);
}

int bench_plot(struct bench_result *result, const char *path, struct error **err)
{
	_cleanup_free_ char *script = bench_plot_script(result, is_png(path));
	_cleanup_close_ int in = memfd_create("script", MFD_CLOEXEC);
	_cleanup_close_ int out = memfd_create("picture", MFD_CLOEXEC);
	_cleanup_close_ int said = memfd_create("stderr", MFD_CLOEXEC);

	if (in < 0 || out < 0 || said < 0 || write_all(in, script, strlen(script)) < 0 ||
		lseek(in, 0, SEEK_SET) < 0)
		return error_errno(err, errno, "the picture");
	if (run_gnuplot(in, out, said, err) < 0)
		return error_wrap(err, "%s", path);
	off_t size = lseek(out, 0, SEEK_END);
	if (size <= 0 || size > (off_t)PICTURE_BYTES)
		return error_set(err, ERR_UNKNOWN, "%s: gnuplot made no picture", path);
	_cleanup_free_ char *picture = xmalloc((size_t)size);
	if (pread(out, picture, (size_t)size, 0) != size)
		return error_errno(err, errno, "the picture");
	return write_file(path, picture, (size_t)size, 0644, false, err);
}
