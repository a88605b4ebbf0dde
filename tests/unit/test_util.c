#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"

static void numbers_are_digits_in_their_range(void **state)
{
	static const struct {
		const char *text;
		uint64_t least, most;
		int r;
	} table[] = {
		{"0", 0, 0, 0},
		{"7", 7, 7, 0},
		{"007", 1, 9, 0},
		{"18446744073709551615", 0, UINT64_MAX, 0},
		{"6", 7, 9, -1},
		{"10", 7, 9, -1},
		{"18446744073709551616", 0, UINT64_MAX, -1},
		{"", 0, 9, -1},
		{" 1", 0, 9, -1},
		{"1 ", 0, 9, -1},
		{"+1", 0, 9, -1},
		{"-1", 0, UINT64_MAX, -1},
		{"0x1", 0, 9, -1},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		uint64_t v = 4711;

		assert_int_equal(
			parse_number(table[i].text, table[i].least, table[i].most, &v), table[i].r);
		assert_int_equal(v == 4711, table[i].r != 0);
	}
}

static void sizes_as_people_write_them(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"100", 100}, {"64K", 65536}, {"512M", 512 * MIB}, {"1G", GIB},
		{"1GiB", GIB}, {"2T", 2048 * GIB}};
	static const char *const bad[] = {"", "M", "1.5G", "-1", "1 G", "1GB", "1g", "1Mi",
		"99999999999999999999", "99999999999T", "1K1"};
	uint64_t v;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_size(good[i].text, &v), 0);
		assert_int_equal(v, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_size(bad[i], &v), -1);
}

static void durations_as_people_write_them(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} good[] = {{"250ms", 250}, {"90s", 90000}, {"10m", 600000}, {"1h30m", 5400000},
		{"1d", 86400000}, {"1m5s", 65000}};
	static const char *const bad[] = {"", "90", "s", "1.5s", "30m1h", "1s1s", "-1s", "1 s",
		"1hour", "99999999999999999999s", "999999999999999999d"};
	uint64_t v;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_duration(good[i].text, &v), 0);
		assert_int_equal(v, good[i].ms);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_duration(bad[i], &v), -1);
}

static void sizes_and_durations_are_shown_short(void **state)
{
	(void)state;
	static const struct {
		uint64_t v;
		const char *text;
	} sizes[] = {{0, "0"}, {1023, "1023"}, {1024, "1K"}, {1536, "1.5K"}, {512 * MIB, "512M"},
		{3 * GIB / 2, "1.5G"}},
	  durations[] = {{250, "250ms"}, {1500, "1.5s"}, {65000, "1m05s"}, {5400000, "1h30m"},
		  {90000000, "1d01h"}};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		_cleanup_free_ char *s = format_size(sizes[i].v);
		assert_string_equal(s, sizes[i].text);
	}
	for (size_t i = 0; i < ARRAY_SIZE(durations); i++) {
		_cleanup_free_ char *s = format_duration(durations[i].v);
		assert_string_equal(s, durations[i].text);
	}
}

static void nothing_drives_the_terminal(void **state)
{
	(void)state;
	static const struct {
		const char *raw, *shown;
	} cases[] = {
		{"plain\ttext", "plain\ttext"}, {"\033[2Jx", "\\x1b[2Jx"}, {"a\nb", "a\\x0ab"},
		{"\x7f", "\\x7f"}, {"\xc2\x9b", "\\xc2\\x9b"}, /* C1 CSI */
		{"\xe2\x80\xae", "\\xe2\\x80\\xae"},	       /* right-to-left override */
		{"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},  /* umlauts stay */
		{"\xff\xc3", "\\xff\\xc3"},		       /* no UTF-8 */
		{"\xc0\xaf", "\\xc0\\xaf"},		       /* overlong */
		{"\xed\xa0\x80", "\\xed\\xa0\\x80"},	       /* surrogate */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *s = str_escape(cases[i].raw, strlen(cases[i].raw), false);
		assert_string_equal(s, cases[i].shown);
	}
	_cleanup_free_ char *kept = str_escape("a\nb\r", 4, true);
	assert_string_equal(kept, "a\nb\\x0d");
	assert_true(utf8_valid("gr\xc3\xbc\xc3\x9f", 6));
	assert_false(utf8_valid("a\0b", 3));
}

static void hex_goes_there_and_back(void **state)
{
	uint8_t raw[4] = {0, 0x7f, 0x80, 0xff}, back[4];
	_cleanup_free_ char *text = hex_encode(raw, 4);

	(void)state;
	assert_string_equal(text, "007f80ff");
	assert_int_equal(hex_decode("007F80ff", back, 4), 0);
	assert_memory_equal(raw, back, 4);
	assert_int_equal(hex_decode("007f80f", back, 4), -1);
	assert_int_equal(hex_decode("007f80fg", back, 4), -1);
}

static void errors_tell_the_whole_way(void **state)
{
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	assert_int_equal(error_errno(&err, 2, "%s", "/x"), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
	error_wrap(&err, "reading input %d", 3);
	assert_string_equal(err->text, "reading input 3: /x: No such file or directory");
	error_set(&err, ERR_LIMIT, "again"); /* replaces */
	assert_string_equal(err->text, "again");
	assert_int_equal(error_set(NULL, ERR_LIMIT, "nobody cares"), -1);
	assert_string_equal(err_code_name(ERR_LIMIT), "LIMIT");
	assert_string_equal(err_code_name((enum err_code)999), "UNKNOWN");
}

static void files_are_written_whole_and_capped_when_read(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	char dir[] = "/tmp/test_util.XXXXXX";
	size_t size;

	(void)state;
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *deep = str_printf("%s/a/b/c", dir);
	assert_int_equal(make_dirs(deep, 0700, &err), 0);
	assert_int_equal(make_dirs(deep, 0700, &err), 0); /* again is no error */
	_cleanup_free_ char *path = str_printf("%s/f", deep);
	assert_int_equal(write_file(path, "hello", 5, 0640, true, &err), 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	_cleanup_free_ char *back = read_file(path, 5, &size, &err);
	assert_string_equal(back, "hello");
	assert_int_equal(size, 5);
	assert_null(read_file(path, 4, NULL, &err));
	assert_int_equal(err->code, ERR_LIMIT);
	_cleanup_free_ char *under = str_printf("%s/x", path);
	assert_int_equal(make_dirs(under, 0700, NULL), -1); /* below a file */
	/* A link to the outside is removed, not followed. */
	_cleanup_free_ char *link = str_printf("%s/link", deep);
	assert_int_equal(symlink("/etc", link), 0);
	assert_int_equal(remove_tree(dir, &err), 0);
	assert_int_equal(access(dir, F_OK), -1);
	assert_int_equal(access("/etc/passwd", F_OK), 0);
	assert_int_equal(remove_tree(dir, &err), 0); /* not there is success */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_digits_in_their_range),
		cmocka_unit_test(sizes_as_people_write_them),
		cmocka_unit_test(durations_as_people_write_them),
		cmocka_unit_test(sizes_and_durations_are_shown_short),
		cmocka_unit_test(nothing_drives_the_terminal),
		cmocka_unit_test(hex_goes_there_and_back),
		cmocka_unit_test(errors_tell_the_whole_way),
		cmocka_unit_test(files_are_written_whole_and_capped_when_read),
	};
	return cmocka_run_group_tests_name("util", tests, NULL, NULL);
}
