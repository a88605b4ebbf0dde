#include "orchestrator/image_apt.h"

#include <errno.h>
#include <fts.h>
#include <string.h>
#include <sys/stat.h>

#include <sodium.h>

#include "common/util.h"

#define ASK_TIMEOUT_MS 180000 /* lists may have to be fetched */
#define LIMIT_ANSWER   (4 * MIB)

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

char *image_stamp(const char *path, struct error **err)
{
	char *const roots[] = {(char *)(uintptr_t)path, NULL};
	crypto_hash_sha256_state hash;
	uint8_t raw[crypto_hash_sha256_BYTES];
	FTSENT *entry;

	if (access(path, R_OK) < 0) {
		error_errno(err, errno, "%s", path);
		return NULL;
	}
	FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
	if (!walk) {
		error_errno(err, errno, "%s", path);
		return NULL;
	}
	crypto_hash_sha256_init(&hash);
	while ((entry = fts_read(walk))) {
		const struct stat *st = entry->fts_statp;
		bool file = entry->fts_info != FTS_D;
		if (entry->fts_info == FTS_DP)
			continue;
		/* A directory's own time is left out: lock files come and go in apt's. */
		_cleanup_free_ char *line = str_printf("%s %o %lld %lld.%09ld\n", entry->fts_path,
			st->st_mode, file ? (long long)st->st_size : 0LL,
			file ? (long long)st->st_mtim.tv_sec : 0LL,
			file ? st->st_mtim.tv_nsec : 0L);
		crypto_hash_sha256_update(&hash, (const uint8_t *)line, strlen(line));
	}
	fts_close(walk);
	crypto_hash_sha256_final(&hash, raw);
	return hex_encode(raw, sizeof(raw));
}

/* The state of apt: its configuration and sources, the lists, ours too, and the script. */
static char *apt_state(const struct image_apt *apt)
{
	_cleanup_free_ char *own = str_printf("%s/apt/lists", apt->cache);
	_cleanup_free_ char *configuration = image_stamp("/etc/apt", NULL);
	_cleanup_free_ char *lists = image_stamp("/var/lib/apt/lists", NULL);
	_cleanup_free_ char *own_lists = image_stamp(own, NULL);
	_cleanup_free_ char *script = image_stamp(apt->script, NULL);

	return image_tools_digest(configuration ? configuration : "", lists ? lists : "",
		own_lists ? own_lists : "", script ? script : "", NULL);
}

static char *memo_path(const struct image_apt *apt, const struct arg_list *args)
{
	_cleanup_free_ char *key = apt_state(apt);

	for (size_t i = 0; i < args->n; i++) {
		char *next = image_tools_digest(key, args->items[i], NULL);
		free(key);
		key = next;
	}
	return str_printf("%s/asked/%s", apt->cache, key);
}

char *image_apt_ask(const struct image_apt *apt, const char *what, const struct arg_list *args,
	struct error **err)
{
	_cleanup_free_ char *known = memo_path(apt, args);
	_cleanup_free_ char *dir = str_printf("%s/asked", apt->cache);
	char *answer = read_file(known, LIMIT_ANSWER, NULL, NULL);
	struct arg_list argv = {0};

	if (answer)
		return answer;
	arg_add(&argv, apt->script);
	arg_add(&argv, args->items[0]);
	arg_add(&argv, apt->cache);
	for (size_t i = 1; i < args->n; i++)
		arg_add(&argv, args->items[i]);
	answer = image_tools_capture(apt->tools, what, argv.items, ASK_TIMEOUT_MS, err);
	arg_clear(&argv);
	if (!answer)
		return NULL;
	/* By the state after: asking may have fetched lists. That it cannot be remembered is no
	 * failure. */
	_cleanup_free_ char *memo = memo_path(apt, args);
	if (make_dirs(dir, 0755, NULL) == 0)
		write_file(memo, answer, strlen(answer), 0644, false, NULL);
	return answer;
}
