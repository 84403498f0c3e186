/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/sync/met.h"
#include "tasks/sync/sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Findings become vulnerability_occurrences, 500 at a time, by statements that name one dedup_key
 * each: what is open is upserted, what had been resolved is opened again, what is not open is
 * resolved. Most findings of a real scan pass and have no occurrence: one look-up a batch tells for
 * which of them, and of those that may have to be opened again, there is anything to write.
 *
 * Each write holds the state it starts from (or is an upsert under the unique dedup_key), so a
 * second pass over the same findings, at the same time or after a kill -9, changes nothing that the
 * first one did. Times of opening and resolving are set by the write that moves the state, once.
 * The statements of one batch may run in any order and end in the same documents.
 *
 * Two findings may be of one occurrence (a resource that was renamed leaves one that is resolved
 * and one that fails): it is resolved only when the finding that opened it last is open no more. So
 * that the one that fails is heard before, those that would close an occurrence wait for the end of
 * the pass, as many as memory is meant for.
 *
 * A finding may also turn into one of another occurrence (its resource was corrected). A pass over a
 * few findings remembers which it met: an open occurrence that it did not meet, and that names one of
 * these, has lost it. Whether another finding is of it only a pass over all of them can tell. Nothing
 * of this is written, so whoever comes after a kill -9 finds the same. */

enum { BATCH = 500, LATE_MAX = 10000, MOVED = -2 };

/* A finding that would close an occurrence. */
struct late {
    char key[DIGEST_SIZE];
    char *id;
};

struct row {
    char key[DIGEST_SIZE];
    bool open, twin;
    bool stored_open, stored_resolved; /* as the look-up found it */
    bson_t *fields;                    /* NULL when it is not open */
    char *id, *opened_by;              /* the finding; another one that opened it, or NULL */
    int64_t first_seen;
};

struct occurrences {
    cw_task *t;
    const char *team, *source, *collection;
    int64_t now;
    bool any_resolved; /* else nothing can be opened again (not asked for a few findings) */
    struct row rows[BATCH];
    int n;
    struct row *slots[4 * BATCH]; /* rows by key */
    struct late *late;
    int n_late;
    bool closing; /* the pass has read everything */
    struct met *met; /* NULL: not asked for */
    struct mongo_bulk *open, *reopen, *resolve;
    int64_t seen, unseen, reported;
};

static void forget_late(void *occurrences)
{
    struct occurrences *o = occurrences;
    for (int i = 0; i < o->n_late; i++)
        bson_free(o->late[i].id);
    o->n_late = 0;
}

static void forget_rows(void *occurrences)
{
    struct occurrences *o = occurrences;
    for (int i = 0; i < o->n; i++) {
        if (o->rows[i].fields)
            bson_destroy(o->rows[i].fields);
        bson_free(o->rows[i].id);
        bson_free(o->rows[i].opened_by);
    }
    o->n = 0;
}

static int find_resolved(struct occurrences *o)
{
    const bson_t *found;
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", o->team);
    BCON_APPEND(&filter, "source", BCON_UTF8(o->source), "status", "RESOLVED");
    int code = mongo_find(o->t, "vulnerability_occurrences", &filter, NULL, &found);
    bson_destroy(&filter);
    o->any_resolved = code == 1;
    return code < 0 ? -1 : 0;
}

struct occurrences *occurrences_open(cw_task *t, const char *team, const struct source *source,
                                     int64_t now, bool few)
{
    static const char name[] = "vulnerability_occurrences";
    struct occurrences *o = cw_alloc(t, sizeof *o);
    o->t = t;
    o->team = team;
    o->source = source->name;
    o->collection = source->collection;
    o->now = now;
    o->any_resolved = few;
    o->met = few && !source->whole ? met_open(t) : NULL;
    o->open = mongo_bulk_open(t, name);
    o->reopen = mongo_bulk_open(t, name);
    o->resolve = mongo_bulk_open(t, name);
    o->late = cw_alloc(t, LATE_MAX * sizeof *o->late);
    cw_defer(t, forget_rows, o);
    cw_defer(t, forget_late, o);
    return o->open && o->reopen && o->resolve && (few || find_resolved(o) == 0) ? o : NULL;
}

struct occurrence_counts occurrences_counts(const struct occurrences *o)
{
    return (struct occurrence_counts){
        .seen = o->seen,
        .made = mongo_bulk_counts(o->open).inserted,
        .reopened = mongo_bulk_counts(o->reopen).modified,
        .resolved = mongo_bulk_counts(o->resolve).modified + o->unseen,
    };
}

/* --- rows of the batch by key --- */

static struct row **slot_of(struct occurrences *o, const char *key)
{
    unsigned at =
        (unsigned)strtoul((char[]){key[0], key[1], key[2], key[3], key[4], key[5], '\0'}, NULL, 16);
    for (;; at++) {
        struct row **slot = &o->slots[at % (4 * BATCH)];
        if (!*slot || strcmp((*slot)->key, key) == 0)
            return slot;
    }
}

/* --- what is stored --- */

static bool is_worth_looking(const struct occurrences *o, const struct row *r)
{
    return !r->twin && (!r->open || o->any_resolved);
}

static int on_stored(cw_task *t, const bson_t *stored, void *arg)
{
    struct occurrences *o = arg;
    const char *key = doc_text(stored, "dedup_key"), *status = doc_text(stored, "status");
    const char *by = doc_text(stored, "source_id");
    struct row **slot = key && strlen(key) + 1 == DIGEST_SIZE ? slot_of(o, key) : NULL;
    (void)t;
    if (!slot || !*slot || !status)
        return 0;
    (*slot)->stored_open = strcmp(status, "OPEN") == 0;
    (*slot)->stored_resolved = strcmp(status, "RESOLVED") == 0;
    if (by && (*slot)->id && strcmp(by, (*slot)->id) != 0) {
        bson_free((*slot)->opened_by);
        (*slot)->opened_by = bson_strdup(by);
    }
    return 0;
}

static int look_up(struct occurrences *o)
{
    bson_t filter = BSON_INITIALIZER, in, keys;
    uint32_t n = 0;
    char room[16];
    const char *name;
    BSON_APPEND_DOCUMENT_BEGIN(&filter, "dedup_key", &in);
    BSON_APPEND_ARRAY_BEGIN(&in, "$in", &keys);
    for (int i = 0; i < o->n; i++)
        if (is_worth_looking(o, &o->rows[i])) {
            bson_uint32_to_string(n++, &name, room, sizeof room);
            BSON_APPEND_UTF8(&keys, name, o->rows[i].key);
        }
    bson_append_array_end(&in, &keys);
    bson_append_document_end(&filter, &in);
    bson_t *opts = BCON_NEW("batchSize", BCON_INT32(BATCH), "projection", "{", "_id", BCON_INT32(0),
                            "dedup_key", BCON_INT32(1), "status", BCON_INT32(1), "source_id",
                            BCON_INT32(1), "}");
    int code = n ? mongo_each(o->t, "vulnerability_occurrences", &filter, opts, on_stored, o) : 0;
    bson_destroy(&filter);
    bson_destroy(opts);
    return code;
}

/* --- writing --- */

/* Another pass may be at work, or the last statement of a killed one: what it saw later counts. */
static void put_seen(const struct occurrences *o, bson_t *update)
{
    BCON_APPEND(update, "$max", "{", "last_seen", BCON_DATE_TIME(o->now), "}");
}

static int write_open(struct occurrences *o, const struct row *r)
{
    bson_t *key = BCON_NEW("dedup_key", BCON_UTF8(r->key));
    bson_t *update = BCON_NEW("$setOnInsert", "{", "status", "OPEN", "first_seen",
                              BCON_DATE_TIME(r->first_seen ? r->first_seen : o->now), "opened_at",
                              BCON_DATE_TIME(o->now), "}");
    BSON_APPEND_DOCUMENT(update, "$set", r->fields);
    put_seen(o, update);
    int code = mongo_bulk_update(o->open, key, update, true);
    bson_destroy(key);
    bson_destroy(update);
    return code;
}

/* It is a new breach of its time limit that may come, so what was said of the old one goes. */
static int write_reopen(struct occurrences *o, const struct row *r)
{
    bson_t *key = BCON_NEW("dedup_key", BCON_UTF8(r->key), "status", "RESOLVED");
    bson_t *update =
        BCON_NEW("$inc", "{", "reopen_count", BCON_INT32(1), "}", "$unset", "{", "resolved_at",
                 BCON_UTF8(""), "sla_breached_at", BCON_UTF8(""), "sla_warned_at", BCON_UTF8(""),
                 "}", "$set", "{", "status", "OPEN", "opened_at", BCON_DATE_TIME(o->now),
                 "reopened_at", BCON_DATE_TIME(o->now), "}");
    put_seen(o, update);
    int code = mongo_bulk_update(o->reopen, key, update, false);
    bson_destroy(key);
    bson_destroy(update);
    return code;
}

static int write_resolved(struct occurrences *o, const struct row *r)
{
    bson_t *key = BCON_NEW("dedup_key", BCON_UTF8(r->key), "status", "OPEN");
    bson_t *update =
        BCON_NEW("$set", "{", "status", "RESOLVED", "resolved_at", BCON_DATE_TIME(o->now), "}");
    int code = mongo_bulk_update(o->resolve, key, update, false);
    o->any_resolved = true;
    bson_destroy(key);
    bson_destroy(update);
    return code;
}

static int on_other(cw_task *t, const bson_t *document, void *arg)
{
    (void)t;
    *(bool *)arg = finding_is_open(document);
    return 0;
}

static int is_open_by_another(struct occurrences *o, const struct row *r)
{
    bool open = false;
    if (!r->opened_by)
        return 0;
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "_id", r->opened_by);
    bson_t *opts =
        BCON_NEW("projection", "{", "status", BCON_INT32(1), "muted", BCON_INT32(1), "}");
    int code = mongo_each(o->t, o->collection, &filter, opts, on_other, &open);
    bson_destroy(&filter);
    bson_destroy(opts);
    return code < 0 ? -1 : open;
}

static bool put_off(struct occurrences *o, const struct row *r)
{
    if (o->closing || o->n_late == LATE_MAX)
        return false;
    struct late *l = &o->late[o->n_late++];
    memcpy(l->key, r->key, sizeof l->key);
    l->id = bson_strdup(r->id);
    return true;
}

static int write_closed(struct occurrences *o, const struct row *r)
{
    if (!r->stored_open || put_off(o, r))
        return 0;
    int open = is_open_by_another(o, r);
    return open ? (open < 0 ? -1 : 0) : write_resolved(o, r);
}

static int write_row(struct occurrences *o, const struct row *r)
{
    if (r->twin)
        return 0;
    if (!r->open)
        return write_closed(o, r);
    if (r->stored_resolved && write_reopen(o, r) < 0)
        return -1;
    return write_open(o, r);
}

static int report(struct occurrences *o)
{
    if (cw_stopping(o->t) != CW_GO)
        return cw_sleep(o->t, 0);
    if (o->seen - o->reported < 20000)
        return 0;
    o->reported = o->seen;
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "source", o->source);
    cJSON_AddNumberToObject(meta, "findings", (double)o->seen);
    return cw_progress(o->t, meta);
}

int occurrences_flush(struct occurrences *o)
{
    int code = look_up(o);
    for (int i = 0; code >= 0 && i < o->n; i++)
        code = write_row(o, &o->rows[i]);
    if (code >= 0)
        code = mongo_bulk_flush(o->reopen);
    if (code >= 0)
        code = mongo_bulk_flush(o->open);
    if (code >= 0)
        code = mongo_bulk_flush(o->resolve);
    forget_rows(o);
    memset(o->slots, 0, sizeof o->slots);
    return code < 0 ? -1 : report(o);
}

/* --- adding --- */

static void make_key(const struct occurrences *o, struct row *r, const struct finding *f)
{
    const char *key[] = {o->team, o->source, f->asset, f->vulnerability, f->location, NULL};
    digest_hex(key, r->key);
}

static bson_t *make_fields(const struct occurrences *o, const bson_t *document,
                           const struct finding *f)
{
    char room[DOC_ID_SIZE];
    bson_t *fields = bson_new();
    const char *id = doc_id(document, "_id", room);
    doc_copy(fields, "team_id", document, "team_id");
    BSON_APPEND_UTF8(fields, "source", o->source);
    doc_put(fields, "source_id", id, 1000);
    doc_put(fields, "asset_id", f->asset, 2048);
    doc_put(fields, "vulnerability_id", f->vulnerability, 1000);
    doc_put(fields, "location", f->location, 2048);
    doc_put(fields, "title", f->title, 1000);
    BSON_APPEND_UTF8(fields, "severity", f->severity);
    return fields;
}

int occurrences_add(struct occurrences *o, const bson_t *document, const struct finding *f)
{
    char room[DOC_ID_SIZE];
    if (o->met)
        met_add(o->met, doc_id(document, "_id", room));
    if (!f->asset || !*f->asset || !f->vulnerability || !f->location)
        return 0; /* it does not say what it is about */
    if (o->n == BATCH && occurrences_flush(o) < 0)
        return -1;
    struct row *r = &o->rows[o->n++];
    *r = (struct row){.open = f->open, .first_seen = f->first_seen};
    make_key(o, r, f);
    o->seen++;
    struct row **slot = slot_of(o, r->key);
    if (*slot) { /* twice in one batch: it is open if either is */
        r->twin = !r->open || (*slot)->open;
        if (!r->twin)
            (*slot)->twin = true;
        else
            return 0;
    }
    *slot = r;
    r->fields = r->open ? make_fields(o, document, f) : NULL;
    r->id = r->open ? NULL : bson_strdup(doc_id(document, "_id", room));
    return 0;
}

int occurrences_end(struct occurrences *o)
{
    int code = occurrences_flush(o);
    o->closing = true;
    for (int i = 0; code == 0 && i < o->n_late; i++) {
        if (o->n == BATCH && (code = occurrences_flush(o)) < 0)
            break;
        struct row *r = &o->rows[o->n++];
        *r = (struct row){.id = o->late[i].id};
        o->late[i].id = NULL;
        memcpy(r->key, o->late[i].key, sizeof r->key);
        struct row **slot = slot_of(o, r->key);
        r->twin = *slot;
        *slot = *slot ? *slot : r;
    }
    forget_late(o);
    return code == 0 ? occurrences_flush(o) : -1;
}

static int on_unseen(cw_task *t, const bson_t *occurrence, void *arg)
{
    struct occurrences *o = arg;
    const char *id = doc_text(occurrence, "source_id");
    (void)t;
    return id && met_has(o->met, id) ? MOVED : 0;
}

static void match_unseen(const struct occurrences *o, int64_t since, bson_t *filter)
{
    doc_match_id(filter, "team_id", o->team);
    BCON_APPEND(filter, "source", BCON_UTF8(o->source), "status", BCON_UTF8("OPEN"), "last_seen",
                "{", "$lt", BCON_DATE_TIME(since), "}");
}

int occurrences_moved(struct occurrences *o)
{
    if (!o->met || !met_any(o->met))
        return 0;
    bson_t filter = BSON_INITIALIZER;
    bson_t *opts =
        BCON_NEW("projection", "{", "_id", BCON_INT32(0), "source_id", BCON_INT32(1), "}");
    match_unseen(o, o->now, &filter);
    int code = mongo_each(o->t, "vulnerability_occurrences", &filter, opts, on_unseen, o);
    bson_destroy(&filter);
    bson_destroy(opts);
    if (code != MOVED)
        return code < 0 ? -1 : 0;
    o->met = NULL;
    o->closing = false;
    o->seen = o->reported = 0;
    return 1;
}

int occurrences_keep(struct occurrences *o, const char *document_id)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", o->team);
    BCON_APPEND(&filter, "source", BCON_UTF8(o->source), "source_id", BCON_UTF8(document_id),
                "status", "OPEN");
    put_seen(o, &update);
    int64_t n = mongo_update_many(o->t, "vulnerability_occurrences", &filter, &update);
    bson_destroy(&filter);
    bson_destroy(&update);
    return n < 0 ? -1 : 0;
}

int occurrences_resolve_unseen(struct occurrences *o, const char *document_id, int64_t since)
{
    if (occurrences_flush(o) < 0)
        return -1;
    bson_t filter = BSON_INITIALIZER;
    match_unseen(o, since, &filter);
    if (document_id)
        BSON_APPEND_UTF8(&filter, "source_id", document_id);
    bson_t *update = BCON_NEW("$set", "{", "status", BCON_UTF8("RESOLVED"), "resolved_at",
                              BCON_DATE_TIME(o->now), "}");
    int64_t n = mongo_update_many(o->t, "vulnerability_occurrences", &filter, update);
    bson_destroy(&filter);
    bson_destroy(update);
    o->unseen += n > 0 ? n : 0;
    o->any_resolved = o->any_resolved || n > 0;
    return n < 0 ? -1 : 0;
}
