/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/merge.h"

#include "tasks/lib/digest.h"

#include <string.h>

/* The key of a merged asset is made of its strongest identity (of several the first in the
 * alphabet), so it is the same whatever the order of its sources. */

enum { SOURCES_MAX = 500, TEXTS_MAX = 64, TEXT_MAX = 512 };

struct texts {
    char *list[TEXTS_MAX];
    int n;
};

struct merge {
    const char *team;
    int n;
    int64_t first_seen;
    enum identity_kind kind;
    char *identity;
    char *name, *resource_type, *instance_id;
    struct texts kinds, ips, macs, hostnames;
    bson_t *sources; /* a list */
};

/* --- one after the other --- */

static void add_text(struct texts *to, const char *text)
{
    for (int i = 0; i < to->n; i++)
        if (strcmp(to->list[i], text) == 0)
            return;
    if (to->n < TEXTS_MAX)
        to->list[to->n++] = bson_strdup(text);
}

static void add_list(struct texts *to, const bson_t *source, const char *field)
{
    bson_iter_t at, list;
    if (doc_find(source, field, &at) && BSON_ITER_HOLDS_ARRAY(&at) && bson_iter_recurse(&at, &list))
        for (const char *text; (text = doc_next_text(&list));)
            add_text(to, text);
}

/* What the first source that says anything says. */
static void add_first(char **to, const bson_t *source, const char *field)
{
    const char *text = doc_text(source, field);
    if (!*to && text && *text)
        *to = bson_strdup(text);
}

static void add_source(struct merge *m, const bson_t *source)
{
    char room[16];
    const char *index;
    if (m->n >= SOURCES_MAX)
        return;
    bson_uint32_to_string((uint32_t)m->n, &index, room, sizeof room);
    BSON_APPEND_DOCUMENT(m->sources, index, source);
}

void merge_add(struct merge *m, const bson_t *source, int64_t first_seen, enum identity_kind kind,
               const char *identity)
{
    if (!m->n || first_seen < m->first_seen)
        m->first_seen = first_seen;
    if (!m->n || kind < m->kind || (kind == m->kind && strcmp(identity, m->identity) < 0)) {
        bson_free(m->identity);
        m->identity = bson_strdup(identity);
        m->kind = kind;
    }
    add_first(&m->name, source, "name");
    add_first(&m->resource_type, source, "resource_type");
    add_first(&m->instance_id, source, "instance_id");
    add_text(&m->kinds, doc_text(source, "source"));
    add_list(&m->ips, source, "ips");
    add_list(&m->macs, source, "macs");
    add_list(&m->hostnames, source, "hostnames");
    add_source(m, source);
    m->n++;
}

int merge_count(const struct merge *m)
{
    return m->n;
}

/* --- the document --- */

static void put_texts(bson_t *set, const char *field, const struct texts *texts)
{
    bson_t list;
    BSON_APPEND_ARRAY_BEGIN(set, field, &list);
    for (int i = 0; i < texts->n; i++) {
        char room[16];
        const char *index;
        bson_uint32_to_string((uint32_t)i, &index, room, sizeof room);
        doc_put(&list, index, texts->list[i], TEXT_MAX);
    }
    bson_append_array_end(set, &list);
}

static void put_text(bson_t *set, const char *field, const char *text)
{
    if (text)
        doc_put(set, field, text, TEXT_MAX);
    else
        BSON_APPEND_NULL(set, field);
}

static void clear_texts(struct texts *texts)
{
    while (texts->n)
        bson_free(texts->list[--texts->n]);
}

static void clear(struct merge *m)
{
    clear_texts(&m->kinds);
    clear_texts(&m->ips);
    clear_texts(&m->macs);
    clear_texts(&m->hostnames);
    bson_free(m->identity);
    bson_free(m->name);
    bson_free(m->resource_type);
    bson_free(m->instance_id);
    bson_destroy(m->sources);
    *m = (struct merge){.team = m->team};
}

static void close_merge(void *merge)
{
    clear(merge);
}

struct merge *merge_open(cw_task *t, const char *team)
{
    struct merge *m = cw_alloc(t, sizeof *m);
    *m = (struct merge){.team = team, .sources = bson_new()};
    cw_defer(t, close_merge, m);
    return m;
}

int merge_save(struct merge *m, struct mongo_bulk *bulk)
{
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    char digest[DIGEST_SIZE];
    digest_hex((const char *const[]){m->team, m->identity, NULL}, digest);
    BSON_APPEND_UTF8(&key, "team_id", m->team);
    BSON_APPEND_UTF8(&key, "asset_key", digest);
    doc_put(&set, "identity", m->identity, 1100);
    put_text(&set, "name", m->name);
    put_text(&set, "resource_type", m->resource_type);
    put_text(&set, "instance_id", m->instance_id);
    put_texts(&set, "kinds", &m->kinds);
    put_texts(&set, "ips", &m->ips);
    put_texts(&set, "macs", &m->macs);
    put_texts(&set, "hostnames", &m->hostnames);
    BSON_APPEND_ARRAY(&set, "sources", m->sources);
    BSON_APPEND_INT32(&set, "source_count", m->n);
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    BSON_APPEND_BOOL(&set, "gone", false);
    BSON_APPEND_DATE_TIME(&once, "first_seen", m->first_seen);
    int code = mongo_bulk_upsert(bulk, &key, &set, &once);
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&once);
    clear(m);
    m->sources = bson_new();
    return code;
}
