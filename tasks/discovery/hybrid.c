/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/discovery.h"
#include "tasks/discovery/merge.h"
#include "tasks/discovery/onprem.h"
#include "tasks/discovery/records.h"
#include "tasks/lib/check.h"

#include <stdlib.h>
#include <string.h>

/* execute_hybrid_asset_discovery: the team's own networks are looked at first. Then every asset
 * that is there (cloud, on-prem, machines and entrances of clusters) is read twice: once for what
 * identifies it, which is all that stays in memory, and, when it is known which of them are one
 * thing, once more, thing by thing, into one document of hybrid_assets with all its sources.
 *
 * The key is made of the strongest identity, so a second run, or one after a kill -9 anywhere,
 * writes the same documents; what this run did not write is gone. A source that changes between the
 * two readings is right after the next run. */

enum { TOLD_EVERY = 5000 };

struct hybrid {
    cw_task *t;
    const char *team;
    struct records *records;
    struct merge *merge;
    struct mongo_bulk *bulk;
    struct onprem_counts networks;
    int64_t started, assets, merged, gone;
    int group; /* whose sources are being told; -1: none */
    cJSON *errors;
};

/* --- reading --- */

static int read_assets(struct hybrid *h, const char *which)
{
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", h->team);
    BCON_APPEND(&filter, "provider", "{", which, "onprem", "}");
    BCON_APPEND(&filter, "gone", "{", "$ne", BCON_BOOL(true), "}");
    int code = records_read(h->records, RECORDS_ASSETS, &filter);
    bson_destroy(&filter);
    return code;
}

/* Of clusters what is a machine, or an entrance from outside. */
static int read_clusters(struct hybrid *h)
{
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", h->team);
    BCON_APPEND(&filter, "gone", "{", "$ne", BCON_BOOL(true), "}", "$or", "[", "{", "kind", "{",
                "$in", "[", "Node", "Ingress", "]", "}", "}", "{", "kind", "Service", "type",
                "LoadBalancer", "}", "]");
    int code = records_read(h->records, RECORDS_K8S, &filter);
    bson_destroy(&filter);
    return code;
}

/* What counts first where sources tell one thing differently: the cloud, the cluster, the
 * network. */
static int read_all(struct hybrid *h)
{
    return read_assets(h, "$ne") < 0 || read_clusters(h) < 0 || read_assets(h, "$eq") < 0 ? -1 : 0;
}

/* --- writing --- */

static int tell_progress(struct hybrid *h)
{
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddNumberToObject(meta, "assets", (double)h->assets);
    cJSON_AddNumberToObject(meta, "records", records_count(h->records));
    return cw_progress(h->t, meta);
}

static int save_asset(struct hybrid *h)
{
    int sources = merge_count(h->merge);
    if (!sources)
        return 0;
    h->assets++;
    h->merged += sources > 1;
    if (h->assets % TOLD_EVERY == 0 && tell_progress(h) < 0)
        return -1;
    return merge_save(h->merge, h->bulk);
}

/* The sources of one thing come one after the other. */
static int on_source(const struct record *record, void *arg)
{
    struct hybrid *h = arg;
    if (record->group != h->group && save_asset(h) < 0)
        return -1;
    h->group = record->group;
    merge_add(h->merge, record->source, record->first_seen, record->kind, record->identity);
    return 0;
}

static int save_all(struct hybrid *h)
{
    h->group = -1;
    return records_each_joined(h->records, on_source, h) < 0 || save_asset(h) < 0
               ? -1
               : mongo_bulk_flush(h->bulk);
}

static int mark_gone(struct hybrid *h)
{
    bson_t *filter =
        BCON_NEW("team_id", BCON_UTF8(h->team), "gone", BCON_BOOL(false), "last_seen", "{", "$lt",
                 BCON_DATE_TIME(h->started), "}");
    bson_t *update =
        BCON_NEW("$set", "{", "gone", BCON_BOOL(true), "gone_at", BCON_DATE_TIME(doc_now()), "}");
    h->gone = mongo_update_many(h->t, "hybrid_assets", filter, update);
    bson_destroy(filter);
    bson_destroy(update);
    return h->gone < 0 ? -1 : 0;
}

/* --- the whole --- */

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

/* Nothing anywhere, now or before: no team of ours has that id. */
static int check_known(struct hybrid *h)
{
    bson_t *filter = BCON_NEW("team_id", BCON_UTF8(h->team));
    int64_t n = records_count(h->records) || h->networks.networks
                    ? 1
                    : mongo_count(h->t, "hybrid_assets", filter);
    bson_destroy(filter);
    if (n != 0)
        return n < 0 ? -1 : 0;
    return cw_problem(h->t, false, "LookupError", "no assets, clusters or networks of team %.80s",
                      h->team);
}

static cw_outcome finish(struct hybrid *h)
{
    cJSON *result = cJSON_CreateObject();
    bool partial = cJSON_GetArraySize(h->errors) > 0;
    cJSON_AddStringToObject(result, "team_id", h->team);
    cJSON_AddStringToObject(result, "status", partial ? "PARTIAL" : "COMPLETED");
    cJSON_AddNumberToObject(result, "networks", h->networks.networks);
    cJSON_AddNumberToObject(result, "hosts", (double)h->networks.hosts);
    cJSON_AddNumberToObject(result, "records", records_count(h->records));
    cJSON_AddNumberToObject(result, "assets", (double)h->assets);
    cJSON_AddNumberToObject(result, "merged", (double)h->merged);
    cJSON_AddNumberToObject(result, "gone", (double)h->gone);
    cJSON_AddItemToObject(result, "errors", cJSON_Duplicate(h->errors, true));
    return cw_return(h->t, result);
}

cw_outcome execute_hybrid_asset_discovery(cw_task *t)
{
    struct hybrid *h = cw_alloc(t, sizeof *h);
    int64_t max = setting_int(t, "HYBRID_MAX_ASSETS", 2000000, 1, 20000000);
    h->t = t;
    h->team = cw_str(t, "team_id");
    h->errors = cJSON_CreateArray();
    cw_defer(t, delete_tree, h->errors);
    if (max < 0 || onprem_discover(t, h->team, h->errors, &h->networks) < 0)
        return cw_fail(t);
    h->started = doc_now();
    h->records = records_open(t, (int)max);
    h->merge = merge_open(t, h->team);
    h->bulk = mongo_bulk_open(t, "hybrid_assets");
    if (!h->bulk || read_all(h) < 0 || check_known(h) < 0 || save_all(h) < 0 || mark_gone(h) < 0)
        return cw_fail(t);
    return finish(h);
}
