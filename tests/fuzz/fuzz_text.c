/* Any bytes as the small texts: what may be shown, sizes and durations, hex, names. */
#include "orchestrator/cid.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"run", "submit", "status", "max_vms", "state_dir"};
	_cleanup_free_ char *text = xstrndup((const char *)data, size);
	struct cid_range range;
	uint64_t n;

	for (int keep = 0; keep < 2; keep++) {
		_cleanup_free_ char *shown = str_escape((const char *)data, size, keep);
		_cleanup_free_ char *again = str_escape(shown, strlen(shown), keep);
		must(utf8_valid(shown, strlen(shown)), "no UTF-8", shown);
		must(str_eq(shown, again), "not stable", shown);
	}
	if (parse_size(text, &n) == 0)
		free(format_size(n));
	if (parse_duration(text, &n) == 0)
		free(format_duration(n));
	free(cid_range_parse(text, &range));
	str_nearest(text, names, ARRAY_SIZE(names));

	_cleanup_free_ char *hex = hex_encode(data, size);
	_cleanup_free_ uint8_t *back = xmalloc(size);
	must(hex_decode(hex, back, size) == 0 && (!size || !memcmp(back, data, size)), "hex", hex);
	hex_decode(text, back, size / 2);
	return 0;
}
