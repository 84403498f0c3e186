/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/date.h"
#include "tasks/lib/json_stream.h"
#include "tasks/threat_feeds/feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A MISP feed: manifest.json names the events, <uuid>.json holds one. Which version of an event was
 * read is kept in threat_feed_events, written after its indicators: a pass that was killed goes on
 * with the events that are left. An event that cannot be read does not stop the others; where it
 * may be read later (a 5xx, a body that is cut) the pass fails at its end and comes again.
 *
 * An event is kept as a text and read as a stream some times over (what is deleted goes first, and
 * tags may stand behind what they are of): a tree of it would need forty times its size where it is
 * hostile. */

enum { FAILING_MAX = 3, DOCUMENT_MAX = 32 << 20, ROW_MAX = 1 << 20, TAGS_MAX = 32 };
enum { LISTED_MAX = 200000, EVENTS_MAX = 20000 /* of one pass: requests cost memory */ };

struct entry {
    char uuid[37];
    int64_t timestamp;
};

struct misp {
    struct feed *f;
    const char *base;
    struct json_stream *manifest;
    struct entry *listed;
    size_t n, room;
    char *text; /* one event at a time */
    size_t size, capacity;
    cJSON *tags; /* the event's */
    bool deleted; /* which of its attributes are asked for */
    size_t large;
    bool incomplete;     /* an event was not read: it is asked for again */
    bool stopped;        /* by what is no fault of the event */
    int failing;         /* events in a row that failed in passing */
    const char *passing; /* the first one that did, or NULL */
    int read;
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
    return 0;
}

static int get(struct misp *m, const char *name, bool conditional,
               int (*on_body)(cw_task *t, const char *data, size_t size, void *arg),
               struct cw_reply *ret_reply)
{
    struct feed *f = m->f;
    const char *header = doc_text(f->document, "auth_header");
    const char *headers[] = {
        f->key ? cw_printf(f->t, "%s: %s", header ? header : "Authorization", f->key) : NULL, NULL};
    struct feed_request request = {cw_printf(f->t, "%s%s", m->base, name), headers, conditional,
                                   on_body, m};
    return feed_get(f, &request, ret_reply);
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

/* Older servers write 0 and "0". */
static bool is_true(const cJSON *value)
{
    return cJSON_IsTrue(value) || seconds_of(value) > 0;
}

/* Those that the event has deleted, or the others. */
static int add_attribute(cw_task *t, const cJSON *a, void *arg)
{
    struct misp *m = arg;
    struct sighting s = SIGHTING_NONE;
    const char *value = tree_text(a, "value");
    int64_t seconds = seconds_of(tree_at(a, "timestamp"));
    const cJSON *to_ids = tree_at(a, "to_ids");
    (void)t;
    s.kind = tree_text(a, "type");
    s.withdrawn = is_true(tree_at(a, "deleted"));
    if ((to_ids && !is_true(to_ids)) || s.withdrawn != m->deleted)
        return 0;
    if (!value || !s.kind) {
        m->f->bad++;
        return 0;
    }
    s.first_seen = date_read(tree_text(a, "first_seen"));
    s.last_seen = seconds > 0 ? seconds * 1000 : DATE_NONE;
    s.tags = m->tags;
    s.own_tags = tree_at(a, "Tag");
    m->stopped = sink_add(m->f, value, strlen(value), &s) < 0;
    return m->stopped ? -1 : 0;
}

static int add_object(cw_task *t, const char *text, size_t size, void *arg)
{
    struct misp *m = arg;
    struct json_stream_options options = {.member = "Attribute",
                                          .max_element = ROW_MAX,
                                          .ret_large = &m->large,
                                          .on_element = add_attribute,
                                          .arg = m};
    return *text == '{' ? json_stream_text(t, text, size, &options) : 0;
}

static int add_tag(cw_task *t, const cJSON *tag, void *arg)
{
    struct misp *m = arg;
    const char *name = tree_text(tag, "name");
    (void)t;
    if (name && cJSON_GetArraySize(m->tags) < TAGS_MAX)
        cJSON_AddItemToArray(m->tags, cJSON_CreateString(name));
    return 0;
}

/* One list of the event. */
static int read_list(struct misp *m, struct json_stream_options options)
{
    options.within = "Event";
    options.ret_large = &m->large;
    options.arg = m;
    return json_stream_text(m->f->t, m->text, m->size, &options);
}

static int read_attributes(struct misp *m, bool deleted)
{
    m->deleted = deleted;
    m->large = 0;
    return read_list(m, (struct json_stream_options){.member = "Attribute",
                                                     .max_element = ROW_MAX,
                                                     .on_element = add_attribute}) < 0
               ? -1
               : read_list(m, (struct json_stream_options){.member = "Object",
                                                           .max_element = DOCUMENT_MAX,
                                                           .on_text = add_object});
}

/* What was deleted goes first: it may have been made anew in the same event. */
static int add_event(struct misp *m)
{
    bool found;
    m->tags = cJSON_CreateArray();
    int code = read_list(m, (struct json_stream_options){.member = "Tag",
                                                         .max_element = ROW_MAX,
                                                         .ret_found = &found,
                                                         .on_element = add_tag});
    if (code == 0 && !found)
        code = cw_problem(m->f->t, false, "ValueError", "it holds no Event");
    if (code == 0)
        code = read_attributes(m, true);
    if (code == 0)
        code = read_attributes(m, false);
    m->f->other += (int64_t)m->large; /* attachments */
    cJSON_Delete(m->tags);
    return code;
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

/* 1: this version was read, 0: not (or the manifest does not tell versions), < 0 failed. */
static int is_known(struct misp *m, const char *uuid, int64_t timestamp)
{
    if (!timestamp)
        return 0;
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
    int code = sink_flush(m->f);
    if (code == 0)
        code = mongo_bulk_upsert(m->events, key, set, NULL);
    if (code == 0)
        code = mongo_bulk_flush(m->events);
    bson_destroy(key);
    bson_destroy(set);
    return code;
}

/* Is it the service that fails, and not this event alone? */
static bool is_away(struct misp *m, const struct cw_reply *reply, bool transient)
{
    const struct feed *f = m->f;
    m->failing = transient ? m->failing + 1 : 0;
    return m->failing == FAILING_MAX || f->asked_wait > 0 || cw_stopping(f->t) != CW_GO ||
           reply->status == 401 || reply->status == 403;
}

/* 0 it is counted and left out; < 0: the service or the store fails. */
static int leave_out(struct misp *m, const char *uuid)
{
    const char *why = cw_problem_text(m->f->t, NULL);
    cw_log(m->f->t, CW_WARNING, "feed %s: event %s: %s", m->f->name, uuid, why ? why : "");
    m->f->bad++;
    m->incomplete = true;
    return m->f->bytes_left ? 0 : -1;
}

static int read_event(struct misp *m, const struct entry *e)
{
    struct cw_reply reply;
    bool transient = false;
    m->size = 0;
    if (get(m, cw_printf(m->f->t, "%s.json", e->uuid), false, keep_body, &reply) < 0) {
        const char *why = cw_problem_text(m->f->t, &transient);
        if (is_away(m, &reply, transient))
            return -1;
        if (transient && !m->passing)
            m->passing = cw_printf(m->f->t, "event %s: %s", e->uuid, why);
        return leave_out(m, e->uuid);
    }
    m->failing = 0;
    if (add_event(m) < 0)
        return m->stopped ? -1 : leave_out(m, e->uuid);
    return remember(m, e->uuid, e->timestamp);
}

static int read_events(struct misp *m)
{
    for (size_t i = 0; i < m->n; i++) {
        int known = is_known(m, m->listed[i].uuid, m->listed[i].timestamp);
        if (known < 0)
            return -1;
        if (known)
            continue;
        if (m->read++ == EVENTS_MAX) { /* the next pass goes on */
            m->incomplete = true;
            return 0;
        }
        if (read_event(m, &m->listed[i]) < 0)
            return -1;
    }
    return 0;
}

/* --- the manifest --- */

static int on_manifest(cw_task *t, const char *data, size_t size, void *arg)
{
    struct misp *m = arg;
    (void)t;
    return json_stream_feed(m->manifest, data, size);
}

static int on_entry(cw_task *t, const char *name, const cJSON *row, void *arg)
{
    struct misp *m = arg;
    if (!is_uuid(name)) {
        m->f->bad++;
        return 0;
    }
    if (m->n == LISTED_MAX)
        return cw_problem(t, false, "ValueError", "manifest.json names more than %d events",
                          LISTED_MAX);
    if (m->n == m->room) {
        size_t room = 2 * m->room + 1024;
        struct entry *more = reallocarray(m->listed, room, sizeof *more);
        if (!more)
            return cw_problem(t, true, "MemoryError", "no memory for manifest.json");
        m->listed = more;
        m->room = room;
    }
    struct entry *e = &m->listed[m->n++];
    snprintf(e->uuid, sizeof e->uuid, "%s", name);
    e->timestamp = seconds_of(tree_at(row, "timestamp"));
    return 0;
}

static void close_misp(void *arg)
{
    struct misp *m = arg;
    free(m->text);
    free(m->listed);
}

int feed_read_misp(struct feed *f)
{
    struct misp *m = cw_alloc(f->t, sizeof *m);
    struct json_stream_options options = {
        .max_element = ROW_MAX, .ret_large = &m->large, .on_member = on_entry, .arg = m};
    struct cw_reply reply;
    size_t size = strlen(f->url), name = strlen("manifest.json");
    bool named = size > name && strcmp(f->url + size - name, "manifest.json") == 0;
    size -= named ? name : 0;
    m->f = f;
    m->base = cw_printf(f->t, "%.*s%s", (int)size, f->url, f->url[size - 1] == '/' ? "" : "/");
    f->url = cw_printf(f->t, "%smanifest.json", m->base);
    m->events = mongo_bulk_open(f->t, "threat_feed_events");
    if (!m->events)
        return -1;
    m->manifest = json_stream_open(f->t, &options);
    cw_defer(f->t, close_misp, m);
    int code = get(m, "manifest.json", true, on_manifest, &reply);
    if (code != FEED_READ)
        return code;
    if (json_stream_end(m->manifest) < 0)
        return -1;
    f->bad += (int64_t)m->large;
    if (read_events(m) < 0)
        return -1;
    if (m->passing)
        return cw_problem(f->t, true, "ConnectionError", "%s", m->passing);
    if (!m->incomplete)
        feed_keep_validators(f, &reply);
    return FEED_READ;
}
