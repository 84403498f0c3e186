/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/sync/sync.h"

#include <string.h>

/* sync_vulnerabilities_for_team: what changed in the three sources since the last pass (or all of
 * it) becomes occurrences. For each source, in this order:
 *
 *   1. the store's clock is read: the pass begins;
 *   2. findings are read, and written in batches: what is open, opened again, resolved; where one of
 *      those that changed is about something else now, all are read: it becomes a full pass;
 *   3. a full pass resolves what it did not meet;
 *   4. the watermark moves, to when the pass began less an overlap.
 *
 * A kill -9 before the fourth leaves the old watermark, and the next pass reads the same findings
 * again, which changes nothing; after it, nothing is left to do. All times are the store's own,
 * whichever worker runs; findings of our own tasks carry its time too (updated_at), those of others
 * may be stamped by clocks that differ, or be written late, by as much as the overlap. */

static const int64_t overlap_ms = 300000;

struct pass {
    cw_task *t;
    const char *team;
    bool full;
    const struct source *source;
    struct occurrences *o;
    int64_t began, since; /* ms; since 0: everything */
};

static void add_branch(bson_t *any, uint32_t *n, const bson_t *branch)
{
    char room[16];
    const char *name;
    bson_uint32_to_string((*n)++, &name, room, sizeof room);
    bson_append_document(any, name, -1, branch);
}

/* Findings of others that carry no date: one pass is as good as another to see them in. What stands
 * first in the index is asked for by what may be there instead of a date, for which MongoDB has
 * bounds; "no date" has none. */
static void put_undated(const struct pass *p, bool absent, bson_t *branch)
{
    const char *const *fields = p->source->changes;
    if (absent)
        BSON_APPEND_NULL(branch, fields[0]);
    else
        BCON_APPEND(branch, fields[0], "{", "$type", "[", "string", "number", "]", "}");
    for (int i = 1; fields[i]; i++)
        BCON_APPEND(branch, fields[i], "{", "$not", "{", "$type", BCON_INT32(BSON_TYPE_DATE_TIME),
                    "}", "}");
}

/* The team stands in each branch, and beside it what the index after it begins with, so that MongoDB
 * reads each by an index of its own and touches nothing else. */
static void filter_make(const struct pass *p, bson_t *filter)
{
    bson_t any, team = BSON_INITIALIZER;
    uint32_t n = 0;
    doc_match_id(&team, "team_id", p->team);
    if (!p->since) {
        bson_concat(filter, &team);
        bson_destroy(&team);
        return;
    }
    BSON_APPEND_ARRAY_BEGIN(filter, "$or", &any);
    for (int i = 0; p->source->changes[i]; i++) {
        bson_t *branch = bson_copy(&team);
        BCON_APPEND(branch, p->source->changes[i], "{", "$gte", BCON_DATE_TIME(p->since), "}");
        add_branch(&any, &n, branch);
        bson_destroy(branch);
    }
    for (int absent = 0; absent < 2; absent++) {
        bson_t *branch = bson_copy(&team);
        put_undated(p, absent, branch);
        add_branch(&any, &n, branch);
        bson_destroy(branch);
    }
    bson_append_array_end(filter, &any);
    bson_destroy(&team);
}

/* Half a scan says nothing about what it did not reach. */
static bool is_whole(const bson_t *document)
{
    const char *status = doc_text(document, "status");
    return !status || strcmp(status, "COMPLETED") == 0;
}

static int on_document(cw_task *t, const bson_t *document, void *arg)
{
    struct pass *p = arg;
    char room[DOC_ID_SIZE];
    (void)t;
    if (!p->source->whole)
        return p->source->read(p->o, document);
    const char *id = doc_id(document, "_id", room);
    if (!id)
        return 0;
    if (!is_whole(document))
        return occurrences_keep(p->o, id);
    if (p->source->read(p->o, document) < 0)
        return -1;
    return occurrences_resolve_unseen(p->o, id, p->began);
}

static int save_watermark(const struct pass *p)
{
    int64_t now = mongo_now(p->t);
    if (now < 0)
        return -1;
    bson_t *key = BCON_NEW("team_id", BCON_UTF8(p->team), "source", BCON_UTF8(p->source->name));
    bson_t *update = BCON_NEW("$set", "{", "watermark", BCON_DATE_TIME(p->began - overlap_ms),
                              "synced_at", BCON_DATE_TIME(now), "}");
    int code = mongo_update(p->t, "sync_watermarks", key, update, true);
    bson_destroy(key);
    bson_destroy(update);
    return code < 0 ? -1 : 0;
}

static int read_watermark(struct pass *p)
{
    const bson_t *found = NULL;
    bson_t *key = BCON_NEW("team_id", BCON_UTF8(p->team), "source", BCON_UTF8(p->source->name));
    int code = p->full ? 0 : mongo_find(p->t, "sync_watermarks", key, NULL, &found);
    p->since = code == 1 ? doc_date(found, "watermark", 0) : 0;
    if (p->since > p->began - overlap_ms) /* the store's clock was set back */
        p->since = p->began - overlap_ms;
    bson_destroy(key);
    return code < 0 ? -1 : 0;
}

static int read_once(struct pass *p)
{
    bson_t filter = BSON_INITIALIZER;
    bson_t *opts = BCON_NEW("batchSize", BCON_INT32(1000), "projection", "{", "description",
                            BCON_INT32(0), "compliance", BCON_INT32(0), "risk", BCON_INT32(0),
                            "remediation", BCON_INT32(0), "}");
    filter_make(p, &filter);
    int code = mongo_each(p->t, p->source->collection, &filter, opts, on_document, p);
    bson_destroy(&filter);
    bson_destroy(opts);
    return code < 0 || occurrences_end(p->o) < 0 ? -1 : 0;
}

static int read_source(struct pass *p)
{
    int moved = read_once(p) < 0 ? -1 : p->since ? occurrences_moved(p->o) : 0;
    if (moved <= 0)
        return moved;
    p->since = 0;
    return read_once(p);
}

static cJSON *counts_of(const struct occurrences *o)
{
    struct occurrence_counts n = occurrences_counts(o);
    cJSON *value = cJSON_CreateObject();
    cJSON_AddNumberToObject(value, "seen", (double)n.seen);
    cJSON_AddNumberToObject(value, "new", (double)n.made);
    cJSON_AddNumberToObject(value, "reopened", (double)n.reopened);
    cJSON_AddNumberToObject(value, "resolved", (double)n.resolved);
    return value;
}

/* What a full pass did not meet is not there any more; an incremental one cannot tell. */
static int sync_source(struct pass *p, cJSON *result)
{
    p->began = mongo_now(p->t);
    if (p->began < 0 || read_watermark(p) < 0)
        return -1;
    p->o = occurrences_open(p->t, p->team, p->source, p->began, p->since > 0);
    if (!p->o || read_source(p) < 0)
        return -1;
    if ((!p->since && occurrences_resolve_unseen(p->o, NULL, p->began) < 0) ||
        save_watermark(p) < 0)
        return -1;
    cJSON_AddItemToObject(result, p->source->name, counts_of(p->o));
    return 0;
}

cw_outcome sync_vulnerabilities_for_team(cw_task *t)
{
    struct pass p = {.t = t, .team = cw_str(t, "team_id"), .full = cw_bool(t, "full")};
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "team_id", p.team);
    for (int i = 0; i < SYNC_SOURCES; i++) {
        p.source = &sync_sources[i];
        if (sync_source(&p, result) < 0) {
            cJSON_Delete(result);
            return cw_fail(t);
        }
    }
    return cw_return(t, result);
}

/* --- the fan-out --- */

struct fan_out {
    bool full;
    const char **teams; /* already sent; few beside what they own */
    size_t n, room;
};

static bool is_new(cw_task *t, struct fan_out *f, const char *team)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->teams[i], team) == 0)
            return false;
    if (f->n == f->room) {
        const char **more = cw_alloc(t, (f->room = 2 * f->room + 64) * sizeof *more);
        if (f->n)
            memcpy(more, f->teams, f->n * sizeof *more);
        f->teams = more;
    }
    f->teams[f->n++] = cw_printf(t, "%s", team);
    return true;
}

static int on_team(cw_task *t, const bson_t *group, void *arg)
{
    struct fan_out *f = arg;
    char room[DOC_ID_SIZE], id[CW_ID_SIZE];
    const char *team = doc_id(group, "_id", room);
    if (!team || !is_new(t, f, team))
        return 0;
    const char *parts[] = {"sync_vulnerabilities_for_team", cw_info(t)->id, team, NULL};
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(team));
    cJSON_AddItemToArray(args, cJSON_CreateBool(f->full));
    digest_id(parts, id);
    struct cw_send send = {.task = "sync.sync_vulnerabilities_for_team", .args = args, .id = id};
    return cw_send(t, send, NULL);
}

cw_outcome sync_all_teams_vulnerabilities(cw_task *t)
{
    struct fan_out f = {.full = cw_bool(t, "full")};
    for (int i = 0; i < SYNC_SOURCES; i++)
        if (mongo_distinct(t, sync_sources[i].collection, "team_id", on_team, &f) < 0)
            return cw_fail(t);
    /* Teams whose findings are all gone have occurrences to be resolved. */
    if (f.full && mongo_distinct(t, "vulnerability_occurrences", "team_id", on_team, &f) < 0)
        return cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "teams", (double)f.n);
    return cw_return(t, result);
}
