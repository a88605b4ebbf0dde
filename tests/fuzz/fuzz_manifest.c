/* Any bytes as an image's manifest.json: what is taken is written and read back the same. */
#include "orchestrator/image_manifest.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error *err = NULL;
	struct image_manifest m = {0}, back = {0};

	if (image_manifest_parse((const char *)data, size, &m, &err) < 0) {
		must(err != NULL, "failed without an error", NULL);
		must_be_harmless(err->text, "error");
		return 0;
	}
	for (int i = 0; i < IMAGE_FILES; i++)
		must(m.files[i].name[0] && !strchr(m.files[i].name, '/') &&
				m.files[i].name[0] != '.',
			"no plain name", m.files[i].name);
	_cleanup_free_ char *text = image_manifest_format(&m);
	if (image_manifest_parse(text, strlen(text), &back, &err) < 0)
		must(false, "does not read back", err->text);
	_cleanup_free_ char *digest = image_manifest_digest(&m);
	_cleanup_free_ char *digest_back = image_manifest_digest(&back);
	must(str_eq(digest, digest_back), "another digest", text);
	image_manifest_clear(&m);
	image_manifest_clear(&back);
	return 0;
}
