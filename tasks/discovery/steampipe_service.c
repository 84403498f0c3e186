/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/steampipe_service.h"

#ifdef HAVE_LIBPQ
#include <libpq-fe.h>
#include <poll.h>
#include <string.h>
#include <time.h>

/* Rows come one by one, each as one JSON text that the server makes: the same shapes as those of
 * `steampipe query --output json`. Nothing here blocks longer than a second without looking whether
 * the task shall stop; a query that is given up is cancelled on the server. */

enum { CONNECT_SECONDS = 30, ROW_MAX = 4 << 20 };

struct service {
    cw_task *t;
    PGconn *connection;
};

static double seconds_since(const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static bool is_transient(const char *state)
{
    static const char *const classes[] = {"08",    "57P01", "57P02", "57P03", "40001",
                                          "40P01", "53300", "55P03", "57014"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strncmp(state, classes[i], strlen(classes[i])) == 0)
            return true;
    return false;
}

/* cw_sleep leaves the reason for cw_fail. */
static int stopped(struct service *s)
{
    cw_sleep(s->t, 0.001);
    return -1;
}

static int query_failed(struct service *s, const PGresult *result)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    bool lost = !state || PQstatus(s->connection) != CONNECTION_OK;
    bool refused = state && (strncmp(state, "28", 2) == 0 || strcmp(state, "42501") == 0);
    return cw_problem(s->t, lost || is_transient(state),
                      lost ? "ConnectionError" : refused ? "PermissionError" : "RuntimeError",
                      "steampipe's service: %.500s (SQLSTATE %s)",
                      text ? text : "the connection was lost", state ? state : "none");
}

/* Waits up to a second; < 0 when the task shall stop. */
static int wait_for(struct service *s, short events)
{
    struct pollfd one = {PQsocket(s->connection), events, 0};
    if (one.fd < 0 || cw_stopping(s->t) != CW_GO)
        return -1;
    poll(&one, 1, 1000);
    return cw_stopping(s->t) == CW_GO ? 0 : -1;
}

static void close_service(void *arg)
{
    struct service *s = arg;
    PQfinish(s->connection);
}

/* libpq's text may name host, user and database; the password is never in it. */
static struct service *refused(struct service *s)
{
    const char *text = PQerrorMessage(s->connection);
    bool password = strstr(text, "password") || strstr(text, "authentication");
    if (cw_stopping(s->t) != CW_GO)
        stopped(s);
    else
        cw_problem(s->t, !password, password ? "PermissionError" : "ConnectionError",
                   "steampipe's service: %.300s", *text ? text : "no answer in time");
    return NULL;
}

static bool is_part_of_url(const PQconninfoOption *option)
{
    const char *name = option->keyword, *value = option->val;
    if (value && strcmp(name, "port") == 0)
        return !value[strspn(value, "0123456789,")];
    return !value || (strcmp(name, "host") != 0 && strcmp(name, "dbname") != 0) ||
           !strchr(value, '@');
}

/* What libpq says of a URL with a stray @, / or : repeats pieces of it, which are the password's. */
static int check_service_url(cw_task *t, const char *url)
{
    PQconninfoOption *options = PQconninfoParse(url, NULL);
    bool good = options;
    for (PQconninfoOption *at = options; good && at->keyword; at++)
        good = is_part_of_url(at);
    PQconninfoFree(options);
    return good ? 0
                : cw_problem(t, false, "ValueError",
                             "STEAMPIPE_SERVICE_URL is not like "
                             "postgresql://user:password@host:9193/steampipe (in the password @ is "
                             "%%40, / is %%2F, : is %%3A)");
}

struct service *service_open(cw_task *t, const char *url)
{
    struct service *s = cw_alloc(t, sizeof *s);
    struct timespec start;
    if (check_service_url(t, url) < 0)
        return NULL;
    s->t = t;
    s->connection = PQconnectStart(url);
    if (!s->connection) {
        cw_problem(t, true, "MemoryError", "libpq gives no connection");
        return NULL;
    }
    cw_defer(t, close_service, s);
    if (PQstatus(s->connection) == CONNECTION_BAD)
        return refused(s);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (PostgresPollingStatusType next = PGRES_POLLING_WRITING; next != PGRES_POLLING_OK;
         next = PQconnectPoll(s->connection))
        if (next == PGRES_POLLING_FAILED || seconds_since(&start) > CONNECT_SECONDS ||
            wait_for(s, next == PGRES_POLLING_READING ? POLLIN : POLLOUT) < 0)
            return refused(s);
    PQsetnonblocking(s->connection, 1);
    return s;
}

static void cancel(struct service *s)
{
    char reason[256];
    PGcancel *request = PQgetCancel(s->connection);
    if (request)
        PQcancel(request, reason, sizeof reason);
    PQfreeCancel(request);
}

static int take_row(struct service *s, const PGresult *result, const struct service_query *q)
{
    int size = PQgetlength(result, 0, 0);
    cJSON *row = size <= ROW_MAX ? cJSON_ParseWithLength(PQgetvalue(result, 0, 0), (size_t)size)
                                 : NULL;
    if (!row)
        return cw_problem(s->t, false, "ValueError",
                          "steampipe's service: a row is not JSON, or larger than 4 MiB");
    int code = q->on_row(s->t, row, q->arg);
    cJSON_Delete(row);
    return code;
}

/* One result: 1 there may be more, 0 the last was taken, < 0 failed. */
static int take(struct service *s, const struct service_query *q)
{
    PGresult *result = PQgetResult(s->connection);
    if (!result)
        return 0;
    ExecStatusType status = PQresultStatus(result);
    int code = status == PGRES_SINGLE_TUPLE ? take_row(s, result, q)
               : status == PGRES_TUPLES_OK  ? 0
                                            : query_failed(s, result);
    PQclear(result);
    return code < 0 ? -1 : 1;
}

static int read_rows(struct service *s, const struct service_query *q)
{
    struct timespec start;
    double ticked = 0;
    int code = 1;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (code > 0) {
        double now = seconds_since(&start);
        if (now - ticked >= 1) {
            ticked = now;
            if (q->on_tick(s->t, now, q->arg) < 0)
                return -1;
        }
        if (!PQisBusy(s->connection)) {
            code = take(s, q);
        } else if (wait_for(s, POLLIN) < 0) {
            return stopped(s);
        } else if (!PQconsumeInput(s->connection)) {
            return cw_problem(s->t, true, "ConnectionError", "steampipe's service: %.300s",
                              PQerrorMessage(s->connection));
        }
    }
    return code;
}

/* What is left of a query that failed is read and dropped, so that the next one can be sent. A task
 * that stops sends none, and does not wait for the server. */
static void drain(struct service *s)
{
    PGresult *result;
    cancel(s);
    if (cw_stopping(s->t) != CW_GO)
        return;
    PQsetnonblocking(s->connection, 0);
    while ((result = PQgetResult(s->connection)))
        PQclear(result);
    PQsetnonblocking(s->connection, 1);
}

int service_query(struct service *s, const struct service_query *q)
{
    const char *sql = cw_printf(s->t, "select row_to_json(q)::text from (%s\n) q", q->sql);
    if (!PQsendQueryParams(s->connection, sql, 0, NULL, NULL, NULL, NULL, 0) ||
        !PQsetSingleRowMode(s->connection))
        return cw_problem(s->t, true, "ConnectionError", "steampipe's service: %.300s",
                          PQerrorMessage(s->connection));
    while (PQflush(s->connection) > 0)
        if (wait_for(s, POLLOUT) < 0)
            return stopped(s);
    int code = read_rows(s, q);
    if (code < 0)
        drain(s);
    return code;
}

#else

struct service *service_open(cw_task *t, const char *url)
{
    (void)url;
    cw_problem(t, false, "RuntimeError",
               "STEAMPIPE_SERVICE_URL is set, but this cworker was built without libpq");
    return NULL;
}

int service_query(struct service *s, const struct service_query *query)
{
    (void)s, (void)query;
    return -1;
}

#endif
