/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/discovery.h"
#include "tasks/lib/check.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/scan_job.h"

#include <string.h>
#include <strings.h>

/* execute_steampipe_discovery: the resources of one region, table by table, into assets under
 * (team_id, provider, resource_id). Rows are read as they are printed. Only a pass in which every
 * table answered may say of an asset that it is gone; a table that fails makes the job PARTIAL.
 *
 * Steampipe's answers here follow its documentation: no live one was at hand. */

static const struct table {
    const char *type, *sql; /* %s: the region, which check_region has passed */
} tables[] = {
    {"ec2_instance", "select arn as resource_id, title as name, instance_state as state from "
                     "aws_ec2_instance where region = '%s'"},
    {"s3_bucket", "select arn as resource_id, name from aws_s3_bucket where region = '%s'"},
    {"rds_instance", "select arn as resource_id, title as name, status as state from "
                     "aws_rds_db_instance where region = '%s'"},
    {"lambda_function", "select arn as resource_id, name, state from aws_lambda_function where "
                        "region = '%s'"},
    {"vpc", "select arn as resource_id, title as name, state from aws_vpc where region = '%s'"},
    {"security_group", "select arn as resource_id, title as name from aws_vpc_security_group "
                       "where region = '%s'"},
    {"eks_cluster", "select arn as resource_id, name, status as state from aws_eks_cluster where "
                    "region = '%s'"},
};
enum { N_TABLES = sizeof tables / sizeof *tables };

struct discovery {
    cw_task *t;
    struct scan_job job;
    const char *run_id, *region;
    const struct table *table;
    struct json_stream *rows;
    struct mongo_bulk *assets;
    int64_t started, found, gone;
    bool unreadable;
    double before; /* seconds of the tables done */
};

static int on_row(cw_task *t, const cJSON *row, void *arg)
{
    struct discovery *d = arg;
    const char *id = tree_text(row, "resource_id");
    if (!id || !*id)
        return cw_problem(t, false, "ValueError", "steampipe: a row of %s without resource_id",
                          d->table->type);
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    doc_copy(&key, "team_id", d->job.run, "team_id");
    BSON_APPEND_UTF8(&key, "provider", "aws");
    doc_put(&key, "resource_id", id, 1000);
    doc_copy(&set, "cloud_account_id", d->job.run, "cloud_account_id");
    BSON_APPEND_UTF8(&set, "region", d->region);
    BSON_APPEND_UTF8(&set, "resource_type", d->table->type);
    doc_put(&set, "name", tree_text(row, "name"), 512);
    doc_put(&set, "state", tree_text(row, "state"), 128);
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

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct discovery *d = arg;
    (void)t;
    d->unreadable = d->unreadable || json_stream_feed(d->rows, line, size) < 0 ||
                    json_stream_feed(d->rows, "\n", 1) < 0;
}

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct discovery *d = arg;
    (void)t;
    return d->unreadable ? -1 : scan_job_watch(&d->job, d->before + seconds);
}

static const char *const *environment_make(cw_task *t)
{
    static const char *const passed[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                                         "AWS_SESSION_TOKEN", "AWS_PROFILE",
                                         "STEAMPIPE_INSTALL_DIR"};
    const char **list = cw_alloc(t, 10 * sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
        const char *value = cw_secret(t, passed[i]);
        if (value)
            list[n++] = cw_printf(t, "%s=%s", passed[i], value);
    }
    list[n++] = "STEAMPIPE_UPDATE_CHECK=false";
    list[n++] = "STEAMPIPE_TELEMETRY=none";
    return list;
}

static const char *query_of(const struct discovery *d)
{
    const char *mark = strstr(d->table->sql, "%s");
    return cw_printf(d->t, "%.*s%s%s", (int)(mark - d->table->sql), d->table->sql, d->region,
                     mark + 2);
}

static int run_table(struct discovery *d)
{
    const char *program = cw_setting(d->t, "steampipe");
    const char *argv[] = {
        program ? program : "steampipe", "query", query_of(d), "--output", "json", NULL};
    struct json_stream_options options = {.member = "rows", .on_element = on_row, .arg = d};
    struct cw_command command = {
        .argv = argv,
        .environment = environment_make(d->t),
        .on_line = on_line,
        .on_tick = on_tick,
        .arg = d,
        .max_output = (size_t)1 << 30,
        .hint = "install it (https://steampipe.io) or set CWORKER_STEAMPIPE to its path",
    };
    struct cw_exit end;
    d->rows = json_stream_open(d->t, &options);
    d->job.looked_at = 0;
    d->before = 0;
    if (cw_exec(d->t, &command, &end) < 0)
        return -1;
    if (end.signal || end.status)
        return cw_problem(d->t, end.signal || end.status == 31 || end.status == 32, "RuntimeError",
                          "steampipe (%s) ended with exit status %d: %.500s", d->table->type,
                          end.status, end.errors);
    return d->unreadable || json_stream_end(d->rows) < 0 ? -1 : mongo_bulk_flush(d->assets);
}

static int mark_gone(struct discovery *d)
{
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "team_id", d->job.run, "team_id");
    BSON_APPEND_UTF8(&filter, "provider", "aws");
    BSON_APPEND_UTF8(&filter, "source", "steampipe");
    doc_copy(&filter, "cloud_account_id", d->job.run, "cloud_account_id");
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
    const char *status = done == N_TABLES ? "COMPLETED" : "PARTIAL";
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
    for (int i = 0; i < N_TABLES; i++) {
        bool transient = false;
        d->table = &tables[i];
        if (run_table(d) == 0) {
            done++;
            continue;
        }
        const char *why = cw_problem_text(d->t, &transient);
        bool missing = why && strncmp(why, "FileNotFoundError", 17) == 0;
        if (transient || missing || d->job.cancelled || cw_stopping(d->t) != CW_GO ||
            (i + 1 == N_TABLES && done == 0))
            return scan_job_fail(&d->job);
        d->unreadable = false;
        cJSON_AddItemToArray(errors, cJSON_CreateString(cw_printf(d->t, "%s: %s", d->region, why)));
    }
    if (done == N_TABLES && mark_gone(d) < 0)
        return scan_job_fail(&d->job);
    return finish(d, errors, done);
}

cw_outcome execute_steampipe_discovery(cw_task *t)
{
    struct discovery *d = cw_alloc(t, sizeof *d);
    bson_iter_t team;
    d->t = t;
    d->run_id = cw_str(t, "scan_run_id");
    d->region = cw_str(t, "region");
    if (!check_region(d->region))
        return cw_raise(t, "TypeError", "argument 'region' must be a region, not %.60s", d->region);
    if (scan_job_begin(t, d->run_id, "discovery", d->region, &d->job) < 0)
        return cw_fail(t);
    if (d->job.cancelled)
        return scan_job_cancelled(&d->job);
    if (d->job.done)
        return cw_return_str(t, doc_text(d->job.document, "status"));
    const char *provider = doc_text(d->job.run, "provider");
    d->assets = mongo_bulk_open(t, "assets");
    bool aws = !provider || strcasecmp(provider, "aws") == 0;
    if (!aws || !doc_find(d->job.run, "team_id", &team))
        cw_problem(t, false, "ValueError",
                   aws ? "scan run %s has no team_id" : "scan run %s is not of provider aws",
                   d->run_id);
    if (!d->assets || !aws || !doc_find(d->job.run, "team_id", &team))
        return scan_job_fail(&d->job);
    return run_all(d);
}
