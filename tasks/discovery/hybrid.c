/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/discovery.h"
#include "tasks/discovery/hybrid.h"
#include "tasks/discovery/onprem.h"
#include "tasks/lib/check.h"
#include "tasks/lib/digest.h"

#include <stdlib.h>
#include <string.h>

/* execute_hybrid_asset_discovery: the team's own networks are looked at first, then every asset that
 * is there (cloud, on-prem, machines and entrances of clusters) is read, and those that are one
 * thing become one document of hybrid_assets, with all its sources. The key is made of the strongest
 * identity, so a second run, or one after a kill -9 anywhere, writes the same documents; what this
 * run did not write is gone. */

enum { SOURCES_MAX = 500, TEXTS_MAX = 64 };

struct hybrid {
    cw_task *t;
    const char *team;
    struct records records;
    int *group; /* of each record */
    int *order; /* records, group by group */
    int *strongest; /* of each group: its place among the identities, -1: none yet */
    struct mongo_bulk *bulk;
    struct onprem_counts networks;
    int64_t started, assets, merged, gone;
    cJSON *errors;
};

/* --- reading --- */

static int read_assets(struct hybrid *h, const char *which)
{
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", h->team);
    BCON_APPEND(&filter, "provider", "{", which, "onprem", "}");
    BCON_APPEND(&filter, "gone", "{", "$ne", BCON_BOOL(true), "}");
    int code = mongo_each(h->t, "assets", &filter, NULL, record_of_asset, &h->records);
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
    int code = mongo_each(h->t, "k8s_resources", &filter, NULL, record_of_k8s, &h->records);
    bson_destroy(&filter);
    return code;
}

/* What counts first where sources tell one thing differently: the cloud, the cluster, the network. */
static int read_all(struct hybrid *h)
{
    return read_assets(h, "$ne") < 0 || read_clusters(h) < 0 || read_assets(h, "$eq") < 0 ? -1 : 0;
}

/* --- joining --- */

static int by_group(const void *left, const void *right, void *arg)
{
    const int *group = arg, *a = left, *b = right;
    int order = (group[*a] > group[*b]) - (group[*a] < group[*b]);
    return order ? order : (*a > *b) - (*a < *b);
}

static void free_plan(void *arg)
{
    struct hybrid *h = arg;
    free(h->group);
    free(h->order);
    free(h->strongest);
}

/* The identities are sorted by strength afterwards: the first that a group has is its strongest. */
static int join_all(struct hybrid *h)
{
    struct records *r = &h->records;
    size_t n = (size_t)r->n + 1;
    h->group = calloc(n, sizeof *h->group);
    h->order = calloc(n, sizeof *h->order);
    h->strongest = calloc(n, sizeof *h->strongest);
    if (!h->group || !h->order || !h->strongest ||
        !identity_join(r->identities, r->n_identities, r->n, h->group))
        return cw_problem(h->t, true, "MemoryError", "no memory for %d assets", r->n);
    for (int i = 0; i < r->n; i++) {
        h->order[i] = i;
        h->strongest[i] = -1;
    }
    for (size_t i = 0; i < r->n_identities; i++) {
        int *place = &h->strongest[h->group[r->identities[i].record]];
        if (*place < 0)
            *place = (int)i;
    }
    qsort_r(h->order, (size_t)r->n, sizeof *h->order, by_group, h->group);
    return 0;
}

/* --- writing --- */

static bool is_known(const char *const *list, int n, const char *text)
{
    for (int i = 0; i < n; i++)
        if (strcmp(list[i], text) == 0)
            return true;
    return false;
}

/* The texts that the sources hold under `field` (a text or a list), each once. */
static void put_union(struct hybrid *h, bson_t *set, const char *field, const char *from,
                      const int *members, int n)
{
    const char *seen[TEXTS_MAX];
    int known = 0;
    bson_t out;
    BSON_APPEND_ARRAY_BEGIN(set, field, &out);
    for (int i = 0; i < n; i++) {
        const bson_t *source = h->records.list[members[i]].source;
        const char *single = doc_text(source, from);
        bson_iter_t at, list = {0};
        bool many = !single && doc_find(source, from, &at) && BSON_ITER_HOLDS_ARRAY(&at) &&
                    bson_iter_recurse(&at, &list);
        for (const char *text = single ? single : many ? doc_next_text(&list) : NULL;
             text && known < TEXTS_MAX; text = many ? doc_next_text(&list) : NULL) {
            char room[16];
            const char *index;
            if (is_known(seen, known, text))
                continue;
            bson_uint32_to_string((uint32_t)known, &index, room, sizeof room);
            seen[known++] = text;
            doc_put(&out, index, text, 512);
        }
    }
    bson_append_array_end(set, &out);
}

static void put_sources(struct hybrid *h, bson_t *set, const int *members, int n)
{
    bson_t list;
    BSON_APPEND_ARRAY_BEGIN(set, "sources", &list);
    for (int i = 0; i < n && i < SOURCES_MAX; i++) {
        char room[16];
        const char *index;
        bson_uint32_to_string((uint32_t)i, &index, room, sizeof room);
        BSON_APPEND_DOCUMENT(&list, index, h->records.list[members[i]].source);
    }
    bson_append_array_end(set, &list);
    BSON_APPEND_INT32(set, "source_count", n);
}

/* What the first source that says anything says. */
static void put_first(struct hybrid *h, bson_t *set, const char *field, const char *from,
                      const int *members, int n)
{
    for (int i = 0; i < n; i++) {
        const char *text = doc_text(h->records.list[members[i]].source, from);
        if (text && *text) {
            doc_put(set, field, text, 512);
            return;
        }
    }
    BSON_APPEND_NULL(set, field);
}

static int64_t first_seen(const struct hybrid *h, const int *members, int n)
{
    int64_t first = h->records.list[members[0]].first_seen;
    for (int i = 1; i < n; i++)
        if (h->records.list[members[i]].first_seen < first)
            first = h->records.list[members[i]].first_seen;
    return first;
}

static int save_asset(struct hybrid *h, const int *members, int n)
{
    const struct identity *best = &h->records.identities[h->strongest[h->group[members[0]]]];
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    char digest[DIGEST_SIZE];
    digest_hex((const char *const[]){h->team, best->text, NULL}, digest);
    BSON_APPEND_UTF8(&key, "team_id", h->team);
    BSON_APPEND_UTF8(&key, "asset_key", digest);
    doc_put(&set, "identity", best->text, 1100);
    put_first(h, &set, "name", "name", members, n);
    put_first(h, &set, "resource_type", "resource_type", members, n);
    put_first(h, &set, "instance_id", "instance_id", members, n);
    put_union(h, &set, "kinds", "source", members, n);
    put_union(h, &set, "ips", "ips", members, n);
    put_union(h, &set, "macs", "macs", members, n);
    put_union(h, &set, "hostnames", "hostnames", members, n);
    put_sources(h, &set, members, n);
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    BSON_APPEND_BOOL(&set, "gone", false);
    BSON_APPEND_DATE_TIME(&once, "first_seen", first_seen(h, members, n));
    int code = mongo_bulk_upsert(h->bulk, &key, &set, &once);
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&once);
    h->assets++;
    h->merged += n > 1;
    return code;
}

static int save_all(struct hybrid *h)
{
    int n = h->records.n;
    for (int at = 0, end; at < n; at = end) {
        for (end = at + 1; end < n && h->group[h->order[end]] == h->group[h->order[at]];)
            end++;
        if (cw_stopping(h->t) != CW_GO)
            return cw_sleep(h->t, 0.001);
        if (save_asset(h, h->order + at, end - at) < 0)
            return -1;
    }
    return mongo_bulk_flush(h->bulk);
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
    int64_t n = h->records.n || h->networks.networks
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
    cJSON_AddNumberToObject(result, "records", h->records.n);
    cJSON_AddNumberToObject(result, "assets", (double)h->assets);
    cJSON_AddNumberToObject(result, "merged", (double)h->merged);
    cJSON_AddNumberToObject(result, "gone", (double)h->gone);
    cJSON_AddItemToObject(result, "errors", cJSON_Duplicate(h->errors, true));
    return cw_return(h->t, result);
}

cw_outcome execute_hybrid_asset_discovery(cw_task *t)
{
    struct hybrid *h = cw_alloc(t, sizeof *h);
    int64_t max = setting_int(t, "HYBRID_MAX_ASSETS", 200000, 1, 5000000);
    h->t = t;
    h->team = cw_str(t, "team_id");
    h->errors = cJSON_CreateArray();
    h->records = (struct records){.t = t, .max = (int)max};
    cw_defer(t, delete_tree, h->errors);
    cw_defer(t, records_free, &h->records);
    cw_defer(t, free_plan, h);
    if (max < 0 || onprem_discover(t, h->team, h->errors, &h->networks) < 0)
        return cw_fail(t);
    h->started = doc_now();
    h->bulk = mongo_bulk_open(t, "hybrid_assets");
    if (!h->bulk || read_all(h) < 0 || check_known(h) < 0 ||
        join_all(h) < 0 || save_all(h) < 0 || mark_gone(h) < 0)
        return cw_fail(t);
    return finish(h);
}
