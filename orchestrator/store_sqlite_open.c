/* Opening the store: its file, its pragmas, its schema. */
#include "orchestrator/store_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"

#define SCHEMA_VERSION 3

/* migrations[n] makes version n + 1 of version n; the first one makes version 1 of an empty file.
 * Each stays as it was released: a store is as good as the way it came. */
static const char *const migrations[SCHEMA_VERSION] = {
	"CREATE TABLE jobs ("
	"  seq INTEGER PRIMARY KEY," /* the order of submission */
	"  id TEXT NOT NULL UNIQUE,"
	"  key TEXT UNIQUE,"
	"  epoch INTEGER NOT NULL,"
	"  state INTEGER NOT NULL,"
	"  attempt INTEGER NOT NULL,"
	"  vm TEXT NOT NULL,"
	"  finished INTEGER," /* microseconds since the epoch, as all times */
	"  destroyed INTEGER,"
	"  spec BLOB NOT NULL,"	   /* job.v1.Spec */
	"  result BLOB NOT NULL);" /* control.v1.JobInfo without its spec */
	"CREATE INDEX jobs_by_state ON jobs (state, seq);"
	"CREATE INDEX jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL;"
	"CREATE TABLE labels ("
	"  name TEXT NOT NULL,"
	"  value TEXT NOT NULL,"
	"  seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,"
	"  PRIMARY KEY (name, value, seq)) WITHOUT ROWID;"
	"CREATE INDEX labels_by_job ON labels (seq);",
	/* 2: jobs may have a time of their own. */
	"ALTER TABLE jobs ADD COLUMN expires INTEGER;"
	"DROP INDEX jobs_by_end;"
	"CREATE INDEX jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL AND expires IS "
	"NULL;"
	"CREATE INDEX jobs_by_expiry ON jobs (expires) WHERE expires IS NOT NULL;",
	/* 3: attempts that another followed; what came in as inputs. */
	"ALTER TABLE jobs ADD COLUMN inputs BLOB;" /* control.v1.InputList */
	"CREATE TABLE attempts ("
	"  job INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,"
	"  number INTEGER NOT NULL,"
	"  epoch INTEGER NOT NULL," /* in which it ended */
	"  vm TEXT NOT NULL,"
	"  destroyed INTEGER,"
	"  result BLOB NOT NULL," /* as that of jobs */
	"  PRIMARY KEY (job, number)) WITHOUT ROWID;",
};

static enum err_code code_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_FULL:
		return ERR_LIMIT;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return ERR_DATA_LOSS;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return ERR_EXISTS;
	case SQLITE_PERM:
	case SQLITE_READONLY:
	case SQLITE_CANTOPEN:
		return ERR_DENIED;
	default:
		return ERR_INTERNAL;
	}
}

int store_sqlite_error(struct store_sqlite *s, struct error **err)
{
	return error_set(err, code_of(sqlite3_errcode(s->db)), "the job store %s: %s", s->path,
		sqlite3_errmsg(s->db));
}

static int exec(struct store_sqlite *s, const char *sql, struct error **err)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
								       : store_sqlite_error(s, err);
}

/* The first column of the first row, as text owned by the caller. */
static char *query_text(struct store_sqlite *s, const char *sql, struct error **err)
{
	sqlite3_stmt *st = NULL;
	char *text = NULL;

	if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) != SQLITE_OK ||
		sqlite3_step(st) != SQLITE_ROW)
		store_sqlite_error(s, err);
	else
		text = xstrdup((const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	return text;
}

static int check_integrity(struct store_sqlite *s, struct error **err)
{
	_cleanup_free_ char *found = query_text(s, "PRAGMA quick_check(1)", err);

	if (!found)
		return -1;
	if (!str_eq(found, "ok"))
		return error_set(
			err, ERR_DATA_LOSS, "the job store %s is damaged: %s", s->path, found);
	return 0;
}

static int prepare_schema(struct store_sqlite *s, struct error **err)
{
	_cleanup_free_ char *version = query_text(s, "PRAGMA user_version", err);

	if (!version)
		return -1;
	if (atoi(version) > SCHEMA_VERSION)
		return error_set(err, ERR_UNSUPPORTED,
			"the job store %s is of version %s, this program knows %d: use the newer "
			"one",
			s->path, version, SCHEMA_VERSION);
	/* One transaction each: a daemon that dies on the way goes on from there. */
	for (int v = atoi(version); v < SCHEMA_VERSION; v++) {
		_cleanup_free_ char *step =
			str_printf("BEGIN IMMEDIATE; %s PRAGMA user_version = %d; COMMIT;",
				migrations[v], v + 1);

		if (exec(s, step, err) < 0) {
			sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
			return error_wrap(err, "to version %d", v + 1);
		}
	}
	return 0;
}

static int configure(struct store_sqlite *s, struct error **err)
{
	_cleanup_free_ char *mode = NULL;

	/* Exclusive before WAL: then the log's index is never a shared file. */
	if (exec(s, "PRAGMA locking_mode = EXCLUSIVE", err) < 0)
		return -1;
	mode = query_text(s, "PRAGMA journal_mode = WAL", err);
	if (!mode)
		return -1;
	if (!str_eq(mode, "wal"))
		return error_set(err, ERR_UNSUPPORTED,
			"the job store %s: no write-ahead log is possible here", s->path);
	return exec(s, "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;", err);
}

/* Jobs hold what people submitted: from its first byte on the file is its owner's alone, and the
 * log beside it takes the mode over. Closed again before SQLite locks it: locks are a process's. */
static int make_private(const char *path, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 || fchmod(fd, 0600) < 0)
		return error_errno(err, errno, "the job store %s", path);
	return 0;
}

static int open_db(struct store_sqlite *s, struct error **err)
{
	int rc =
		sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

	if (!s->db)
		return error_set(err, ERR_LIMIT, "the job store %s: out of memory", s->path);
	return rc == SQLITE_OK ? 0 : store_sqlite_error(s, err);
}

struct store *store_sqlite_open(const char *path, struct error **err)
{
	struct store_sqlite *s = xcalloc(1, sizeof(*s));

	s->base.ops = &store_sqlite_ops;
	s->path = xstrdup(path);
	if (make_private(path, err) == 0 && open_db(s, err) == 0 && configure(s, err) == 0 &&
		prepare_schema(s, err) == 0 && check_integrity(s, err) == 0)
		return &s->base;
	store_sqlite_ops.close(&s->base);
	return NULL;
}
