/* SPDX-License-Identifier: Apache-2.0 */
/* The set of revoked ids and stamps. The one idea: a hash table for the question that every message
 * asks, and a list by instant for the order in which ids leave. Ids mostly come in order, so they
 * are put at the end of the list, which is sorted only when it has to be and only if one did
 * not. Stamps are another such set, of their JSON texts. */

#include "worker/revoked.h"

#include "proto/base/buf.h"
#include "proto/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { USUAL_MAX = 50000, FIRST_BUCKETS = 256, STAMP_MOST = 64 << 20, SLACK = 8 };
static const double USUAL_EXPIRES = 10800;

struct revoked_id {
    struct revoked_id *chain, *next, *prev;
    int64_t when;
    char id[];
};

/* --- bounds ----------------------------------------------------------------------------------- */

static double bound(const char *name, double usual)
{
    const char *text = getenv(name);
    char *end = NULL;
    double value = text && *text ? strtod(text, &end) : usual;
    bool usable = (!end || (end != text && *end == '\0')) && isfinite(value) && value >= 0;
    return usable ? value : usual;
}

struct revoked *revoked_new(void)
{
    struct revoked *s = mem_zalloc(sizeof *s);
    double most = bound("CELERY_WORKER_REVOKES_MAX", USUAL_MAX);
    s->max_ids = most < 1 ? 1 : most > 1e8 ? (size_t)1e8 : (size_t)most;
    s->expires = (int64_t)(fmin(bound("CELERY_WORKER_REVOKE_EXPIRES", USUAL_EXPIRES), 1e9) * 1e6);
    s->n_buckets = FIRST_BUCKETS;
    s->buckets = mem_zalloc(s->n_buckets * sizeof *s->buckets);
    return s;
}

void revoked_free(struct revoked *s)
{
    if (!s)
        return;
    for (struct revoked_id *e = s->first, *next; e; e = next) {
        next = e->next;
        free(e);
    }
    revoked_free(s->stamps);
    free(s->buckets);
    free(s);
}

/* --- ids -------------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *id)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * UINT64_C(1099511628211);
    return hash ^ hash >> 32;
}

static struct revoked_id **place_of(const struct revoked *s, const char *id)
{
    struct revoked_id **at = &s->buckets[hash_of(id) & (s->n_buckets - 1)];
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->chain;
    return at;
}

bool revoked_has(const struct revoked *s, const char *id)
{
    return s->n_ids && id && *place_of(s, id);
}

static void list_append(struct revoked *s, struct revoked_id *e)
{
    if (s->last && s->last->when > e->when)
        s->unsorted = true;
    e->next = NULL;
    e->prev = s->last;
    *(s->last ? &s->last->next : &s->first) = e;
    s->last = e;
}

static void list_remove(struct revoked *s, struct revoked_id *e)
{
    *(e->prev ? &e->prev->next : &s->first) = e->next;
    *(e->next ? &e->next->prev : &s->last) = e->prev;
}

static int compare_when(const void *a, const void *b)
{
    int64_t x = (*(struct revoked_id *const *)a)->when, y = (*(struct revoked_id *const *)b)->when;
    return x < y ? -1 : x > y;
}

static void list_sort(struct revoked *s)
{
    if (!s->unsorted)
        return;
    struct revoked_id **all = mem_alloc(s->n_ids * sizeof *all);
    size_t n = 0;
    for (struct revoked_id *e = s->first; e; e = e->next)
        all[n++] = e;
    qsort(all, n, sizeof *all, compare_when);
    s->first = s->last = NULL;
    for (size_t i = 0; i < n; i++)
        list_append(s, all[i]);
    s->unsorted = false;
    free(all);
}

static void drop_first(struct revoked *s)
{
    struct revoked_id *e = s->first;
    *place_of(s, e->id) = e->chain;
    list_remove(s, e);
    s->n_ids--;
    free(e);
}

static void keep_youngest(struct revoked *s)
{
    list_sort(s);
    while (s->n_ids > s->max_ids)
        drop_first(s);
}

void revoked_purge(struct revoked *s, int64_t now)
{
    keep_youngest(s);
    while (s->first && s->expires > 0 && s->first->when + s->expires <= now)
        drop_first(s);
}

static void table_grow(struct revoked *s)
{
    free(s->buckets);
    s->n_buckets *= 2;
    s->buckets = mem_zalloc(s->n_buckets * sizeof *s->buckets);
    for (struct revoked_id *e = s->first; e; e = e->next) {
        struct revoked_id **at = &s->buckets[hash_of(e->id) & (s->n_buckets - 1)];
        e->chain = *at;
        *at = e;
    }
}

void revoked_add(struct revoked *s, const char *id, int64_t when)
{
    struct revoked_id **at = place_of(s, id), *e = *at;
    if (e && e->when >= when)
        return;
    s->changed = true;
    if (e) {
        list_remove(s, e);
        e->when = when;
        list_append(s, e);
        return;
    }
    size_t size = strlen(id) + 1;
    e = mem_zalloc(sizeof *e + size);
    memcpy(e->id, id, size);
    e->when = when;
    *at = e;
    list_append(s, e);
    if (++s->n_ids > s->n_buckets)
        table_grow(s);
    /* Ids that came out of order have to be sorted first: once for many of them. */
    if (s->n_ids > s->max_ids + (s->unsorted ? s->max_ids / SLACK : 0))
        revoked_purge(s, when);
}

cJSON *revoked_list(struct revoked *s)
{
    cJSON *list = cJSON_CreateArray();
    keep_youngest(s);
    for (const struct revoked_id *e = s->first; e; e = e->next)
        cJSON_AddItemToArray(list, cJSON_CreateString(e->id));
    return list;
}

cJSON *revoked_ids(struct revoked *s)
{
    cJSON *ids = cJSON_CreateObject();
    keep_youngest(s);
    for (const struct revoked_id *e = s->first; e; e = e->next)
        cJSON_AddItemToObject(ids, e->id, cJSON_CreateNumber((double)e->when / 1e6));
    return ids;
}

void revoked_add_ids(struct revoked *s, const cJSON *ids, int64_t now)
{
    static const int64_t year_us = INT64_C(31536000) * 1000000;
    for (const cJSON *e = cJSON_IsObject(ids) ? ids->child : NULL; e; e = e->next) {
        const cJSON *seconds = cJSON_IsArray(e) ? e->child : e;
        if (!cJSON_IsNumber(seconds))
            continue;
        double us = seconds->valuedouble * 1e6;
        bool usable = us > (double)(now - year_us) && us < (double)now;
        revoked_add(s, e->string, usable ? (int64_t)us : now);
    }
}

/* --- stamps ----------------------------------------------------------------------------------- */

/* {"header": value}, in `out`. */
static const char *stamp_print(const char *header, const cJSON *value, struct buf *out)
{
    buf_reset(out);
    buf_char(out, '{');
    json_print_string(header, strlen(header), out);
    buf_str(out, ": ");
    json_print(value, out);
    buf_char(out, '}');
    return out->failed ? "" : out->data;
}

static const cJSON *first_of(const cJSON *values)
{
    return cJSON_IsArray(values) ? values->child : values;
}

static const cJSON *next_of(const cJSON *values, const cJSON *value)
{
    return cJSON_IsArray(values) ? value->next : NULL;
}

void revoked_add_stamps(struct revoked *s, const char *header, const cJSON *values)
{
    struct buf text = BUF_INIT(STAMP_MOST);
    if (!s->stamps) {
        s->stamps = revoked_new();
        s->stamps->max_ids = s->max_ids;
        s->stamps->expires = 0;
    }
    for (const cJSON *v = first_of(values); v; v = next_of(values, v)) {
        const char *stamp = stamp_print(header, v, &text);
        s->changed = s->changed || !revoked_has(s->stamps, stamp);
        revoked_add(s->stamps, stamp, ++s->last_stamp);
    }
    s->n_stamps = s->stamps->n_ids;
    buf_done(&text);
}

void revoked_clear_stamps(struct revoked *s)
{
    s->changed = s->changed || s->n_stamps;
    revoked_free(s->stamps);
    s->stamps = NULL;
    s->n_stamps = 0;
}

/* The pairs {header: value} in one object, in which a name can stand several times. */
static cJSON *stamp_pairs(struct revoked *s)
{
    cJSON *pairs = cJSON_CreateObject();
    if (s->stamps)
        list_sort(s->stamps);
    for (const struct revoked_id *e = s->stamps ? s->stamps->first : NULL; e; e = e->next) {
        cJSON *pair = json_parse(e->id, strlen(e->id), NULL);
        cJSON *value = pair && pair->child ? cJSON_DetachItemViaPointer(pair, pair->child) : NULL;
        if (value)
            cJSON_AddItemToObject(pairs, value->string, value);
        cJSON_Delete(pair);
    }
    return pairs;
}

cJSON *revoked_stamps(struct revoked *s)
{
    cJSON *pairs = stamp_pairs(s), *stamps = cJSON_CreateObject();
    struct json_index firsts = json_index(pairs);
    for (const cJSON *value = pairs->child; value; value = value->next)
        if (json_index_get(&firsts, value->string) == value)
            cJSON_AddArrayToObject(stamps, value->string);
    struct json_index headers = json_index(stamps);
    for (const cJSON *value = pairs->child; value; value = value->next)
        cJSON_AddItemToArray(json_index_get(&headers, value->string), cJSON_Duplicate(value, true));
    json_index_done(&headers);
    json_index_done(&firsts);
    cJSON_Delete(pairs);
    return stamps;
}

/* {header: value} of the first of the values that is revoked, or NULL. */
static cJSON *match_header(const struct revoked *stamps, const char *header, const cJSON *values)
{
    struct buf text = BUF_INIT(STAMP_MOST);
    cJSON *found = NULL;
    for (const cJSON *v = first_of(values); v && !found; v = next_of(values, v)) {
        if (!revoked_has(stamps, stamp_print(header, v, &text)))
            continue;
        found = cJSON_CreateObject();
        json_set(found, header, cJSON_Duplicate(v, true));
    }
    buf_done(&text);
    return found;
}

cJSON *revoked_match(const struct revoked *s, const struct message *m)
{
    if (!s->n_stamps || !m->stamped_headers.at || !m->stamps.at)
        return NULL;
    cJSON *headers = json_parse(m->stamped_headers.at, m->stamped_headers.size, NULL);
    cJSON *stamps = json_parse(m->stamps.at, m->stamps.size, NULL), *found = NULL;
    struct json_index named = json_index(cJSON_IsObject(stamps) ? stamps : NULL);
    for (const cJSON *h = cJSON_IsArray(headers) ? headers->child : NULL; h && !found; h = h->next)
        if (cJSON_IsString(h))
            found = match_header(s->stamps, h->valuestring, json_index_get(&named, h->valuestring));
    json_index_done(&named);
    cJSON_Delete(headers);
    cJSON_Delete(stamps);
    return found;
}
