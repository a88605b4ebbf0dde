/* The store on one host: SQLite.
 *
 * One connection in one process, for the machine's and the data's sake: SQLite before 3.51.3 can
 * corrupt a write-ahead log that two connections use. locking_mode=EXCLUSIVE makes that a rule, and
 * lets the log's index live in memory. synchronous=FULL syncs the log at every commit, so that a
 * committed promise outlives the power.
 *
 * What is asked for by a column is a column; all else of a record is one packed control.v1.JobInfo,
 * whose rules for old and new fields are then the store's too.
 */
#pragma once

#include <sqlite3.h>

#include "orchestrator/store.h"

#define STORE_SQLITE_STATEMENTS 24 /* room for those of store_sqlite.c */

struct store_sqlite {
	struct store base;
	char *path;
	sqlite3 *db;
	sqlite3_stmt *statements[STORE_SQLITE_STATEMENTS]; /* prepared at their first use */
};

extern const struct store_ops store_sqlite_ops;

/* The statements whose plans count. That for a filter has ?1 one state, ?2 limit, ?3 where to go
 * on, from ?4 on the labels' names and values; owned by the caller. */
extern const char store_sqlite_expired_text[];
char *store_sqlite_list_text(const struct store_filter *filter);

/* Set *err from the connection's last error. Returns -1. */
int store_sqlite_error(struct store_sqlite *s, struct error **err);
