/* Any bytes as an image's recipe: taken, or refused with a place for each mistake. */
#include "orchestrator/image_recipe.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *path;
	_cleanup_error_ struct error *err = NULL;
	struct recipe recipe = {0};

	if (!path) {
		atexit(fuzz_dir_remove);
		path = str_printf("%s/r.yaml", fuzz_dir());
	}
	if (write_file(path, data, size, 0600, false, &err) < 0)
		must(false, "write", err->text);
	if (recipe_read(path, &recipe, &err) < 0) {
		must(err && str_starts(err->text, path), "no place", err ? err->text : NULL);
		must_be_harmless(err->text, "error");
		return 0;
	}
	/* These become arguments and paths. */
	must(recipe.suite && recipe.suite[0] != '-', "suite", recipe.suite);
	for (size_t i = 0; i < recipe.n_packages; i++)
		must(recipe.packages[i][0] != '-' && !strpbrk(recipe.packages[i], " \n,;"),
			"package", recipe.packages[i]);
	for (size_t i = 0; i < recipe.n_users; i++)
		must(recipe.users[i]->home[0] == '/' && !strstr(recipe.users[i]->home, "/.."),
			"home", recipe.users[i]->home);
	recipe_clear(&recipe);
	return 0;
}
