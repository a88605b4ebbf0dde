/* Put and Get over a socket pair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file_tree.h"
#include "common/log.h"
#include "tests/unit/as_nobody.h"
#include "tests/unit/worker_fixture.h"
#include "worker.pb-c.h"

static struct job_root root;
static struct worker *worker; /* in the machine's own root */
static char dir[] = "/tmp/test_worker_files.XXXXXX";

static int emit_put(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	Worker__V1__PutRequest request = WORKER__V1__PUT_REQUEST__INIT;
	Job__V1__FileRecord copy = *record, *records[] = {&copy};

	request.records = records;
	request.n_records = 1;
	return rpc_send(arg, &request.base, err);
}

/* Put the file at from as to. */
static void put(struct rpc_peer *peer, const char *from, const char *to)
{
	_cleanup_error_ struct error *err = NULL;
	struct tree_totals totals = {0};
	ProtobufCMessage *reply = NULL;
	struct rpc_call *call = rpc_open(peer, &worker_put, PATIENCE_MS, &err);

	if (tree_send(AT_FDCWD, from, to, &tree_limits_default, emit_put, call, &totals, &err) < 0)
		fail_msg("%s", err->text);
	assert_int_equal(rpc_close_send(call, &err), 0);
	if (rpc_recv(call, PATIENCE_MS, &reply, &err) != 1)
		fail_msg("%s", err ? err->text : "no reply");
	assert_int_equal(((Worker__V1__PutReply *)reply)->files, totals.files);
	assert_int_equal(((Worker__V1__PutReply *)reply)->bytes, totals.bytes);
	rpc_message_free(reply);
	rpc_close(call);
}

static void note_missing(void *arg, const char *path, const char *reason)
{
	(void)reason;
	strcat(arg, path);
	strcat(arg, " ");
}

/* Get the paths into the directory `to`; missing ones are noted. */
static void get(struct rpc_peer *peer, char **paths, size_t n, const char *to, char *missing)
{
	_cleanup_error_ struct error *err = NULL;
	Worker__V1__GetRequest request = WORKER__V1__GET_REQUEST__INIT;
	struct tree_writer_options options = {
		.limits = tree_limits_default,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
		.mode_mask = 0755,
		.on_missing = note_missing,
		.arg = missing,
	};
	struct tree_totals totals = {0};
	ProtobufCMessage *message;
	int r;

	assert_int_equal(make_dirs(to, 0700, &err), 0);
	_cleanup_close_ int fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct tree_writer *writer = tree_writer_new(fd, &options);
	struct rpc_call *call = rpc_open(peer, &worker_get, PATIENCE_MS, &err);
	request.paths = paths;
	request.n_paths = n;
	request.working_dir = dir;
	assert_int_equal(rpc_send(call, &request.base, &err), 0);
	while ((r = rpc_recv(call, PATIENCE_MS, &message, &err)) == 1) {
		const Worker__V1__GetReply *reply = (const Worker__V1__GetReply *)message;
		for (size_t i = 0; i < reply->n_records; i++)
			if (tree_writer_record(writer, reply->records[i], &err) < 0)
				fail_msg("%s", err->text);
		rpc_message_free(message);
	}
	if (r < 0)
		fail_msg("%s", err->text);
	assert_int_equal(tree_writer_finish(writer, &totals, &err), 0);
	tree_writer_free(writer);
	rpc_close(call);
}

static void files_go_there_and_back(void **state)
{
	struct rpc_peer *peer = dial(worker);
	_cleanup_free_ char *source = str_printf("%s/source", dir);
	_cleanup_free_ char *below = str_printf("%s/source/sub", dir);
	_cleanup_free_ char *file = str_printf("%s/source/sub/data", dir);
	_cleanup_free_ char *placed = str_printf("%s/placed", dir);
	_cleanup_free_ char *home = str_printf("%s/home", dir);
	_cleanup_free_ char *got = str_printf("%s/home/1/sub/data", dir);
	char nothing[] = "no/such", relative[] = "placed", missing[256] = "";
	char *paths[] = {nothing, relative};
	_cleanup_free_ char *data = xmalloc(300000);

	(void)state;
	for (size_t i = 0; i < 300000; i++)
		data[i] = (char)(i * 7);
	assert_int_equal(make_dirs(below, 0755, NULL), 0);
	assert_int_equal(write_file(file, data, 300000, 0644, false, NULL), 0);
	put(peer, source, placed);
	get(peer, paths, 2, home, missing);
	assert_string_equal(missing, "0 ");
	size_t size;
	_cleanup_free_ char *back = read_file(got, MIB, &size, NULL);
	assert_non_null(back);
	assert_int_equal(size, 300000);
	assert_memory_equal(back, data, 300000);
	rpc_peer_free(peer);
}

/* A root that is not the machine's: links out of it lead to what is inside. */
static void links_do_not_lead_out_of_the_root(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_free_ char *inner = str_printf("%s/inner", dir);
	_cleanup_free_ char *etc = str_printf("%s/inner/etc", dir);
	_cleanup_free_ char *passwd = str_printf("%s/inner/etc/passwd", dir);
	_cleanup_free_ char *work = str_printf("%s/inner%s", dir, dir);
	const char *const links[][2] = {{"absolute", "/etc/passwd"},
		{"climbing", "../../../../../../../../etc/passwd"}, {"directory", "/etc"},
		{"out", "/proc/self/root/etc/hostname"}};
	char absolute[] = "absolute", climbing[] = "climbing", below[] = "directory/passwd",
	     out[] = "out";
	char *paths[] = {absolute, climbing, below, out};
	char missing[256] = "";
	struct job_root other;

	(void)state;
	assert_int_equal(make_dirs(etc, 0755, NULL), 0);
	assert_int_equal(make_dirs(work, 0755, NULL), 0);
	assert_int_equal(write_file(passwd, "inside", 6, 0644, false, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", work, links[i][0]);
		assert_int_equal(symlink(links[i][1], path), 0);
	}
	assert_int_equal(job_root_init(inner, "/", &other, &err), 0);
	const struct worker_options options = {.root = &other};
	struct worker *inside = worker_new(&options, &err);
	assert_non_null(inside);
	struct rpc_peer *peer = dial(inside);
	_cleanup_free_ char *home = str_printf("%s/home2", dir);
	get(peer, paths, ARRAY_SIZE(paths), home, missing);
	rpc_peer_free(peer);
	worker_free(inside);
	close(other.fd);
	assert_string_equal(missing, "3 ");
	for (int i = 0; i < 3; i++) {
		_cleanup_free_ char *path = str_printf("%s/%d", home, i);
		_cleanup_free_ char *text = read_file(path, KIB, NULL, NULL);
		assert_non_null(text);
		assert_string_equal(text, "inside");
	}
}

/* What the job's user may not read does not leave by a link that it made. */
static void outputs_are_read_with_the_jobs_rights(void **state)
{
	if (geteuid() != 0) {
		print_message("NOT VERIFIED: without root there is nobody else to be\n");
		return;
	}
	_cleanup_free_ char *secret = str_printf("%s/secret", dir);
	_cleanup_free_ char *locked = str_printf("%s/locked", dir);
	_cleanup_free_ char *inside = str_printf("%s/locked/open", dir);
	_cleanup_free_ char *link = str_printf("%s/link", dir);
	_cleanup_free_ char *own = str_printf("%s/own", dir);
	_cleanup_free_ char *home = str_printf("%s/home3", dir);
	_cleanup_free_ char *got = str_printf("%s/2", home);
	char by_link[] = "link", below[] = "locked/open", allowed[] = "own", missing[256] = "";
	char *paths[] = {by_link, below, allowed};
	struct rpc_peer *peer = dial(worker);

	(void)state;
	assert_int_equal(write_file(secret, "root's", 6, 0600, false, NULL), 0);
	assert_int_equal(symlink(secret, link), 0);
	assert_int_equal(mkdir(locked, 0700), 0);
	assert_int_equal(write_file(inside, "root's", 6, 0644, false, NULL), 0);
	assert_int_equal(write_file(own, "the job's", 9, 0600, false, NULL), 0);
	assert_int_equal(chown(own, 65534, 65534), 0);
	get(peer, paths, ARRAY_SIZE(paths), home, missing);
	assert_string_equal(missing, "0 1 ");
	_cleanup_free_ char *text = read_file(got, KIB, NULL, NULL);
	assert_string_equal(text, "the job's");
	/* This worker's other work goes on with its own rights. */
	put(peer, secret, inside);
	rpc_peer_free(peer);
}

static int setup(void **state)
{
	const struct worker_options options = {.root = &root};

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	rpc_init();
	if (!mkdtemp(dir) || chmod(dir, 0777) < 0 || job_root_init("/", "/tmp", &root, NULL) < 0)
		return -1;
	worker = worker_new(&options, NULL);
	return worker ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	worker_free(worker);
	close(root.fd);
	rpc_quit();
	return remove_tree(dir, NULL);
}

static int run_all(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_go_there_and_back),
		cmocka_unit_test(links_do_not_lead_out_of_the_root),
		cmocka_unit_test(outputs_are_read_with_the_jobs_rights),
	};
	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	int failed = 0;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (geteuid() == 0)
		failed += run_as_nobody(run_all, "worker files, as nobody");
	return failed + run_all("worker files") != 0;
}
