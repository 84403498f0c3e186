/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/fields.h"
#include "tasks/scans/cloud_scan.h"

#include <string.h>
#include <strings.h>

/* What a cloud scan sends: one discovery a region, one prowler run for each batch of regions, the
 * batches one after the other to spare the account's API limits. Each job's document is made once
 * and carries the id of its task: whoever sends again, after a kill -9 in the middle, sends the
 * same tasks. Only AWS is scanned by region: prowler runs once over any other account. */

static const char *const everywhere = "global";

/* A name that is there twice would be one job, sent twice. */
static int without_repeats(const char **list, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        int at = 0;
        while (at < kept && strcmp(list[at], list[i]) != 0)
            at++;
        list[at] = list[i];
        kept += at == kept;
    }
    return kept;
}

int cloud_plan_read(cw_task *t, const bson_t *run, const char *run_id, struct cloud_plan *ret)
{
    static const struct field_rule rules[] = {{"provider", CW_STR, 0, 0}, {0}};
    *ret = (struct cloud_plan){.t = t, .run_id = run_id};
    int64_t size = setting_int(t, "REGION_BATCH_SIZE", 3, 1, 60); /* as many as a job takes */
    int64_t delay = setting_int(t, "REGION_BATCH_DELAY", 60, 0, 3600);
    const char *provider = doc_text(run, "provider");
    ret->by_region = !provider || strcasecmp(provider, "aws") == 0;
    const char *what = cw_printf(t, "scan run %.80s", run_id);
    if (fields_check(t, run, rules) < 0 || field_id(t, run, what, "team_id", true) < 0 ||
        field_id(t, run, what, "cloud_account_id", false) < 0)
        return -1;
    ret->n_regions = field_texts(t, run, what, "regions",
                                 ret->by_region ? check_region : check_name, ret->regions, 64);
    if (ret->n_regions < 0)
        return -1;
    ret->n_regions = without_repeats(ret->regions, ret->n_regions);
    ret->n_frameworks =
        field_texts(t, run, what, "frameworks", check_framework, ret->frameworks, 60);
    if (size < 0 || delay < 0 || ret->n_frameworks < 0)
        return -1;
    ret->n_frameworks = without_repeats(ret->frameworks, ret->n_frameworks);
    if (ret->n_regions == 0 && !ret->by_region)
        ret->regions[ret->n_regions++] = everywhere;
    if (ret->n_regions == 0)
        return cw_problem(t, false, "ValueError", "scan run %s names no region", run_id);
    ret->batch_size = (int)size;
    ret->batch_delay = (double)delay;
    return 0;
}

/* The id of the job's task: the one of its document, made with it. */
static const char *job_claim(struct cloud_plan *p, const char *kind, const char *key)
{
    const bson_t *job = NULL;
    bson_oid_t a, b;
    char first[25], second[25];
    bson_oid_init(&a, NULL);
    bson_oid_init(&b, NULL);
    bson_oid_to_string(&a, first);
    bson_oid_to_string(&b, second);
    const char *id = cw_printf(p->t, "%.8s-%.4s-%.4s-%.4s-%.8s%.4s", first, first + 8, first + 12,
                               first + 16, second, second + 20);
    bson_t *filter = BCON_NEW("scan_run_id", BCON_UTF8(p->run_id), "kind", BCON_UTF8(kind), "key",
                              BCON_UTF8(key));
    bson_t *update = BCON_NEW("$setOnInsert", "{", "task_id", BCON_UTF8(id), "status", "PENDING",
                              "created_at", BCON_DATE_TIME(doc_now()), "}");
    int code = mongo_update(p->t, "scan_jobs", filter, update, true);
    if (code >= 0)
        code = mongo_find(p->t, "scan_jobs", filter, NULL, &job);
    bson_destroy(filter);
    bson_destroy(update);
    return code == 1 ? doc_text(job, "task_id") : NULL;
}

static cJSON *texts(const char *const *list, int n)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(list[i]));
    return array;
}

static int add_job(struct cloud_plan *p, const char *kind, const char *key, const char *task,
                   cJSON *args, double countdown)
{
    const char *id = job_claim(p, kind, key);
    if (!id) {
        cJSON_Delete(args);
        return -1;
    }
    struct cw_send call = {.task = task, .args = args, .id = id, .countdown = countdown};
    cJSON_AddItemToArray(p->parts, cw_sig(call));
    p->jobs++;
    return 0;
}

static int add_discovery(struct cloud_plan *p, const char *region)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(p->run_id));
    cJSON_AddItemToArray(args, cJSON_CreateString(region));
    return add_job(p, "discovery", region, "discovery.execute_steampipe_discovery", args, 0);
}

static int add_prowler(struct cloud_plan *p, const char *const *regions, int n, double countdown)
{
    const char *key = "";
    for (int i = 0; i < n; i++)
        key = cw_printf(p->t, "%s%s%s", key, i ? "," : "", regions[i]);
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(p->run_id));
    cJSON_AddItemToArray(args, texts(regions, n));
    cJSON_AddItemToArray(args, texts(p->frameworks, p->n_frameworks));
    return add_job(p, "prowler", key, "compliance.execute_prowler_scan", args, countdown);
}

static int add_batches(struct cloud_plan *p)
{
    int code = 0;
    if (!p->by_region)
        return add_prowler(p, &everywhere, 1, 0);
    for (int at = 0, batch = 0; code == 0 && at < p->n_regions; at += p->batch_size, batch++) {
        int n = p->n_regions - at < p->batch_size ? p->n_regions - at : p->batch_size;
        code = add_prowler(p, p->regions + at, n, p->batch_delay * batch);
    }
    return code;
}

static cJSON *finalize(const struct cloud_plan *p)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(p->run_id));
    return cw_sig((struct cw_send){
        .task = "scans.finalize_cloud_scan",
        .args = args,
        .immutable = true,
    });
}

/* A chord whose part fails does not run its body but its errback: that is finalize_cloud_scan too,
 * which then waits for the other jobs by their documents. */
int cloud_plan_send(struct cloud_plan *p)
{
    int code = 0;
    p->parts = cJSON_CreateArray();
    for (int i = 0; code == 0 && i < p->n_regions; i++)
        code = add_discovery(p, p->regions[i]);
    if (code == 0)
        code = add_batches(p);
    if (code < 0) {
        cJSON_Delete(p->parts);
        return -1;
    }
    cJSON *body = finalize(p);
    cw_link_error(body, finalize(p));
    return cw_apply(p->t, cw_chord(p->parts, body), NULL);
}
