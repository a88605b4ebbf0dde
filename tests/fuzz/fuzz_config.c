/* Any bytes as a configuration: what is taken can be described, and the description reads back as
 * the same values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/config_keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/fuzz_config.XXXXXX", path[64];

static void leave(void)
{
	remove_tree(dir, NULL);
}

static struct config *load(const void *text, size_t size, struct error **err)
{
	const struct config_sources sources = {
		.files = {path}, .must_exist = true, .uid = 1000, .home = "/home/u"};

	if (write_file(path, text, size, 0600, false, err) < 0) {
		perror(path);
		abort();
	}
	return config_load_from(&sources, err);
}

static void check_back(const struct config *config)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *shown = config_describe(config);
	struct config *back = load(shown, strlen(shown), &err);

	if (!back) {
		fprintf(stderr, "%s-> %s\n", shown, err->text);
		abort();
	}
	for (size_t i = 0; i < config_table.n_keys; i++) {
		_cleanup_free_ char *was = yaml_key_format(&config_table.keys[i], config);
		_cleanup_free_ char *is = yaml_key_format(&config_table.keys[i], back);
		if (!str_eq(was, is)) {
			fprintf(stderr, "%s: %s became %s\n", config_table.keys[i].name, was, is);
			abort();
		}
	}
	config_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error *err = NULL;

	if (!*path) {
		if (!mkdtemp(dir))
			abort();
		atexit(leave);
		snprintf(path, sizeof(path), "%s/c.yaml", dir);
	}
	struct config *config = load(data, size, &err);
	if (config)
		check_back(config);
	config_free(config);
	return 0;
}
