/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/discovery.h"
#include "tasks/discovery/queries.h"
#include "tasks/discovery/steampipe_service.h"
#include "tasks/lib/check.h"
#include "tasks/lib/fields.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/scan_job.h"
#include "tasks/lib/tool.h"

#include <ctype.h>
#include <string.h>

/* execute_steampipe_discovery: the resources of one region, query by query, into assets under
 * (team_id, provider, resource_id). Rows are read as they come, from the program or from
 * Steampipe's service. Only a pass in which every query answered may say of an asset that it is
 * gone; a query that fails makes the job PARTIAL.
 *
 * Steampipe's answers here follow its documentation: no live one was at hand. */

enum { LIST_MAX = 200 };

struct discovery {
    cw_task *t;
    struct scan_job job;
    const char *run_id, *region, *provider, *account;
    struct queries queries;
    const struct query *query;
    struct service *service; /* NULL: the program is run */
    struct json_stream *rows;
    struct mongo_bulk *assets;
    int64_t started, found, gone;
    bool unreadable;
};

/* --- rows --- */

/* A text, a list of texts, or null: always a list in the document. */
static void put_list(bson_t *set, const char *field, const cJSON *value)
{
    bson_t list;
    uint32_t n = 0;
    const cJSON *at = cJSON_IsArray(value) ? value->child : value;
    BSON_APPEND_ARRAY_BEGIN(set, field, &list);
    for (; at && n < LIST_MAX; at = cJSON_IsArray(value) ? at->next : NULL) {
        char room[16];
        const char *index;
        if (!cJSON_IsString(at) || !*at->valuestring)
            continue;
        bson_uint32_to_string(n++, &index, room, sizeof room);
        doc_put(&list, index, at->valuestring, 512);
    }
    bson_append_array_end(set, &list);
}

/* What a row no longer tells is gone, too. */
static void put_text(bson_t *set, const char *field, const char *text)
{
    if (text && *text)
        doc_put(set, field, text, 512);
    else
        BSON_APPEND_NULL(set, field);
}

static void put_row(bson_t *set, const cJSON *row)
{
    static const char *const texts[] = {"name", "state", "instance_id"};
    static const char *const lists[] = {"ips", "macs", "hostnames"};
    cJSON *rest = cJSON_Duplicate(row, true);
    for (int i = 0; i < 3; i++) {
        put_text(set, texts[i], tree_text(row, texts[i]));
        put_list(set, lists[i], tree_at(row, lists[i]));
        cJSON_DeleteItemFromObjectCaseSensitive(rest, texts[i]);
        cJSON_DeleteItemFromObjectCaseSensitive(rest, lists[i]);
    }
    cJSON_DeleteItemFromObjectCaseSensitive(rest, "resource_id");
    doc_put_tree(set, "attributes", rest);
    cJSON_Delete(rest);
}

static int on_row(cw_task *t, const cJSON *row, void *arg)
{
    struct discovery *d = arg;
    const char *id = tree_text(row, "resource_id");
    if (!id || !*id)
        return cw_problem(t, false, "ValueError", "steampipe: a row of %s without resource_id",
                          d->query->name);
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    doc_copy(&key, "team_id", d->job.run, "team_id");
    BSON_APPEND_UTF8(&key, "provider", d->provider);
    doc_put(&key, "resource_id", id, 1000);
    doc_copy(&set, "cloud_account_id", d->job.run, "cloud_account_id");
    BSON_APPEND_UTF8(&set, "region", d->region);
    BSON_APPEND_UTF8(&set, "resource_type", d->query->name);
    put_row(&set, row);
    BSON_APPEND_UTF8(&set, "scan_run_id", d->run_id);
    BSON_APPEND_UTF8(&set, "source", "steampipe");
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    BSON_APPEND_BOOL(&set, "gone", false);
    BSON_APPEND_DATE_TIME(&once, "first_seen", doc_now());
    int code = mongo_bulk_upsert(d->assets, &key, &set, &once);
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&once);
    d->found++;
    return code;
}

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct discovery *d = arg;
    (void)t;
    return d->unreadable ? -1 : scan_job_watch(&d->job, seconds);
}

/* --- the program --- */

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct discovery *d = arg;
    (void)t;
    d->unreadable = d->unreadable || json_stream_feed(d->rows, line, size) < 0 ||
                    json_stream_feed(d->rows, "\n", 1) < 0;
}

/* Each provider's plugin sees its own credentials and no other's. */
static const char *const *environment_make(struct discovery *d)
{
    static const struct {
        const char *provider, *name;
    } passed[] = {
        {"aws", "AWS_ACCESS_KEY_ID"},
        {"aws", "AWS_SECRET_ACCESS_KEY"},
        {"aws", "AWS_SESSION_TOKEN"},
        {"aws", "AWS_PROFILE"},
        {"azure", "AZURE_TENANT_ID"},
        {"azure", "AZURE_CLIENT_ID"},
        {"azure", "AZURE_CLIENT_SECRET"},
        {"azure", "AZURE_SUBSCRIPTION_ID"},
        {"gcp", "GOOGLE_APPLICATION_CREDENTIALS"},
        {"gcp", "CLOUDSDK_CORE_PROJECT"},
        {"kubernetes", "KUBECONFIG"},
    };
    enum { N = sizeof passed / sizeof *passed };
    const char **list = cw_alloc(d->t, (N + 4) * sizeof *list);
    const char *folder = cw_secret(d->t, "STEAMPIPE_INSTALL_DIR");
    size_t n = 0;
    for (size_t i = 0; i < N; i++) {
        bool own = strcmp(d->provider, passed[i].provider) == 0;
        const char *value = own ? cw_secret(d->t, passed[i].name) : NULL;
        if (value)
            list[n++] = cw_printf(d->t, "%s=%s", passed[i].name, value);
    }
    if (folder)
        list[n++] = cw_printf(d->t, "STEAMPIPE_INSTALL_DIR=%s", folder);
    list[n++] = "STEAMPIPE_UPDATE_CHECK=false";
    list[n++] = "STEAMPIPE_TELEMETRY=none";
    return list;
}

static int run_program(struct discovery *d, const char *sql)
{
    const char *program = cw_setting(d->t, "steampipe");
    const char *argv[] = {
        program ? program : "steampipe", "query", sql, "--output", "json", NULL};
    struct json_stream_options options = {
        .member = "rows", .needed = true, .on_element = on_row, .arg = d};
    struct cw_command command = {
        .argv = argv,
        .environment = environment_make(d),
        .on_line = on_line,
        .on_tick = on_tick,
        .arg = d,
        .max_output = (size_t)1 << 30,
        .hint = "install it (https://steampipe.io) or set CWORKER_STEAMPIPE to its path",
    };
    struct cw_exit end;
    d->rows = json_stream_open(d->t, &options);
    if (tool_run(d->t, command, NULL, &end) < 0)
        return -1;
    if (end.signal)
        return cw_problem(d->t, true, "RuntimeError", "steampipe (%s) was ended by signal %d",
                          d->query->name, end.signal);
    if (end.status)
        return cw_problem(d->t, end.status == 31 || end.status == 32, "RuntimeError",
                          "steampipe (%s) ended with exit status %d: %.500s", d->query->name,
                          end.status, end.errors);
    return d->unreadable ? -1 : json_stream_end(d->rows);
}

/* --- one query, by either way --- */

static int run_query(struct discovery *d)
{
    const char *sql = query_fill(d->t, d->query->sql, d->region, d->account);
    d->job.looked_at = 0;
    d->unreadable = false;
    if (!sql || *sql == '-')
        return cw_problem(d->t, false, "ValueError", "query %s: %s", d->query->name,
                          sql ? "it begins with -" : "the scan has no account to fill in");
    struct service_query query = {sql, on_row, on_tick, d};
    int code = d->service ? service_query(d->service, &query) : run_program(d, sql);
    return code < 0 ? -1 : mongo_bulk_flush(d->assets);
}

static int mark_gone(struct discovery *d)
{
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "team_id", d->job.run, "team_id");
    BSON_APPEND_UTF8(&filter, "provider", d->provider);
    BSON_APPEND_UTF8(&filter, "source", "steampipe");
    doc_match(&filter, "cloud_account_id", d->job.run);
    BSON_APPEND_UTF8(&filter, "region", d->region);
    BCON_APPEND(&filter, "gone", "{", "$ne", BCON_BOOL(true), "}", "last_seen", "{", "$lt",
                BCON_DATE_TIME(d->started), "}");
    bson_t *update =
        BCON_NEW("$set", "{", "gone", BCON_BOOL(true), "gone_at", BCON_DATE_TIME(doc_now()), "}");
    d->gone = mongo_update_many(d->t, "assets", &filter, update);
    bson_destroy(&filter);
    bson_destroy(update);
    return d->gone < 0 ? -1 : 0;
}

static cw_outcome finish(struct discovery *d, const cJSON *errors, int done)
{
    bson_t summary = BSON_INITIALIZER;
    const char *status = done == d->queries.n ? "COMPLETED" : "PARTIAL";
    BSON_APPEND_INT64(&summary, "assets", d->found);
    BSON_APPEND_INT64(&summary, "gone", d->gone);
    int code = scan_job_end(&d->job, status, &summary, errors);
    bson_destroy(&summary);
    if (code < 0)
        return cw_fail(d->t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "scan_run_id", d->run_id);
    cJSON_AddStringToObject(result, "region", d->region);
    cJSON_AddStringToObject(result, "status", status);
    cJSON_AddNumberToObject(result, "assets", (double)d->found);
    cJSON_AddNumberToObject(result, "gone", (double)d->gone);
    return cw_return(d->t, result);
}

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

static cw_outcome run_all(struct discovery *d)
{
    cJSON *errors = cJSON_CreateArray();
    int done = 0;
    cw_defer(d->t, delete_tree, errors);
    d->started = doc_now();
    for (int i = 0; i < d->queries.n; i++) {
        bool transient = false;
        d->query = &d->queries.list[i];
        if (run_query(d) == 0) {
            done++;
            continue;
        }
        const char *why = cw_problem_text(d->t, &transient);
        bool missing = why && strncmp(why, "FileNotFoundError", 17) == 0;
        if (transient || missing || d->job.cancelled || cw_stopping(d->t) != CW_GO ||
            (i + 1 == d->queries.n && done == 0))
            return scan_job_fail(&d->job);
        cJSON_AddItemToArray(errors, cJSON_CreateString(cw_printf(d->t, "%s: %s", d->region, why)));
    }
    if (done == d->queries.n && mark_gone(d) < 0)
        return scan_job_fail(&d->job);
    return finish(d, errors, done);
}

/* What may stand between the quotes of a query. */
static int prepare(struct discovery *d)
{
    cw_task *t = d->t;
    const char *provider = doc_text(d->job.run, "provider"), *url;
    char room[DOC_ID_SIZE], *lower = cw_printf(t, "%s", provider ? provider : "aws");
    static const struct field_rule rules[] = {{"provider", CW_STR, 0, 0}, {0}};
    const char *what = cw_printf(t, "scan run %.80s", d->run_id);
    if (field_id(t, d->job.run, what, "team_id", true) < 0 ||
        field_id(t, d->job.run, what, "cloud_account_id", false) < 0 ||
        fields_check(t, d->job.run, rules) < 0)
        return -1;
    for (char *at = lower; *at; at++)
        *at = (char)tolower((unsigned char)*at);
    d->provider = lower;
    d->account = doc_id(d->job.run, "cloud_account_id", room);
    d->account = d->account && check_name(d->account) ? cw_printf(t, "%s", d->account) : NULL;
    if (!check_name(d->provider))
        return cw_problem(t, false, "ValueError", "provider %.80s is not a name", d->provider);
    if (strcmp(d->provider, "aws") == 0 && !check_region(d->region))
        return cw_problem(t, false, "TypeError", "argument 'region' must be a region, not %.60s",
                          d->region);
    if (queries_load(t, d->provider, &d->queries) < 0)
        return -1;
    d->assets = mongo_bulk_open(t, "assets");
    url = cw_secret(t, "STEAMPIPE_SERVICE_URL");
    d->service = url && d->assets ? service_open(t, url) : NULL;
    return d->assets && (!url || d->service) ? 0 : -1;
}

cw_outcome execute_steampipe_discovery(cw_task *t)
{
    struct discovery *d = cw_alloc(t, sizeof *d);
    d->t = t;
    d->run_id = cw_str(t, "scan_run_id");
    d->region = cw_str(t, "region");
    if (!check_name(d->region))
        return cw_raise(t, "TypeError", "argument 'region' must be a region, not %.60s", d->region);
    if (scan_job_begin(t, d->run_id, "discovery", d->region, &d->job) < 0)
        return cw_fail(t);
    if (d->job.cancelled)
        return scan_job_cancelled(&d->job);
    if (d->job.done)
        return cw_return_str(t, doc_text(d->job.document, "status"));
    return prepare(d) < 0 ? scan_job_fail(&d->job) : run_all(d);
}
