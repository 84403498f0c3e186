/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/sync/sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Findings become vulnerability_occurrences, 500 at a time. One look-up tells which of a batch are
 * known and how; then what is new is made, what had been resolved is opened again, what changed is
 * updated, and all that stayed as it was costs one statement together.
 *
 * Each write holds the state it starts from (or is an upsert under the unique dedup_key), so a second
 * pass over the same findings, at the same time or after a kill -9, changes nothing that the first
 * one did. Times of opening and resolving are set by the write that moves the state, once. */

enum { BATCH = 500 };

struct row {
    char key[DIGEST_SIZE], print[DIGEST_SIZE];
    bool open, known, known_open, same, twin;
    bson_t *fields; /* NULL when it is not open */
    int64_t first_seen;
};

struct occurrences {
    cw_task *t;
    const char *team, *source;
    int64_t now;
    struct row rows[BATCH];
    int n;
    struct row *slots[4 * BATCH]; /* rows by key */
    struct mongo_bulk *bulk;
    struct occurrence_counts counts;
    int64_t reported;
};

static void close_occurrences(void *occurrences)
{
    struct occurrences *o = occurrences;
    for (int i = 0; i < o->n; i++)
        if (o->rows[i].fields)
            bson_destroy(o->rows[i].fields);
    o->n = 0;
}

struct occurrences *occurrences_open(cw_task *t, const char *team, const char *source)
{
    struct occurrences *o = cw_alloc(t, sizeof *o);
    o->t = t;
    o->team = team;
    o->source = source;
    o->now = doc_now();
    o->bulk = mongo_bulk_open(t, "vulnerability_occurrences");
    cw_defer(t, close_occurrences, o);
    return o->bulk ? o : NULL;
}

struct occurrence_counts occurrences_counts(const struct occurrences *o)
{
    return o->counts;
}

/* --- rows of the batch by key --- */

static struct row **slot_of(struct occurrences *o, const char *key)
{
    unsigned at = (unsigned)strtoul((char[]){key[0], key[1], key[2], key[3], key[4], key[5], '\0'},
                                    NULL, 16);
    for (;; at++) {
        struct row **slot = &o->slots[at % (4 * BATCH)];
        if (!*slot || strcmp((*slot)->key, key) == 0)
            return slot;
    }
}

/* --- reading what is known --- */

static int on_known(cw_task *t, const bson_t *document, void *arg)
{
    struct occurrences *o = arg;
    const char *key = doc_text(document, "dedup_key");
    const char *status = doc_text(document, "status"), *print = doc_text(document, "fingerprint");
    struct row **slot = key && strlen(key) == 64 ? slot_of(o, key) : NULL;
    (void)t;
    if (slot && *slot) {
        (*slot)->known = true;
        (*slot)->known_open = status && strcmp(status, "OPEN") == 0;
        (*slot)->same = print && strcmp(print, (*slot)->print) == 0;
    }
    return 0;
}

static void put_keys(const struct occurrences *o, bson_t *filter, bool (*wanted)(const struct row *))
{
    bson_t in, list;
    char room[16];
    const char *name;
    uint32_t n = 0;
    BSON_APPEND_DOCUMENT_BEGIN(filter, "dedup_key", &in);
    BSON_APPEND_ARRAY_BEGIN(&in, "$in", &list);
    for (int i = 0; i < o->n; i++) {
        if (wanted && !wanted(&o->rows[i]))
            continue;
        bson_uint32_to_string(n++, &name, room, sizeof room);
        BSON_APPEND_UTF8(&list, name, o->rows[i].key);
    }
    bson_append_array_end(&in, &list);
    bson_append_document_end(filter, &in);
}

static int look_up(struct occurrences *o)
{
    bson_t filter = BSON_INITIALIZER;
    bson_t *opts = BCON_NEW("projection", "{", "dedup_key", BCON_INT32(1), "status", BCON_INT32(1),
                            "fingerprint", BCON_INT32(1), "_id", BCON_INT32(0), "}", "batchSize",
                            BCON_INT32(BATCH));
    put_keys(o, &filter, NULL);
    int code = mongo_each(o->t, "vulnerability_occurrences", &filter, opts, on_known, o);
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

static int make(struct occurrences *o, const struct row *r)
{
    bson_t *key = BCON_NEW("dedup_key", BCON_UTF8(r->key));
    bson_t on_insert = BSON_INITIALIZER, update = BSON_INITIALIZER;
    bson_concat(&on_insert, r->fields);
    BSON_APPEND_UTF8(&on_insert, "status", "OPEN");
    BSON_APPEND_DATE_TIME(&on_insert, "first_seen", r->first_seen ? r->first_seen : o->now);
    BSON_APPEND_DATE_TIME(&on_insert, "opened_at", o->now);
    BSON_APPEND_DOCUMENT(&update, "$setOnInsert", &on_insert);
    put_seen(o, &update);
    int code = mongo_bulk_update(o->bulk, key, &update, true);
    bson_destroy(key);
    bson_destroy(&on_insert);
    bson_destroy(&update);
    o->counts.made++;
    return code;
}

/* It is a new breach of its time limit that may come, so what was said of the old one goes. */
static int reopen(struct occurrences *o, const struct row *r)
{
    bson_t *key = BCON_NEW("dedup_key", BCON_UTF8(r->key), "status", BCON_UTF8("RESOLVED"));
    bson_t *update = BCON_NEW("$inc", "{", "reopen_count", BCON_INT32(1), "}", "$unset", "{",
                              "resolved_at", BCON_UTF8(""), "sla_breached_at", BCON_UTF8(""),
                              "sla_warned_at", BCON_UTF8(""), "}");
    bson_t set;
    BSON_APPEND_DOCUMENT_BEGIN(update, "$set", &set);
    bson_concat(&set, r->fields);
    BSON_APPEND_UTF8(&set, "status", "OPEN");
    BSON_APPEND_DATE_TIME(&set, "opened_at", o->now);
    BSON_APPEND_DATE_TIME(&set, "reopened_at", o->now);
    bson_append_document_end(update, &set);
    put_seen(o, update);
    int code = mongo_bulk_update(o->bulk, key, update, false);
    bson_destroy(key);
    bson_destroy(update);
    o->counts.reopened++;
    return code;
}

static int change(struct occurrences *o, const struct row *r)
{
    bson_t *key = BCON_NEW("dedup_key", BCON_UTF8(r->key));
    bson_t update = BSON_INITIALIZER;
    BSON_APPEND_DOCUMENT(&update, "$set", r->fields);
    put_seen(o, &update);
    int code = mongo_bulk_update(o->bulk, key, &update, false);
    bson_destroy(key);
    bson_destroy(&update);
    return code;
}

static bool stayed(const struct row *r)
{
    return r->open && r->known_open && r->same && !r->twin;
}

static bool went(const struct row *r)
{
    return !r->open && r->known_open && !r->twin;
}

static int64_t update_those(struct occurrences *o, bool (*wanted)(const struct row *),
                            const bson_t *update)
{
    bson_t *filter = BCON_NEW("status", BCON_UTF8("OPEN"));
    bool any = false;
    for (int i = 0; i < o->n; i++)
        any = any || wanted(&o->rows[i]);
    int64_t n = 0;
    if (any) {
        put_keys(o, filter, wanted);
        n = mongo_update_many(o->t, "vulnerability_occurrences", filter, update);
    }
    bson_destroy(filter);
    return n;
}

static int write_together(struct occurrences *o)
{
    bson_t *seen = bson_new();
    bson_t *resolved = BCON_NEW("$set", "{", "status", BCON_UTF8("RESOLVED"), "resolved_at",
                                BCON_DATE_TIME(o->now), "}");
    put_seen(o, seen);
    int64_t n_seen = update_those(o, stayed, seen), n_resolved = update_those(o, went, resolved);
    bson_destroy(seen);
    bson_destroy(resolved);
    if (n_seen < 0 || n_resolved < 0)
        return -1;
    o->counts.resolved += n_resolved;
    return 0;
}

static int write_row(struct occurrences *o, const struct row *r)
{
    if (!r->open || r->twin)
        return 0;
    if (!r->known)
        return make(o, r);
    if (!r->known_open)
        return reopen(o, r);
    o->counts.unchanged += r->same;
    return r->same ? 0 : change(o, r);
}

static int report(struct occurrences *o)
{
    if (cw_stopping(o->t) != CW_GO)
        return cw_problem(o->t, true, "InterruptedError", "asked to stop");
    if (o->counts.seen - o->reported < 20000)
        return 0;
    o->reported = o->counts.seen;
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "source", o->source);
    cJSON_AddNumberToObject(meta, "findings", (double)o->counts.seen);
    return cw_progress(o->t, meta);
}

int occurrences_flush(struct occurrences *o)
{
    int code = o->n ? look_up(o) : 0;
    for (int i = 0; code >= 0 && i < o->n; i++)
        code = write_row(o, &o->rows[i]);
    if (code >= 0 && o->n)
        code = write_together(o);
    if (code >= 0)
        code = mongo_bulk_flush(o->bulk);
    close_occurrences(o);
    memset(o->slots, 0, sizeof o->slots);
    return code < 0 ? -1 : report(o);
}

/* --- adding --- */

static void make_keys(const struct occurrences *o, struct row *r, const struct finding *f)
{
    const char *key[] = {o->team, o->source, f->asset, f->vulnerability, f->location, NULL};
    const char *print[] = {f->title ? f->title : "", f->severity, NULL};
    digest_hex(key, r->key);
    digest_hex(print, r->print);
}

static bson_t *make_fields(const struct occurrences *o, const struct row *r, const bson_t *document,
                           const struct finding *f)
{
    char room[25];
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
    BSON_APPEND_UTF8(fields, "fingerprint", r->print);
    return fields;
}

int occurrences_add(struct occurrences *o, const bson_t *document, const struct finding *f)
{
    if (!f->asset || !*f->asset || !f->vulnerability || !f->location)
        return 0; /* it does not say what it is about */
    if (o->n == BATCH && occurrences_flush(o) < 0)
        return -1;
    struct row *r = &o->rows[o->n++];
    *r = (struct row){.open = f->open, .first_seen = f->first_seen};
    make_keys(o, r, f);
    o->counts.seen++;
    struct row **slot = slot_of(o, r->key);
    if (*slot) { /* twice in one batch: it is open if either is */
        r->twin = !r->open || (*slot)->open;
        if (!r->twin)
            (*slot)->twin = true;
        else
            return 0;
    }
    *slot = r;
    r->fields = r->open ? make_fields(o, r, document, f) : NULL;
    return 0;
}

int occurrences_resolve_unseen(struct occurrences *o, const char *document_id, int64_t since)
{
    if (occurrences_flush(o) < 0)
        return -1;
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", o->team);
    BCON_APPEND(&filter, "source", BCON_UTF8(o->source), "status", BCON_UTF8("OPEN"), "last_seen",
                "{", "$lt", BCON_DATE_TIME(since), "}");
    if (document_id)
        BSON_APPEND_UTF8(&filter, "source_id", document_id);
    bson_t *update = BCON_NEW("$set", "{", "status", BCON_UTF8("RESOLVED"), "resolved_at",
                              BCON_DATE_TIME(o->now), "}");
    int64_t n = mongo_update_many(o->t, "vulnerability_occurrences", &filter, update);
    bson_destroy(&filter);
    bson_destroy(update);
    o->counts.resolved += n > 0 ? n : 0;
    return n < 0 ? -1 : 0;
}
