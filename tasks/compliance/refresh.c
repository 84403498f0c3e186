/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/compliance/compliance.h"
#include "tasks/lib/finding.h"
#include "tasks/lib/mongo.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* run_compliance_refresh: from a team's open findings to passes and failures of each framework and
 * control. Findings are read once, as a stream; what grows is one counter a control. The outcome
 * depends on the findings alone, so running it twice, or half and then whole, ends in the same
 * documents. Of two at once the one that began later has the last word: a document says when its
 * count began, by the store's clock, and no count overwrites or removes a later one's. */

struct control {
    struct control *next; /* of the same hash */
    char *framework, *name;
    int64_t pass, fail, manual;
};

enum { SLOTS = 4096, MAX_CONTROLS = 100000 };
static const int64_t hour_ms = 3600000; /* no count takes longer */

struct refresh {
    cw_task *t;
    struct control *slots[SLOTS];
    struct control **all;
    size_t n, room;
    int64_t teams, frameworks, started;
    bool incomplete; /* a control could not be kept */
    const char *team;   /* that was asked for; NULL: all */
    const char *failed; /* what was wrong with the first team that could not be counted */
};

static bool make_room(struct refresh *r)
{
    if (r->n < r->room)
        return true;
    size_t room = r->room ? 2 * r->room : 1024;
    struct control **all = realloc(r->all, room * sizeof *all);
    if (!all)
        return false;
    r->all = all;
    r->room = room;
    return true;
}

static struct control *control_of(struct refresh *r, const char *framework, const char *name)
{
    uint32_t hash = 2166136261u;
    for (const char *at = framework; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    for (const char *at = name; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    struct control **slot = &r->slots[hash % SLOTS];
    for (struct control *c = *slot; c; c = c->next)
        if (strcmp(c->framework, framework) == 0 && strcmp(c->name, name) == 0)
            return c;
    if (r->n == MAX_CONTROLS) {
        cw_problem(r->t, false, "ValueError", "more than %d controls", MAX_CONTROLS);
        return NULL;
    }
    struct control *c = make_room(r) ? calloc(1, sizeof *c) : NULL;
    char *texts[] = {strdup(framework), strdup(name)};
    if (!c || !texts[0] || !texts[1]) {
        free(c);
        free(texts[0]);
        free(texts[1]);
        cw_problem(r->t, true, "MemoryError", "no memory for %zu controls", r->n + 1);
        return NULL;
    }
    *c = (struct control){*slot, texts[0], texts[1]};
    *slot = c;
    r->all[r->n++] = c;
    return c;
}

/* Before the next team, and with the delivery. */
static void forget_controls(void *refresh)
{
    struct refresh *r = refresh;
    for (size_t i = 0; i < r->n; i++) {
        free(r->all[i]->framework);
        free(r->all[i]->name);
        free(r->all[i]);
    }
    free(r->all);
    r->all = NULL;
    r->n = r->room = 0;
    memset(r->slots, 0, sizeof r->slots);
}

enum kind { NONE, FAIL, PASS, MANUAL };

static enum kind kind_of(const char *status)
{
    if (!status || finding_fails(status))
        return status ? FAIL : NONE;
    return strcasecmp(status, "PASS") == 0 ? PASS : strcasecmp(status, "MANUAL") == 0 ? MANUAL : NONE;
}

static void count_entry(struct refresh *r, const bson_iter_t *entry, enum kind kind)
{
    bson_iter_t fields = *entry, list;
    if (!bson_iter_recurse(entry, &fields) || !bson_iter_find(&fields, "framework") ||
        !BSON_ITER_HOLDS_UTF8(&fields))
        return;
    const char *framework = bson_iter_utf8(&fields, NULL), *name;
    if (!bson_iter_recurse(entry, &fields) || !bson_iter_find(&fields, "requirements") ||
        !BSON_ITER_HOLDS_ARRAY(&fields) || !bson_iter_recurse(&fields, &list))
        return;
    while ((name = doc_next_text(&list))) {
        struct control *c = control_of(r, framework, name);
        if (!c) {
            r->incomplete = true;
            return;
        }
        c->fail += kind == FAIL;
        c->pass += kind == PASS;
        c->manual += kind == MANUAL;
    }
}

static int on_finding(cw_task *t, const bson_t *finding, void *arg)
{
    struct refresh *r = arg;
    enum kind kind = kind_of(doc_text(finding, "status"));
    bson_iter_t at, list;
    if (cw_sleep(t, 0) < 0)
        return -1;
    if (kind == NONE || !doc_find(finding, "compliance", &at) || !BSON_ITER_HOLDS_ARRAY(&at) ||
        !bson_iter_recurse(&at, &list))
        return 0;
    while (bson_iter_next(&list))
        if (BSON_ITER_HOLDS_DOCUMENT(&list))
            count_entry(r, &list, kind);
    return r->incomplete ? -1 : 0;
}

static int count_findings(struct refresh *r, const bson_value_t *team)
{
    bson_t filter = BSON_INITIALIZER;
    bson_t *opts = BCON_NEW("projection", "{", "status", BCON_INT32(1), "compliance", BCON_INT32(1),
                            "}", "batchSize", BCON_INT32(1000));
    BSON_APPEND_VALUE(&filter, "team_id", team);
    BCON_APPEND(&filter, "status", "{", "$ne", "RESOLVED", "}", "muted", "{", "$ne",
                BCON_BOOL(true), "}");
    int code = mongo_each(r->t, "cspm_findings", &filter, opts, on_finding, r);
    bson_destroy(&filter);
    bson_destroy(opts);
    return code;
}

/* --- posture --- */

static int by_name(const void *a, const void *b)
{
    const struct control *x = *(struct control *const *)a, *y = *(struct control *const *)b;
    int order = strcmp(x->framework, y->framework);
    return order ? order : strcmp(x->name, y->name);
}

static const char *status_of(const struct control *c)
{
    return c->fail ? "FAIL" : c->pass ? "PASS" : "MANUAL";
}

/* Per cent of what was judged; nothing judged has no score. */
static void put_score(bson_t *document, int64_t pass, int64_t fail)
{
    if (pass + fail == 0)
        BSON_APPEND_NULL(document, "score");
    else
        BSON_APPEND_DOUBLE(document, "score",
                           (double)(int64_t)(1000.0 * (double)pass / (double)(pass + fail) + 0.5) /
                               10);
}

static void put_controls(bson_t *set, struct control *const *first, size_t n)
{
    bson_t list, entry;
    char room[16];
    const char *name;
    BSON_APPEND_ARRAY_BEGIN(set, "controls", &list);
    for (size_t i = 0; i < n; i++) {
        bson_uint32_to_string((uint32_t)i, &name, room, sizeof room);
        BSON_APPEND_DOCUMENT_BEGIN(&list, name, &entry);
        BSON_APPEND_UTF8(&entry, "control", first[i]->name);
        BSON_APPEND_UTF8(&entry, "status", status_of(first[i]));
        BSON_APPEND_INT64(&entry, "pass", first[i]->pass);
        BSON_APPEND_INT64(&entry, "fail", first[i]->fail);
        BSON_APPEND_INT64(&entry, "manual", first[i]->manual);
        put_score(&entry, first[i]->pass, first[i]->fail);
        bson_append_document_end(&list, &entry);
    }
    bson_append_array_end(set, &list);
}

/* Passes and failures of the framework are those of its controls. */
static void put_framework(bson_t *set, struct control *const *first, size_t n)
{
    int64_t pass = 0, fail = 0, manual = 0;
    for (size_t i = 0; i < n; i++) {
        fail += first[i]->fail > 0;
        pass += !first[i]->fail && first[i]->pass;
        manual += !first[i]->fail && !first[i]->pass;
    }
    BSON_APPEND_INT64(set, "pass", pass);
    BSON_APPEND_INT64(set, "fail", fail);
    BSON_APPEND_INT64(set, "manual", manual);
    BSON_APPEND_INT64(set, "total", (int64_t)n);
    put_score(set, pass, fail);
    put_controls(set, first, n);
}

/* Of a count before this one, or of a clock that was ahead. */
static void match_older(bson_t *filter, const char *than, int64_t time)
{
    BCON_APPEND(filter, "refreshed_at", "{", "$not", "{", than, BCON_DATE_TIME(time), "$lt",
                BCON_DATE_TIME(time + hour_ms), "}", "}");
}

/* Where a later count is there, the upsert finds its key taken. */
static int store_framework(struct refresh *r, const bson_value_t *team, struct mongo_bulk *bulk,
                           size_t first, size_t n)
{
    bson_t key = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    BSON_APPEND_VALUE(&key, "team_id", team);
    BSON_APPEND_UTF8(&key, "framework", r->all[first]->framework);
    match_older(&key, "$gt", r->started);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    put_framework(&set, r->all + first, n);
    BSON_APPEND_DATE_TIME(&set, "refreshed_at", r->started);
    bson_append_document_end(&update, &set);
    int code = mongo_bulk_update(bulk, &key, &update, true);
    bson_destroy(&key);
    bson_destroy(&update);
    r->frameworks++;
    return code;
}

/* A framework that no finding speaks of any more has no posture. */
static int remove_others(struct refresh *r, const bson_value_t *team)
{
    bson_t filter = BSON_INITIALIZER;
    BSON_APPEND_VALUE(&filter, "team_id", team);
    match_older(&filter, "$gte", r->started);
    int64_t n = mongo_remove_many(r->t, "compliance_posture", &filter);
    bson_destroy(&filter);
    return n < 0 ? -1 : 0;
}

static int store(struct refresh *r, const bson_value_t *team)
{
    struct mongo_bulk *bulk = mongo_bulk_open(r->t, "compliance_posture");
    if (!bulk)
        return -1;
    mongo_bulk_make_once(bulk);
    if (r->n)
        qsort(r->all, r->n, sizeof *r->all, by_name);
    for (size_t at = 0, n; at < r->n; at += n) {
        for (n = 1; at + n < r->n && strcmp(r->all[at]->framework, r->all[at + n]->framework) == 0;)
            n++;
        if (store_framework(r, team, bulk, at, n) < 0)
            return -1;
    }
    return mongo_bulk_flush(bulk) < 0 ? -1 : remove_others(r, team);
}

static int refresh_team(struct refresh *r, const bson_value_t *team)
{
    forget_controls(r);
    r->started = mongo_now(r->t);
    if (r->started < 0 || count_findings(r, team) < 0)
        return -1;
    if (store(r, team) < 0)
        return -1;
    r->teams++;
    return 0;
}

/* What is wrong with one team's findings keeps no other team waiting; trouble of the moment does. What
 * is no id is passed over: in a filter it could mean other teams' ({"$ne": null}, a pattern). */
static int on_team(cw_task *t, const bson_t *group, void *arg)
{
    struct refresh *r = arg;
    bson_iter_t at;
    char room[DOC_ID_SIZE];
    bool transient = false;
    const char *id = doc_id(group, "_id", room);
    if (!id || !doc_find(group, "_id", &at))
        return 0;
    r->incomplete = false;
    if (refresh_team(r, bson_iter_value(&at)) == 0)
        return 0;
    const char *why = cw_problem_text(t, &transient);
    if (transient || r->team || cw_stopping(t) != CW_GO)
        return -1;
    why = cw_printf(t, "team %.80s: %s", id, why ? why : "");
    cw_log(t, CW_WARNING, "its posture is left as it was: %s", why);
    r->failed = r->failed ? r->failed : why;
    return 0;
}

/* Teams that have a posture and no finding any more come last. */
static int refresh_all(struct refresh *r, const bson_t *teams)
{
    bson_t left = BSON_INITIALIZER;
    int64_t began = mongo_now(r->t);
    if (began < 0 || mongo_group(r->t, "cspm_findings", teams, "team_id", on_team, r) < 0)
        return -1;
    bson_concat(&left, teams);
    match_older(&left, "$gte", began);
    int code = mongo_group(r->t, "compliance_posture", &left, "team_id", on_team, r);
    bson_destroy(&left);
    return code;
}

cw_outcome run_compliance_refresh(cw_task *t)
{
    struct refresh *r = cw_alloc(t, sizeof *r);
    bson_t filter = BSON_INITIALIZER;
    r->t = t;
    r->team = cw_str(t, "team_id");
    cw_defer(t, forget_controls, r);
    if (r->team)
        doc_match_id(&filter, "team_id", r->team);
    else
        BCON_APPEND(&filter, "team_id", "{", "$type", "[", "string", "objectId", "number", "binData",
                    "]", "}");
    int code = refresh_all(r, &filter);
    bson_destroy(&filter);
    if (code < 0)
        return cw_fail(t);
    if (r->failed)
        return cw_raise(t, "RuntimeError", "%lld teams are done, not %s", (long long)r->teams,
                        r->failed);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "teams", (double)r->teams);
    cJSON_AddNumberToObject(result, "frameworks", (double)r->frameworks);
    return cw_return(t, result);
}
