/* PostgreSQL with the same rows and indexes: inserts, each its own transaction, and claims by
 * SKIP LOCKED. */
#include "tests/bench/store_bench.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

#define INSERT                                                                                     \
	"INSERT INTO jobs (id, epoch, state, attempt, vm, spec, result)"                           \
	" VALUES ($1, 0, 1, 0, '', $2, $2)"
#define CLAIM                                                                                      \
	"UPDATE jobs SET state = 2, epoch = epoch + 1 WHERE seq = (SELECT seq FROM jobs"           \
	" WHERE state = 1 ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"

struct pg {
	const char *socket;
	size_t each;
	const char *round; /* part of the ids */
};

static PGconn *connect_pg(const char *socket)
{
	char options[300];

	snprintf(options, sizeof(options), "host=%s user=postgres dbname=postgres", socket);
	PGconn *conn = PQconnectdb(options);
	if (PQstatus(conn) != CONNECTION_OK)
		die("postgresql", PQerrorMessage(conn));
	return conn;
}

static void expect(PGconn *conn, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK &&
		status != PGRES_PIPELINE_SYNC)
		die("postgresql", PQerrorMessage(conn));
	PQclear(result);
}

static void prepare(PGconn *conn)
{
	expect(conn, PQprepare(conn, "insert", INSERT, 2, NULL));
	expect(conn, PQprepare(conn, "claim", CLAIM, 0, NULL));
}

static void fill(char id[16], char spec[SPEC_BYTES + 1], const char *round, size_t client, size_t i)
{
	snprintf(id, 16, "%s%04zu%08zu", round, client % 10000, i % 100000000);
	memset(spec, 'x', SPEC_BYTES);
	spec[SPEC_BYTES] = '\0';
}

static void insert_blocking(void *arg, size_t client)
{
	const struct pg *pg = arg;
	PGconn *conn = connect_pg(pg->socket);
	char id[16], spec[SPEC_BYTES + 1];
	const char *values[2] = {id, spec};

	prepare(conn);
	wait_for_start();
	for (size_t i = 0; i < pg->each; i++) {
		fill(id, spec, pg->round, client, i);
		expect(conn, PQexecPrepared(conn, "insert", 2, values, NULL, NULL, 0));
	}
	PQfinish(conn);
}

static void claim_blocking(void *arg, size_t client)
{
	const struct pg *pg = arg;
	PGconn *conn = connect_pg(pg->socket);

	(void)client;
	prepare(conn);
	wait_for_start();
	for (size_t i = 0; i < pg->each; i++)
		expect(conn, PQexecPrepared(conn, "claim", 0, NULL, NULL, NULL, 0));
	PQfinish(conn);
}

/* One of the results of an insert and its sync, with the NULL between them. */
static void take_one(PGconn *conn)
{
	expect(conn, PQgetResult(conn));
	if (PQgetResult(conn))
		die("postgresql", "more than one result");
	expect(conn, PQgetResult(conn));
}

/* One client that does not wait for each: every insert its own transaction, WINDOW on their way.
 */
static void insert_pipelined(void *arg, size_t client)
{
	const struct pg *pg = arg;
	PGconn *conn = connect_pg(pg->socket);
	char id[16], spec[SPEC_BYTES + 1];
	const char *values[2] = {id, spec};

	prepare(conn);
	if (!PQenterPipelineMode(conn))
		die("postgresql", PQerrorMessage(conn));
	wait_for_start();
	for (size_t i = 0; i < pg->each + WINDOW; i++) {
		if (i < pg->each) {
			fill(id, spec, pg->round, client, i);
			if (!PQsendQueryPrepared(conn, "insert", 2, values, NULL, NULL, 0) ||
				!PQpipelineSync(conn))
				die("postgresql", PQerrorMessage(conn));
		}
		if (i >= WINDOW)
			take_one(conn);
	}
	PQfinish(conn);
}

void bench_postgres(const char *socket, size_t n)
{
	struct pg pg = {.socket = socket, .each = n};
	PGconn *conn = connect_pg(socket);

	/* Quiet when there is none. */
	expect(conn, PQexec(conn, "SET client_min_messages = warning"));
	expect(conn, PQexec(conn, "DROP TABLE IF EXISTS jobs"));
	expect(conn,
		PQexec(conn,
			"CREATE TABLE jobs (seq bigserial PRIMARY KEY, id text NOT NULL UNIQUE,"
			" key text UNIQUE, epoch bigint NOT NULL, state int NOT NULL,"
			" attempt int NOT NULL, vm text NOT NULL, finished bigint,"
			" destroyed bigint, spec bytea NOT NULL, result bytea NOT NULL)"));
	expect(conn, PQexec(conn, "CREATE INDEX jobs_by_state ON jobs (state, seq)"));
	PQfinish(conn);
	pg.round = "a";
	double seconds = on_threads(1, insert_pipelined, &pg);
	report("postgresql: insert, 1 client, 64 pipelined", n, seconds);
	pg.round = "b";
	pg.each = n / 10;
	seconds = on_threads(1, insert_blocking, &pg);
	report("postgresql: insert, 1 client, one by one", pg.each, seconds);
	pg.round = "c";
	pg.each = n / CLIENTS;
	seconds = on_threads(CLIENTS, insert_blocking, &pg);
	report("postgresql: insert, 50 clients", pg.each * CLIENTS, seconds);
	pg.round = "d";
	seconds = on_threads(CLIENTS, insert_pipelined, &pg);
	report("postgresql: insert, 50 clients, 64 pipelined", pg.each * CLIENTS, seconds);
	seconds = on_threads(CLIENTS, claim_blocking, &pg);
	report("postgresql: claim (SKIP LOCKED), 50 clients", pg.each * CLIENTS, seconds);
}
