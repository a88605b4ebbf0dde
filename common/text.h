/* Text: what may be shown, and numbers as people write them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool str_eq(const char *a, const char *b)
{
	return a && b ? __builtin_strcmp(a, b) == 0 : a == b;
}
bool str_starts(const char *s, const char *prefix);
bool utf8_valid(const char *s, size_t n); /* also refuses NUL, surrogates, overlong forms */
/* Copy with every byte that could drive a terminal escaped (\xNN): C0 but \t, DEL, C1, bidi
 * controls; also \n unless keep_newlines. Bytes that are no UTF-8 are escaped too. */
char *str_escape(const char *s, size_t n, bool keep_newlines);
/* The name that was most likely meant by word; NULL if none is near. */
const char *str_nearest(const char *word, const char *const *names, size_t n);
char *hex_encode(const void *p, size_t n);
/* 0, or -1 when s is not exactly 2*n lower- or upper-case hex digits. */
int hex_decode(const char *s, void *ret, size_t n);

/* Decimal digits and nothing else. 0, or -1: not that, or not from least to most. */
int parse_number(const char *s, uint64_t least, uint64_t most, uint64_t *ret);
/* As people write them. Sizes: 512M, 1G, 64KiB, 100 (bytes); powers of 1024. Durations: 90s, 10m,
 * 1h30m, 250ms; a bare number is refused. 0, or -1: not of that form, or out of range. */
int parse_size(const char *s, uint64_t *ret_bytes);
int parse_duration(const char *s, uint64_t *ret_ms);
char *format_size(uint64_t bytes);  /* "1.5G", "12K", "100" */
char *format_duration(uint64_t ms); /* "1m30s", "250ms" */
