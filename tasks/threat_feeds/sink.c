/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/date.h"
#include "tasks/threat_feeds/feed.h"

#include <string.h>

/* Indicators into threat_indicators, one document under (type, value) whoever tells of it. Each
 * write only widens what is known ($addToSet, $min, $max), so that feeds that run at the same time,
 * a pass that was killed half-way and one that runs twice all end in the same document. */

enum { TAG_MAX = 100, TAGS_MAX = 32, REPORT_EVERY = 20000 };

/* Of all feeds together: an indicator that many tell of would else grow until no store takes it. A
 * batch of tags is written behind the batch of its indicators. */
#define TAGS_STORED "256"

/* Two batches wait: what the feed tells, and what it takes back. No key is in both, so the order of
 * two batches does not matter; the keys are known by their hash, and two that share one are only
 * written earlier than they need be. */
enum { WAITING_MAX = 400, SLOTS = 1024 };

struct keys {
    uint64_t hashes[SLOTS];
    int n;
};

struct sink {
    struct mongo_bulk *bulk, *tags;
    struct keys told, taken_back;
    bson_t *withdrawn[WAITING_MAX];
};

static void put_tag(bson_t *list, uint32_t *n, const char *text, size_t size)
{
    char key[12], tag[TAG_MAX + 1];
    const char *name;
    while (size && *text == ' ')
        text++, size--;
    while (size && text[size - 1] == ' ')
        size--;
    if (!size || size > TAG_MAX || *n >= TAGS_MAX || (size == 4 && memcmp(text, "None", 4) == 0) ||
        !bson_utf8_validate(text, size, false))
        return;
    memcpy(tag, text, size);
    tag[size] = '\0';
    bson_uint32_to_string((*n)++, &name, key, sizeof key);
    BSON_APPEND_UTF8(list, name, tag);
}

static void put_tag_list(bson_t *list, uint32_t *n, const cJSON *tags)
{
    const cJSON *each;
    cJSON_ArrayForEach(each, tags)
    {
        const char *text =
            cJSON_IsObject(each) ? tree_text(each, "name") : cJSON_GetStringValue(each);
        if (text)
            put_tag(list, n, text, strlen(text));
    }
}

/* How many. */
static uint32_t put_tags(bson_t *list, const struct feed *f, const struct sighting *s)
{
    bson_iter_t at, own;
    const char *text;
    uint32_t n = 0;
    if (doc_find(f->document, "tags", &at) && BSON_ITER_HOLDS_ARRAY(&at) &&
        bson_iter_recurse(&at, &own))
        while ((text = doc_next_text(&own)))
            put_tag(list, &n, text, strlen(text));
    put_tag_list(list, &n, s->tags);
    put_tag_list(list, &n, s->own_tags);
    for (text = s->tag; text && *text; text += strspn(text, ",")) {
        size_t size = strcspn(text, ",");
        put_tag(list, &n, text, size);
        text += size;
    }
    return n;
}

static int add_tags(struct feed *f, const bson_t *key, const struct sighting *s)
{
    bson_t list = BSON_INITIALIZER, filter;
    int code = 0;
    if (put_tags(&list, f, s)) {
        bson_copy_to(key, &filter);
        BCON_APPEND(&filter, "tags." TAGS_STORED, "{", "$exists", BCON_BOOL(false), "}");
        bson_t *update =
            BCON_NEW("$addToSet", "{", "tags", "{", "$each", BCON_ARRAY(&list), "}", "}");
        code = mongo_bulk_update(f->sink->tags, &filter, update, false);
        bson_destroy(&filter);
        bson_destroy(update);
    }
    bson_destroy(&list);
    return code;
}

/* Times from a feed are its own; one that lies ahead would keep the indicator for ever. */
static int64_t past(const struct feed *f, int64_t time)
{
    return time == DATE_NONE || time > f->now ? f->now : time;
}

static void put_limits(bson_t *update, const struct feed *f, const struct sighting *s)
{
    bson_t max, min;
    int64_t last = past(f, s->last_seen), first = past(f, s->first_seen);
    int64_t expires = s->expires == DATE_NONE ? f->now + f->lifetime : s->expires;
    int confidence = s->confidence >= 0 ? s->confidence : f->confidence;
    BSON_APPEND_DOCUMENT_BEGIN(update, "$max", &max);
    BSON_APPEND_DATE_TIME(&max, "last_seen", last);
    BSON_APPEND_DATE_TIME(&max, "expires_at", expires);
    if (confidence >= 0)
        BSON_APPEND_INT32(&max, "confidence", confidence > 100 ? 100 : confidence);
    bson_append_document_end(update, &max);
    BSON_APPEND_DOCUMENT_BEGIN(update, "$min", &min);
    BSON_APPEND_DATE_TIME(&min, "first_seen", first < last ? first : last);
    bson_append_document_end(update, &min);
}

static int upsert(struct feed *f, const bson_t *key, const struct indicator *i,
                  const struct sighting *s)
{
    bson_t update = BSON_INITIALIZER, add, made;
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$addToSet", &add);
    BSON_APPEND_UTF8(&add, "sources", f->name);
    BCON_APPEND(&add, "tags", "{", "$each", "[", "]", "}");
    bson_append_document_end(&update, &add);
    put_limits(&update, f, s);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$setOnInsert", &made);
    BSON_APPEND_DATE_TIME(&made, "created_at", f->now);
    if (i->algorithm)
        BSON_APPEND_UTF8(&made, "algorithm", i->algorithm);
    doc_copy(&made, "team_id", f->document, "team_id");
    if (!bson_has_field(&made, "team_id"))
        BSON_APPEND_NULL(&made, "team_id");
    bson_append_document_end(&update, &made);
    int code = mongo_bulk_update(f->sink->bulk, key, &update, true);
    bson_destroy(&update);
    return code < 0 ? -1 : add_tags(f, key, s);
}

/* --- what waits to be written --- */

static uint64_t hash_of(const struct indicator *i)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char *at = i->type; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001B3u;
    for (const char *at = i->value; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001B3u;
    return hash | 1;
}

static uint64_t *slot_of(struct keys *k, uint64_t hash)
{
    uint64_t at = hash >> 32;
    while (k->hashes[at % SLOTS] && k->hashes[at % SLOTS] != hash)
        at++;
    return &k->hashes[at % SLOTS];
}

static void keep_key(struct keys *k, uint64_t hash)
{
    *slot_of(k, hash) = hash;
    k->n++;
}

static int flush_told(struct sink *s)
{
    memset(&s->told, 0, sizeof s->told);
    return mongo_bulk_flush(s->bulk) < 0 ? -1 : mongo_bulk_flush(s->tags);
}

static void forget_withdrawn(void *sink)
{
    struct sink *s = sink;
    for (int i = 0; i < s->taken_back.n; i++)
        bson_destroy(s->withdrawn[i]);
    memset(&s->taken_back, 0, sizeof s->taken_back);
}

/* The feed's word goes first; then what nobody's word is left for has run out now. A kill between
 * the two leaves such an indicator until the next pass, which reads the same (the cursor has not
 * moved). */
static int flush_withdrawn(struct feed *f)
{
    struct sink *s = f->sink;
    bson_t *pull = BCON_NEW("$pull", "{", "sources", BCON_UTF8(f->name), "}");
    bson_t *expire = BCON_NEW("$set", "{", "expires_at", BCON_DATE_TIME(f->now), "}");
    int code = flush_told(s);
    for (int i = 0; code == 0 && i < s->taken_back.n; i++)
        code = mongo_bulk_update(s->bulk, s->withdrawn[i], pull, false);
    if (code == 0)
        code = mongo_bulk_flush(s->bulk);
    for (int i = 0; code == 0 && i < s->taken_back.n; i++) {
        BCON_APPEND(s->withdrawn[i], "sources", "{", "$size", BCON_INT32(0), "}");
        code = mongo_bulk_update(s->bulk, s->withdrawn[i], expire, false);
    }
    if (code == 0)
        code = mongo_bulk_flush(s->bulk);
    forget_withdrawn(s);
    bson_destroy(pull);
    bson_destroy(expire);
    return code;
}

static int withdraw(struct feed *f, const bson_t *key, uint64_t hash)
{
    struct sink *s = f->sink;
    if (*slot_of(&s->taken_back, hash))
        return 0;
    if (s->taken_back.n == WAITING_MAX && flush_withdrawn(f) < 0)
        return -1;
    if (*slot_of(&s->told, hash) && flush_told(s) < 0)
        return -1;
    s->withdrawn[s->taken_back.n] = bson_copy(key);
    keep_key(&s->taken_back, hash);
    return 0;
}

static int tell(struct feed *f, const bson_t *key, uint64_t hash, const struct indicator *i,
                const struct sighting *sighting)
{
    struct sink *s = f->sink;
    if (s->told.n == WAITING_MAX && flush_told(s) < 0)
        return -1;
    if (*slot_of(&s->taken_back, hash) && flush_withdrawn(f) < 0)
        return -1;
    keep_key(&s->told, hash);
    return upsert(f, key, i, sighting);
}

static int report(struct feed *f)
{
    int64_t seen = f->good + f->bad + f->other;
    if (cw_stopping(f->t) != CW_GO)
        return cw_sleep(f->t, 0);
    if (seen - f->reported < REPORT_EVERY)
        return 0;
    f->reported = seen;
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "feed", f->name);
    cJSON_AddNumberToObject(meta, "indicators", (double)f->good);
    cJSON_AddNumberToObject(meta, "bad_rows", (double)f->bad);
    return cw_progress(f->t, meta);
}

int sink_open(struct feed *f)
{
    struct sink *s = cw_alloc(f->t, sizeof *s);
    s->bulk = mongo_bulk_open(f->t, "threat_indicators");
    s->tags = mongo_bulk_open(f->t, "threat_indicators");
    cw_defer(f->t, forget_withdrawn, s);
    f->sink = s->bulk && s->tags ? s : NULL;
    return f->sink ? 0 : -1;
}

int sink_add(struct feed *f, const char *text, size_t size, const struct sighting *sighting)
{
    struct indicator i;
    switch (indicator_read(text, size, sighting->kind, &i)) {
    case INDICATOR_BAD:
        f->bad++;
        return report(f);
    case INDICATOR_OTHER:
        f->other++;
        return report(f);
    default:
        break;
    }
    bson_t key = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&key, "type", i.type);
    BSON_APPEND_UTF8(&key, "value", i.value);
    uint64_t hash = hash_of(&i);
    int code = sighting->withdrawn ? withdraw(f, &key, hash) : tell(f, &key, hash, &i, sighting);
    bson_destroy(&key);
    f->good += !sighting->withdrawn;
    f->withdrawn += sighting->withdrawn;
    return code < 0 ? -1 : report(f);
}

int sink_flush(struct feed *f)
{
    return flush_withdrawn(f);
}
