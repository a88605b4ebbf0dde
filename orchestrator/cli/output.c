#include "orchestrator/cli/output.h"

#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <wchar.h>

#include "common/util.h"
#include "orchestrator/cli/report.h"
#include "orchestrator/cli/yaml_out.h"

#define GAP	    2  /* spaces between columns */
#define LEAST_WIDTH 12 /* below this no column is cut */

struct output output_stdout(const struct cli *cli)
{
	struct winsize ws;
	bool terminal = isatty(STDOUT_FILENO);

	return (struct output){
		.to = stdout,
		.format = cli->output,
		.now_usec = now_real_usec(),
		.width = terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 ? ws.ws_col : 0,
		.colour = report_may_colour(STDOUT_FILENO),
	};
}

json_t *output_string(const char *s)
{
	if (!s)
		return json_null();
	if (utf8_valid(s, strlen(s)))
		return json_string(s);
	_cleanup_free_ char *escaped = str_escape(s, strlen(s), true);
	return json_string(escaped);
}

static char *age_text(uint64_t now, uint64_t then)
{
	uint64_t age = then < now ? now - then : 0;
	/* Seconds are enough for a person. */
	_cleanup_free_ char *text = format_duration(age / 1000000 * 1000);
	char *point = strstr(text, ".0s");

	if (age < 1000000)
		return xstrdup("now");
	if (point)
		strcpy(point, "s");
	return str_printf("%s ago", text);
}

static char *time_text(uint64_t usec)
{
	time_t seconds = (time_t)(usec / 1000000);
	char text[64] = "";
	struct tm tm;

	if (localtime_r(&seconds, &tm))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	return xstrdup(text);
}

/* Columns that the text takes on a terminal. */
static unsigned text_width(const char *text)
{
	mbstate_t state = {0};
	unsigned width = 0;

	for (size_t n = strlen(text); n;) {
		wchar_t c;
		size_t len = mbrtowc(&c, text, n, &state);
		if (len == 0 || len > n) {
			state = (mbstate_t){0};
			len = 1;
			width++;
		} else {
			int w = wcwidth(c);
			width += w > 0 ? (unsigned)w : 0;
		}
		text += len;
		n -= len;
	}
	return width;
}

/* Cut text to that many columns, the last of them an ellipsis. */
static void cut(char *text, unsigned columns)
{
	mbstate_t state = {0};
	unsigned width = 0;
	char *p = text;

	while (*p) {
		wchar_t c;
		size_t len = mbrtowc(&c, p, strlen(p), &state);
		int w = len == 0 || len > strlen(p) ? -1 : wcwidth(c);
		if (w < 0) {
			state = (mbstate_t){0};
			len = 1;
			w = 1;
		}
		if (width + (unsigned)w + 1 > columns)
			break;
		width += (unsigned)w;
		p += len;
	}
	/* There is room: what is cut off was at least a column wide, but may be but one byte. */
	size_t left = strlen(p);
	strcpy(p, left >= 3 ? "\xe2\x80\xa6" : "~");
}

static const json_t *lookup(const json_t *object, const char *key)
{
	const char *dot;

	while (object && (dot = strchr(key, '.'))) {
		_cleanup_free_ char *head = xstrndup(key, (size_t)(dot - key));
		object = json_object_get(object, head);
		key = dot + 1;
	}
	return object ? json_object_get(object, key) : NULL;
}

static char *scalar_text(const struct output *output, enum output_kind kind, const json_t *value)
{
	if (json_is_integer(value) && kind == COLUMN_AGE)
		return age_text(output->now_usec, (uint64_t)json_integer_value(value));
	if (json_is_integer(value) && kind == COLUMN_TIME)
		return time_text((uint64_t)json_integer_value(value));
	if (json_is_integer(value) && kind == COLUMN_DURATION)
		return format_duration((uint64_t)json_integer_value(value) / 1000);
	if (json_is_integer(value) && kind == COLUMN_SIZE)
		return format_size((uint64_t)json_integer_value(value));
	if (json_is_string(value))
		return xstrdup(json_string_value(value));
	if (json_is_integer(value))
		return str_printf("%lld", (long long)json_integer_value(value));
	if (json_is_real(value))
		return str_printf("%g", json_real_value(value));
	if (json_is_boolean(value))
		return xstrdup(json_is_true(value) ? "yes" : "no");
	return xstrdup("");
}

static char *joined(const struct output *output, enum output_kind kind, const json_t *value)
{
	char *text = xstrdup("");
	const char *key;
	json_t *item;
	size_t i;

	json_array_foreach(value, i, item)
	{
		_cleanup_free_ char *one = scalar_text(output, kind, item);
		_cleanup_free_ char *before = text;
		text = str_printf("%s%s%s", before, *before ? " " : "", one);
	}
	/* jansson's macro wants a pointer that is not const, and changes nothing. */
	json_t *object = json_is_object(value) ? json_copy((json_t *)(uintptr_t)value) : NULL;
	json_object_foreach(object, key, item)
	{
		_cleanup_free_ char *one = scalar_text(output, kind, item);
		_cleanup_free_ char *before = text;
		text = str_printf("%s%s%s=%s", before, *before ? " " : "", key, one);
	}
	json_decref(object);
	return text;
}

/* The value at a column's key, as a table shows it; "" when it is absent. Owned by the caller. */
static char *cell_text(
	const struct output *output, const struct output_column *column, const json_t *object)
{
	const json_t *value = lookup(object, column->key);
	_cleanup_free_ char *raw = json_is_array(value) || json_is_object(value)
					   ? joined(output, column->kind, value)
					   : scalar_text(output, column->kind, value);

	return str_escape(raw, strlen(raw), false);
}

/* Red for what went wrong, green for what went well; by the word, for any type. */
static const char *colour_of(const char *text)
{
	static const struct {
		const char *word, *colour;
	} words[] = {
		{"succeeded", "32"},
		{"failed", "31"},
		{"timeout", "31"},
		{"cancelled", "33"},
		{"oom_guest", "31"},
		{"oom_host", "31"},
		{"guest_panic", "31"},
		{"agent_lost", "31"},
		{"boot_failed", "31"},
		{"infra", "31"},
		{"running", "36"},
		{"starting", "36"},
		{"collecting", "36"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (str_eq(words[i].word, text))
			return words[i].colour;
	return NULL;
}

static void put_cell(const struct output *output, const struct output_column *column,
	const char *text, unsigned width, bool last)
{
	unsigned used = text_width(text);
	int pad = used < width ? (int)(width - used) : 0;
	const char *colour = output->colour ? colour_of(text) : NULL;

	if (column->right)
		fprintf(output->to, "%*s", pad, "");
	if (colour)
		fprintf(output->to, "\033[%sm%s\033[0m", colour, text);
	else
		fputs(text, output->to);
	if (!last)
		fprintf(output->to, "%*s", (column->right ? 0 : pad) + GAP, "");
}

/* A table's cells, row by row, the titles first. */
struct grid {
	const struct output_column *columns;
	size_t n_columns, n_rows;
	char **cells; /* owned */
	unsigned *widths;
};

static void grid_fill(struct grid *grid, const struct output *output, const json_t *rows)
{
	size_t n = 0;

	while (grid->columns[n].title)
		n++;
	grid->n_columns = n;
	grid->n_rows = json_array_size(rows) + 1;
	grid->cells = xcalloc(grid->n_rows * n, sizeof(*grid->cells));
	grid->widths = xcalloc(n, sizeof(*grid->widths));
	for (size_t r = 0; r < grid->n_rows; r++) {
		for (size_t c = 0; c < n; c++) {
			const struct output_column *column = &grid->columns[c];
			char **cell = &grid->cells[r * n + c];
			*cell = r ? cell_text(output, column, json_array_get(rows, r - 1))
				  : xstrdup(column->title);
			if (r && !**cell) {
				free(*cell);
				*cell = xstrdup("-");
			}
			grid->widths[c] = MAX(grid->widths[c], text_width(*cell));
		}
	}
}

static void grid_narrow(struct grid *grid, unsigned terminal)
{
	unsigned total = 0;

	for (size_t c = 0; c < grid->n_columns; c++)
		total += grid->widths[c] + (c ? GAP : 0);
	for (size_t c = grid->n_columns; c-- && total > terminal;) {
		unsigned over = total - terminal, width = grid->widths[c];
		if (!grid->columns[c].gives || width <= LEAST_WIDTH)
			continue;
		grid->widths[c] = width > over + LEAST_WIDTH ? width - over : LEAST_WIDTH;
		total -= width - grid->widths[c];
	}
	for (size_t i = 0; i < grid->n_rows * grid->n_columns; i++)
		if (text_width(grid->cells[i]) > grid->widths[i % grid->n_columns])
			cut(grid->cells[i], grid->widths[i % grid->n_columns]);
}

static void print_table(
	const struct output *output, const struct output_type *type, const json_t *rows)
{
	struct grid grid = {.columns = type->columns};

	grid_fill(&grid, output, rows);
	if (output->width)
		grid_narrow(&grid, output->width);
	for (size_t r = 0; r < grid.n_rows; r++) {
		for (size_t c = 0; c < grid.n_columns; c++)
			put_cell(output, &grid.columns[c], grid.cells[r * grid.n_columns + c],
				grid.widths[c], c + 1 == grid.n_columns);
		fputc('\n', output->to);
	}
	for (size_t i = 0; i < grid.n_rows * grid.n_columns; i++)
		free(grid.cells[i]);
	free(grid.cells);
	free(grid.widths);
}

static void print_name(
	const struct output *output, const struct output_type *type, const json_t *object)
{
	struct output_column column = {.key = type->name_key};
	_cleanup_free_ char *name = cell_text(output, &column, object);

	fprintf(output->to, "%s\n", name);
}

void output_value(const struct output *output, const json_t *value)
{
	if (output->format == OUTPUT_YAML) {
		yaml_out(output->to, value, output->width > 0);
		return;
	}
	/* What turns text around or drives a terminal may be good UTF-8: a terminal gets ASCII. */
	json_dumpf(value, output->to,
		JSON_INDENT(2) | JSON_ENCODE_ANY | (output->width ? JSON_ENSURE_ASCII : 0));
	fputc('\n', output->to);
}

void output_list(const struct output *output, const struct output_type *type, const json_t *rows)
{
	json_t *row;
	size_t i;

	switch (output->format) {
	case OUTPUT_TABLE:
		print_table(output, type, rows);
		break;
	case OUTPUT_NAME:
		json_array_foreach(rows, i, row) print_name(output, type, row);
		break;
	case OUTPUT_JSON:
	case OUTPUT_YAML:
		output_value(output, rows);
		break;
	}
}

/* A text's lines below each other, all but the first at this column. */
static void print_lines_at(FILE *to, const char *raw, unsigned column)
{
	size_t n = strlen(raw);

	while (n && raw[n - 1] == '\n')
		n--;
	_cleanup_free_ char *text = str_escape(raw, n, true);
	for (char *line = text; line;) {
		char *end = strchr(line, '\n');
		if (end)
			*end++ = 0;
		fprintf(to, "%*s%s\n", line == text || !*line ? 0 : (int)column, "", line);
		line = end;
	}
}

static void print_fields(
	const struct output *output, const struct output_type *fields, const json_t *object)
{
	unsigned width = 0;

	for (const struct output_column *c = fields->columns; c->title; c++) {
		_cleanup_free_ char *text = cell_text(output, c, object);
		if (*text)
			width = MAX(width, text_width(c->title) + 1);
	}
	for (const struct output_column *c = fields->columns; c->title; c++) {
		_cleanup_free_ char *text = cell_text(output, c, object);
		const char *colour = output->colour ? colour_of(text) : NULL;

		if (!*text)
			continue;
		fprintf(output->to, "%s:%*s", c->title, (int)(width - text_width(c->title)), "");
		const char *lines = json_string_value(lookup(object, c->key));
		if (colour)
			fprintf(output->to, "\033[%sm%s\033[0m\n", colour, text);
		else if (c->kind == COLUMN_LINES && lines)
			print_lines_at(output->to, lines, width + 1);
		else
			fprintf(output->to, "%s\n", text);
	}
}

void output_object(
	const struct output *output, const struct output_type *fields, const json_t *object)
{
	if (output->format == OUTPUT_TABLE)
		print_fields(output, fields, object);
	else if (output->format == OUTPUT_NAME)
		print_name(output, fields, object);
	else
		output_value(output, object);
}
