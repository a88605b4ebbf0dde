#include "orchestrator/image_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <jansson.h>
#include <sodium.h>

#include "common/limits.h"
#include "common/util.h"

#define LIMIT_MANIFEST_TEXT 4096  /* of one string in it */
#define LIMIT_PACKAGES	    20000 /* more than any distribution installs */

static const char *const file_keys[IMAGE_FILES] = {"kernel", "initramfs", "root"};
static const char *const input_keys[IMAGE_INPUTS] = {"kernel", "initramfs", "root"};

const char *image_file_key(enum image_file file)
{
	return file_keys[file];
}

/* Anything that could drive a terminal: control characters, and those that turn the line around. */
static bool has_control(const char *text)
{
	_cleanup_free_ char *harmless = str_escape(text, strlen(text), false);

	return !str_eq(text, harmless) || strchr(text, '\t');
}

/* The string member KEY of object, copied. what is how errors call the object. */
static char *take_text(const json_t *object, const char *what, const char *key, struct error **err)
{
	const json_t *value = json_object_get(object, key);
	const char *text = json_string_value(value);

	if (!text) {
		error_set(err, ERR_INVALID, "%s%s %s", what, key,
			value ? "is not a text" : "is missing");
		return NULL;
	}
	if (strlen(text) != json_string_length(value) || strlen(text) > LIMIT_MANIFEST_TEXT) {
		error_set(err, ERR_INVALID, "%s%s is no acceptable text", what, key);
		return NULL;
	}
	if (has_control(text)) {
		error_set(err, ERR_INVALID, "%s%s has a control character", what, key);
		return NULL;
	}
	return xstrdup(text);
}

static bool plain_name(const char *name)
{
	return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) <= LIMIT_NAME;
}

static int take_file(
	const json_t *files, enum image_file which, struct image_manifest *m, struct error **err)
{
	const json_t *file = json_object_get(files, file_keys[which]);
	_cleanup_free_ char *what = str_printf("files.%s.", file_keys[which]);
	_cleanup_free_ char *sha256 = NULL;
	uint8_t raw[32];

	if (!json_is_object(file))
		return error_set(err, ERR_INVALID, "files.%s is missing", file_keys[which]);
	m->files[which].name = take_text(file, what, "name", err);
	if (!m->files[which].name)
		return -1;
	/* The name becomes part of a path on the host. */
	if (!plain_name(m->files[which].name))
		return error_set(err, ERR_INVALID, "%sname is not the name of a file", what);
	const json_t *size = json_object_get(file, "size");
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return error_set(err, ERR_INVALID, "%ssize is missing or no size", what);
	m->files[which].size = (uint64_t)json_integer_value(size);
	sha256 = take_text(file, what, "sha256", err);
	if (!sha256)
		return -1;
	if (hex_decode(sha256, raw, sizeof(raw)) < 0)
		return error_set(err, ERR_INVALID, "%ssha256 is no SHA-256", what);
	memcpy(m->files[which].sha256, sha256, 65);
	return 0;
}

static int take_packages(json_t *root, struct image_manifest *m, struct error **err)
{
	json_t *packages = json_object_get(root, "packages");
	const char *name;
	json_t *version;

	if (!packages)
		return 0;
	if (!json_is_object(packages) || json_object_size(packages) > LIMIT_PACKAGES)
		return error_set(err, ERR_INVALID, "packages is no list of names and versions");
	json_object_foreach(packages, name, version)
	{
		if (!json_is_string(version) || has_control(json_string_value(version)) ||
			has_control(name))
			return error_set(
				err, ERR_INVALID, "packages: a name or version is no plain text");
		image_manifest_add_package(m, name, json_string_value(version));
	}
	return 0;
}

static int one_of(
	const char *value, const char *const *known, size_t n, const char *key, struct error **err)
{
	for (size_t i = 0; i < n; i++)
		if (str_eq(value, known[i]))
			return 0;
	return error_set(err, ERR_INVALID, "%s \"%s\" is not known to this version", key, value);
}

static int take_all(json_t *root, struct image_manifest *m, struct error **err)
{
	static const char *const kinds[] = {"tuned", "stock", "custom"};
	static const char *const types[] = {"erofs", "ext4", "squashfs"};
	const json_t *format = json_object_get(root, "format");
	const json_t *kernel = json_object_get(root, "kernel");
	const json_t *inputs = json_object_get(root, "inputs");

	if (!json_is_integer(format))
		return error_set(err, ERR_INVALID, "format is missing");
	if (json_integer_value(format) != MANIFEST_FORMAT)
		return error_set(err, ERR_UNSUPPORTED,
			"format %lld is not the one this version reads (%d)",
			(long long)json_integer_value(format), MANIFEST_FORMAT);
	if (!(m->name = take_text(root, "", "name", err)) ||
		!(m->created = take_text(root, "", "created", err)) ||
		!(m->kernel_kind = take_text(kernel, "kernel.", "kind", err)) ||
		!(m->kernel_release = take_text(kernel, "kernel.", "release", err)) ||
		!(m->cmdline = take_text(kernel, "kernel.", "cmdline", err)) ||
		!(m->root_type = take_text(root, "", "root_type", err)))
		return -1;
	if (one_of(m->kernel_kind, kinds, ARRAY_SIZE(kinds), "kernel.kind", err) < 0 ||
		one_of(m->root_type, types, ARRAY_SIZE(types), "root_type", err) < 0)
		return -1;
	for (enum image_file i = 0; i < IMAGE_FILES; i++)
		if (take_file(json_object_get(root, "files"), i, m, err) < 0)
			return -1;
	for (size_t i = 0; i < IMAGE_INPUTS; i++)
		m->inputs[i] = xstrdup(json_string_value(json_object_get(inputs, input_keys[i])));
	return take_packages(root, m, err);
}

int image_manifest_parse(
	const char *text, size_t size, struct image_manifest *ret, struct error **err)
{
	json_error_t json_err;
	json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &json_err);
	_cleanup_free_ char *stated = NULL, *actual = NULL;
	int r = -1;

	memset(ret, 0, sizeof(*ret));
	if (!root) {
		_cleanup_free_ char *why = str_escape(json_err.text, strlen(json_err.text), false);
		return error_set(err, ERR_INVALID, "%d:%d: no JSON: %s", json_err.line,
			json_err.column, why);
	}
	if (!json_is_object(root)) {
		error_set(err, ERR_INVALID, "not a JSON object");
		goto out;
	}
	if (take_all(root, ret, err) < 0 || !(stated = take_text(root, "", "digest", err)))
		goto out;
	actual = image_manifest_digest(ret);
	if (!str_eq(stated, actual)) {
		error_set(err, ERR_DATA_LOSS, "its digest does not match what it lists");
		goto out;
	}
	r = 0;
out:
	json_decref(root);
	if (r < 0)
		image_manifest_clear(ret);
	return r;
}

char *image_manifest_digest(const struct image_manifest *m)
{
	crypto_hash_sha256_state hash;
	uint8_t raw[crypto_hash_sha256_BYTES];

	crypto_hash_sha256_init(&hash);
	_cleanup_free_ char *head = str_printf("orchestrator image %d\ncmdline %s\nroot_type %s\n",
		MANIFEST_FORMAT, m->cmdline, m->root_type);
	crypto_hash_sha256_update(&hash, (const uint8_t *)head, strlen(head));
	for (size_t i = 0; i < IMAGE_FILES; i++) {
		_cleanup_free_ char *line = str_printf("%s %llu %s\n", file_keys[i],
			(unsigned long long)m->files[i].size, m->files[i].sha256);
		crypto_hash_sha256_update(&hash, (const uint8_t *)line, strlen(line));
	}
	crypto_hash_sha256_final(&hash, raw);
	_cleanup_free_ char *hex = hex_encode(raw, sizeof(raw));
	return str_printf("sha256:%s", hex);
}

static json_t *text_or_empty(const char *text)
{
	return json_string(text ? text : "");
}

char *image_manifest_format(const struct image_manifest *m)
{
	_cleanup_free_ char *digest = image_manifest_digest(m);
	json_t *files = json_object(), *inputs = json_object(), *packages = json_object();

	for (size_t i = 0; i < IMAGE_FILES; i++) {
		json_t *file = json_object();
		json_object_set_new(file, "name", text_or_empty(m->files[i].name));
		json_object_set_new(file, "size", json_integer((json_int_t)m->files[i].size));
		json_object_set_new(file, "sha256", text_or_empty(m->files[i].sha256));
		json_object_set_new(files, file_keys[i], file);
	}
	for (size_t i = 0; i < IMAGE_INPUTS; i++)
		if (m->inputs[i])
			json_object_set_new(inputs, input_keys[i], json_string(m->inputs[i]));
	for (size_t i = 0; i < m->n_packages; i++)
		json_object_set_new(
			packages, m->packages[i].name, text_or_empty(m->packages[i].version));

	json_t *kernel = json_object();
	json_object_set_new(kernel, "kind", text_or_empty(m->kernel_kind));
	json_object_set_new(kernel, "release", text_or_empty(m->kernel_release));
	json_object_set_new(kernel, "cmdline", text_or_empty(m->cmdline));

	json_t *root = json_object();
	json_object_set_new(root, "format", json_integer(MANIFEST_FORMAT));
	json_object_set_new(root, "name", text_or_empty(m->name));
	json_object_set_new(root, "created", text_or_empty(m->created));
	json_object_set_new(root, "digest", json_string(digest));
	json_object_set_new(root, "kernel", kernel);
	json_object_set_new(root, "root_type", text_or_empty(m->root_type));
	json_object_set_new(root, "files", files);
	json_object_set_new(root, "inputs", inputs);
	json_object_set_new(root, "packages", packages);
	_cleanup_free_ char *text = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	return str_printf("%s\n", text);
}

void image_manifest_add_package(struct image_manifest *m, const char *name, const char *version)
{
	/* Grow by powers of two. */
	if ((m->n_packages & (m->n_packages - 1)) == 0)
		m->packages = xreallocarray(
			m->packages, m->n_packages ? m->n_packages * 2 : 1, sizeof(*m->packages));
	m->packages[m->n_packages++] =
		(struct image_package){.name = xstrdup(name), .version = xstrdup(version)};
}

void image_manifest_clear(struct image_manifest *m)
{
	free(m->name);
	free(m->created);
	free(m->kernel_kind);
	free(m->kernel_release);
	free(m->cmdline);
	free(m->root_type);
	for (size_t i = 0; i < IMAGE_FILES; i++)
		free(m->files[i].name);
	for (size_t i = 0; i < IMAGE_INPUTS; i++)
		free(m->inputs[i]);
	for (size_t i = 0; i < m->n_packages; i++) {
		free(m->packages[i].name);
		free(m->packages[i].version);
	}
	free(m->packages);
	memset(m, 0, sizeof(*m));
}

int file_sha256(const char *path, char ret_hex[static 65], uint64_t *ret_size, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint8_t *buf = xmalloc(256 * KIB);
	uint8_t raw[crypto_hash_sha256_BYTES];
	crypto_hash_sha256_state hash;
	uint64_t size = 0;

	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	crypto_hash_sha256_init(&hash);
	for (;;) {
		ssize_t r = read(fd, buf, 256 * KIB);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return error_errno(err, errno, "%s", path);
		if (r == 0)
			break;
		crypto_hash_sha256_update(&hash, buf, (size_t)r);
		size += (uint64_t)r;
	}
	crypto_hash_sha256_final(&hash, raw);
	_cleanup_free_ char *hex = hex_encode(raw, sizeof(raw));
	memcpy(ret_hex, hex, 65);
	if (ret_size)
		*ret_size = size;
	return 0;
}
