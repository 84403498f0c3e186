/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/date.h"
#include "tasks/threat_feeds/feed.h"

#include <stdlib.h>
#include <string.h>

/* A MISP feed: manifest.json names the events, <uuid>.json holds one. Which version of an event was
 * read is kept in threat_feed_events, written after its indicators: a pass that was killed goes on
 * with the events that are left. An event that cannot be read does not stop the others. */

enum { DOCUMENT_MAX = 32 << 20 };

struct misp {
    struct feed *f;
    const char *base;
    char *text; /* one document at a time */
    size_t size, capacity;
    bool incomplete; /* an event could not be read: it is asked for again */
    struct mongo_bulk *events;
};

static int keep_body(cw_task *t, const char *data, size_t size, void *arg)
{
    struct misp *m = arg;
    (void)t;
    if (m->size + size > DOCUMENT_MAX)
        return cw_problem(t, false, "ValueError", "a document is larger than %d bytes",
                          DOCUMENT_MAX);
    if (m->size + size + 1 > m->capacity) {
        size_t capacity = 2 * (m->size + size) + 4096;
        char *text = realloc(m->text, capacity);
        if (!text)
            return cw_problem(t, true, "MemoryError", "no memory for a document");
        m->text = text;
        m->capacity = capacity;
    }
    memcpy(m->text + m->size, data, size);
    m->size += size;
    m->text[m->size] = '\0';
    return 0;
}

/* *ret_tree is NULL when the document is no JSON. */
static int get(struct misp *m, const char *name, bool conditional, struct cw_reply *ret_reply,
               cJSON **ret_tree)
{
    struct feed *f = m->f;
    const char *header = doc_text(f->document, "auth_header");
    const char *headers[] = {
        f->key ? cw_printf(f->t, "%s: %s", header ? header : "Authorization", f->key) : NULL, NULL};
    struct feed_request request = {cw_printf(f->t, "%s%s", m->base, name), headers, conditional,
                                   keep_body, m};
    *ret_tree = NULL;
    m->size = 0;
    int code = feed_get(f, &request, ret_reply);
    if (code == FEED_READ && m->size)
        *ret_tree = cJSON_ParseWithLength(m->text, m->size);
    return code;
}

/* --- attributes --- */

/* 0: none that a clock could show. */
static int64_t seconds_of(const cJSON *value)
{
    double seconds = cJSON_IsNumber(value)   ? value->valuedouble
                     : cJSON_IsString(value) ? strtod(value->valuestring, NULL)
                                             : 0;
    return seconds > 0 && seconds < 1e11 ? (int64_t)seconds : 0;
}

/* Those that the event has deleted, or the others. */
static int add_attributes(struct misp *m, const cJSON *list, const cJSON *tags, bool deleted)
{
    const cJSON *a;
    cJSON_ArrayForEach(a, list)
    {
        struct sighting s = SIGHTING_NONE;
        const char *value = tree_text(a, "value");
        int64_t seconds = seconds_of(tree_at(a, "timestamp"));
        const cJSON *to_ids = tree_at(a, "to_ids");
        s.kind = tree_text(a, "type");
        s.withdrawn = cJSON_IsTrue(tree_at(a, "deleted"));
        if (cJSON_IsFalse(to_ids) || s.withdrawn != deleted)
            continue;
        if (!value || !s.kind) {
            m->f->bad++;
            continue;
        }
        s.first_seen = date_read(tree_text(a, "first_seen"));
        s.last_seen = seconds > 0 ? seconds * 1000 : DATE_NONE;
        s.tags = tags;
        if (sink_add(m->f, value, strlen(value), &s) < 0)
            return -1;
    }
    return 0;
}

/* What was deleted goes first: it may have been made anew in the same event. */
static int add_event(struct misp *m, const cJSON *event)
{
    const cJSON *tags = tree_at(event, "Tag"), *object;
    for (int step = 0; step < 2; step++) {
        bool deleted = step == 0;
        if (add_attributes(m, tree_at(event, "Attribute"), tags, deleted) < 0)
            return -1;
        cJSON_ArrayForEach(object, tree_at(event, "Object"))
        {
            if (add_attributes(m, tree_at(object, "Attribute"), tags, deleted) < 0)
                return -1;
        }
    }
    return 0;
}

/* --- events --- */

/* Names from the manifest become paths: nothing but a UUID does. */
static bool is_uuid(const char *text)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (strlen(text) != sizeof form - 1)
        return false;
    for (size_t i = 0; form[i]; i++)
        if (form[i] == '-' ? text[i] != '-' : !strchr("0123456789abcdefABCDEF", text[i]))
            return false;
    return true;
}

static bson_t *key_of(const struct misp *m, const char *uuid)
{
    return BCON_NEW("feed_id", BCON_UTF8(m->f->id), "uuid", BCON_UTF8(uuid));
}

/* 1: this version was read, 0: not, < 0 failed. */
static int is_known(struct misp *m, const char *uuid, int64_t timestamp)
{
    bson_t *key = key_of(m, uuid);
    BSON_APPEND_INT64(key, "timestamp", timestamp);
    int64_t n = mongo_count(m->f->t, "threat_feed_events", key);
    bson_destroy(key);
    return n < 0 ? -1 : n > 0;
}

static int remember(struct misp *m, const char *uuid, int64_t timestamp)
{
    bson_t *key = key_of(m, uuid);
    bson_t *set =
        BCON_NEW("timestamp", BCON_INT64(timestamp), "read_at", BCON_DATE_TIME(m->f->now));
    int code = sink_close(m->f);
    if (code == 0)
        code = mongo_bulk_upsert(m->events, key, set, NULL);
    if (code == 0)
        code = mongo_bulk_flush(m->events);
    bson_destroy(key);
    bson_destroy(set);
    return code;
}

/* 0 read, or not readable and counted; < 0: the service or the store fails. */
static int read_event(struct misp *m, const char *uuid, int64_t timestamp)
{
    struct cw_reply reply;
    cJSON *tree;
    bool transient = false;
    int code = get(m, cw_printf(m->f->t, "%s.json", uuid), false, &reply, &tree);
    if (code < 0) {
        const char *why = cw_problem_text(m->f->t, &transient);
        if (transient || m->f->deferred > 0 || reply.status == 401 || reply.status == 403)
            return -1;
        cw_log(m->f->t, CW_WARNING, "feed %s: event %s: %s", m->f->name, uuid, why ? why : "");
        m->f->bad++;
        m->incomplete = true;
        return m->f->bytes_left ? 0 : -1;
    }
    const cJSON *event = tree_at(tree, "Event");
    if (event)
        code = add_event(m, event) < 0 ? -1 : remember(m, uuid, timestamp);
    m->f->bad += !event;
    m->incomplete = m->incomplete || !event;
    cJSON_Delete(tree);
    return code < 0 ? -1 : 0;
}

static int read_events(struct misp *m, const cJSON *manifest)
{
    const cJSON *row;
    cJSON_ArrayForEach(row, manifest)
    {
        int64_t timestamp = seconds_of(tree_at(row, "timestamp"));
        if (!is_uuid(row->string)) {
            m->f->bad++;
            continue;
        }
        int known = is_known(m, row->string, timestamp);
        if (known < 0 || (!known && read_event(m, row->string, timestamp) < 0))
            return -1;
    }
    return 0;
}

static void close_misp(void *arg)
{
    free(((struct misp *)arg)->text);
}

int feed_read_misp(struct feed *f)
{
    struct misp *m = cw_alloc(f->t, sizeof *m);
    struct cw_reply reply;
    cJSON *manifest;
    size_t size = strlen(f->url), name = strlen("manifest.json");
    bool named = size > name && strcmp(f->url + size - name, "manifest.json") == 0;
    size -= named ? name : 0;
    m->f = f;
    m->base = cw_printf(f->t, "%.*s%s", (int)size, f->url, f->url[size - 1] == '/' ? "" : "/");
    f->url = cw_printf(f->t, "%smanifest.json", m->base);
    m->events = mongo_bulk_open(f->t, "threat_feed_events");
    if (!m->events)
        return -1;
    cw_defer(f->t, close_misp, m);
    int code = get(m, "manifest.json", true, &reply, &manifest);
    if (code != FEED_READ)
        return code;
    code = cJSON_IsObject(manifest)
               ? read_events(m, manifest)
               : cw_problem(f->t, false, "ValueError", "manifest.json is no JSON object");
    cJSON_Delete(manifest);
    if (code == 0 && !m->incomplete)
        feed_keep_validators(f, &reply);
    return code < 0 ? -1 : FEED_READ;
}
