/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/records.h"

#include <stdlib.h>
#include <string.h>

/* A million assets do not fit into memory, their identities do: 20 bytes each, and 20 to 30 for the
 * _id by which a document is found again. The second reading takes them in batches. */

enum { BATCH = 500 };

struct slot {
    int record;
    struct record found; /* source NULL: it is not there any more */
    bson_t *source;
    char *identity;
};

struct known {
    uint64_t id_at : 56, of : 8; /* where its {"": _id} is in ids; enum records_of */
};

struct records {
    cw_task *t;
    int n, max;
    size_t capacity;
    struct known *list;
    unsigned char *ids;
    size_t ids_size, ids_capacity;
    struct identity *identities;
    size_t n_identities, identity_capacity;
    int *group, *order;
    struct slot *slots;
    int n_slots;
    struct slot *sorted[BATCH]; /* by _id */
    bool short_of_memory;
};

static void close_records(void *arg)
{
    struct records *r = arg;
    free(r->list);
    free(r->ids);
    free(r->identities);
    free(r->group);
    free(r->order);
    for (int i = 0; i < r->n_slots; i++) {
        bson_destroy(r->slots[i].source);
        bson_free(r->slots[i].identity);
    }
    free(r->slots);
}

struct records *records_open(cw_task *t, int max)
{
    struct records *r = cw_alloc(t, sizeof *r);
    r->t = t;
    r->max = max;
    cw_defer(t, close_records, r);
    return r;
}

int records_count(const struct records *r)
{
    return r->n;
}

static int no_memory(struct records *r)
{
    return cw_problem(r->t, true, "MemoryError", "no memory for %d assets", r->n);
}

/* The list with room for `more`, half again as much each time; NULL: it stays as it is. */
static void *grown(void *list, size_t used, size_t *capacity, size_t more, size_t size)
{
    if (used + more <= *capacity)
        return list;
    size_t wanted = used + more + used / 2 + 1024;
    void *larger = reallocarray(list, wanted, size);
    if (larger)
        *capacity = wanted;
    return larger;
}

/* --- the first reading --- */

static void on_identity(enum identity_kind kind, const char *text, void *arg)
{
    struct records *r = arg;
    struct identity *list = grown(r->identities, r->n_identities, &r->identity_capacity, 1,
                                  sizeof *list);
    r->short_of_memory = r->short_of_memory || !list;
    if (r->short_of_memory)
        return;
    r->identities = list;
    list[r->n_identities++] = identity_of(kind, text, r->n);
}

static bool id_read(const bson_t *document, bson_t *ret)
{
    bson_iter_t at;
    bson_init(ret);
    return doc_find(document, "_id", &at) && bson_append_iter(ret, "", 0, &at);
}

static int add_record(struct records *r, enum records_of of, const bson_t *id)
{
    if (r->n == r->max)
        return cw_problem(r->t, false, "ValueError",
                          "the team has more than %d assets: raise CWORKER_HYBRID_MAX_ASSETS",
                          r->max);
    struct known *list = grown(r->list, (size_t)r->n, &r->capacity, 1, sizeof *list);
    r->list = list ? list : r->list;
    unsigned char *ids = grown(r->ids, r->ids_size, &r->ids_capacity, id->len, 1);
    r->ids = ids ? ids : r->ids;
    if (!list || !ids || r->short_of_memory)
        return no_memory(r);
    memcpy(ids + r->ids_size, bson_get_data(id), id->len);
    list[r->n++] = (struct known){r->ids_size, of};
    r->ids_size += id->len;
    return 0;
}

struct reading {
    struct records *records;
    enum records_of of;
};

static int on_document(cw_task *t, const bson_t *document, void *arg)
{
    struct reading *reading = arg;
    struct records *r = reading->records;
    struct record_reader reader = {.on_identity = on_identity, .arg = r};
    bson_t id;
    bool is = reading->of == RECORDS_ASSETS ? record_of_asset(document, &reader)
                                            : record_of_k8s(document, &reader);
    if (cw_stopping(t) != CW_GO)
        return cw_sleep(t, 0.001);
    int code = is && id_read(document, &id) ? add_record(r, reading->of, &id) : 0;
    if (is)
        bson_destroy(&id);
    return code;
}

/* The fields that records are made of. */
static bson_t *fields_of(enum records_of of)
{
    static const char *const fields[][17] = {
        {"provider", "resource_id", "resource_type", "name", "state", "region", "network_id",
         "instance_id", "cloud_account_id", "last_seen", "first_seen", "source", "ips", "macs",
         "hostnames"},
        {"cluster_id", "uid", "kind", "namespace", "name", "provider_id", "last_seen",
         "first_seen", "addresses", "load_balancer"}};
    bson_t *opts = bson_new(), projection;
    BSON_APPEND_DOCUMENT_BEGIN(opts, "projection", &projection);
    for (int i = 0; fields[of][i]; i++)
        BSON_APPEND_INT32(&projection, fields[of][i], 1);
    bson_append_document_end(opts, &projection);
    BSON_APPEND_INT32(opts, "batchSize", 2 * BATCH);
    return opts;
}

static const char *collection_of(enum records_of of)
{
    return of == RECORDS_ASSETS ? "assets" : "k8s_resources";
}

int records_read(struct records *r, enum records_of of, const bson_t *filter)
{
    struct reading reading = {r, of};
    bson_t *opts = fields_of(of);
    int code = mongo_each(r->t, collection_of(of), filter, opts, on_document, &reading);
    bson_destroy(opts);
    return code;
}

/* --- joining --- */

static int by_group(const void *left, const void *right, void *arg)
{
    const int *group = arg, *a = left, *b = right;
    int order = (group[*a] > group[*b]) - (group[*a] < group[*b]);
    return order ? order : (*a > *b) - (*a < *b);
}

static int join(struct records *r)
{
    r->group = calloc((size_t)r->n + 1, sizeof *r->group);
    r->order = calloc((size_t)r->n + 1, sizeof *r->order);
    r->slots = calloc(BATCH, sizeof *r->slots);
    if (!r->group || !r->order || !r->slots ||
        !identity_join(r->identities, r->n_identities, r->n, r->group))
        return no_memory(r);
    for (; r->n_slots < BATCH; r->n_slots++)
        r->slots[r->n_slots].source = bson_new();
    free(r->identities);
    r->identities = NULL;
    for (int i = 0; i < r->n; i++)
        r->order[i] = i;
    qsort_r(r->order, (size_t)r->n, sizeof *r->order, by_group, r->group);
    return 0;
}

/* --- the second reading --- */

/* A BSON document that lies in memory begins with its size. */
static void id_of(const struct records *r, int record, bson_t *ret)
{
    uint32_t size;
    const unsigned char *at = r->ids + r->list[record].id_at;
    memcpy(&size, at, sizeof size);
    bson_init_static(ret, at, BSON_UINT32_FROM_LE(size));
}

struct wanted {
    const struct records *records;
    const bson_t *id;
    enum records_of of;
};

static int compare_slots(const void *left, const void *right, void *arg)
{
    const struct records *r = arg;
    const struct slot *const *a = left, *const *b = right;
    bson_t one, other;
    id_of(r, (*a)->record, &one);
    id_of(r, (*b)->record, &other);
    int order = (int)r->list[(*a)->record].of - (int)r->list[(*b)->record].of;
    return order ? order : bson_compare(&one, &other);
}

static int compare_wanted(const void *wanted, const void *slot)
{
    const struct wanted *w = wanted;
    const struct slot *const *s = slot;
    bson_t id;
    id_of(w->records, (*s)->record, &id);
    int order = (int)w->of - (int)w->records->list[(*s)->record].of;
    return order ? order : bson_compare(w->id, &id);
}

static void on_strongest(enum identity_kind kind, const char *text, void *arg)
{
    struct slot *s = arg;
    if (s->identity && (kind > s->found.kind ||
                        (kind == s->found.kind && strcmp(text, s->identity) >= 0)))
        return;
    bson_free(s->identity);
    s->identity = bson_strdup(text);
    s->found.kind = kind;
}

struct batch {
    struct records *records;
    enum records_of of;
    int n;
};

static int on_again(cw_task *t, const bson_t *document, void *arg)
{
    struct batch *b = arg;
    bson_t id;
    struct wanted wanted = {b->records, &id, b->of};
    (void)t;
    if (!id_read(document, &id))
        return 0;
    struct slot **at =
        bsearch(&wanted, b->records->sorted, (size_t)b->n, sizeof *at, compare_wanted);
    bson_destroy(&id);
    if (!at)
        return 0;
    struct slot *s = *at;
    struct record_reader reader = {on_strongest, s, s->source};
    bool is = b->of == RECORDS_ASSETS ? record_of_asset(document, &reader)
                                      : record_of_k8s(document, &reader);
    s->found.source = is ? s->source : NULL;
    s->found.identity = s->identity;
    s->found.first_seen = doc_date(document, "first_seen", doc_now());
    return 0;
}

static int read_again(struct batch *b)
{
    struct records *r = b->records;
    bson_t *opts = fields_of(b->of), filter = BSON_INITIALIZER, in, list;
    uint32_t wanted = 0;
    BSON_APPEND_DOCUMENT_BEGIN(&filter, "_id", &in);
    BSON_APPEND_ARRAY_BEGIN(&in, "$in", &list);
    for (int i = 0; i < b->n; i++) {
        char room[16];
        const char *index;
        bson_iter_t at;
        bson_t id;
        id_of(r, r->slots[i].record, &id);
        if (r->list[r->slots[i].record].of != b->of || !bson_iter_init_find(&at, &id, ""))
            continue;
        bson_uint32_to_string(wanted++, &index, room, sizeof room);
        bson_append_iter(&list, index, -1, &at);
    }
    bson_append_array_end(&in, &list);
    bson_append_document_end(&filter, &in);
    int code = wanted ? mongo_each(r->t, collection_of(b->of), &filter, opts, on_again, b) : 0;
    bson_destroy(opts);
    bson_destroy(&filter);
    return code;
}

static void clear_slot(struct slot *s, int record, int group)
{
    bson_reinit(s->source);
    bson_free(s->identity);
    s->identity = NULL;
    s->record = record;
    s->found = (struct record){.group = group};
}

int records_each_joined(struct records *r, int (*fn)(const struct record *record, void *arg),
                        void *arg)
{
    if (join(r) < 0)
        return -1;
    for (int from = 0; from < r->n; from += BATCH) {
        struct batch batch = {r, RECORDS_ASSETS, r->n - from < BATCH ? r->n - from : BATCH};
        for (int i = 0; i < batch.n; i++) {
            clear_slot(&r->slots[i], r->order[from + i], r->group[r->order[from + i]]);
            r->sorted[i] = &r->slots[i];
        }
        qsort_r(r->sorted, (size_t)batch.n, sizeof *r->sorted, compare_slots, r);
        if (cw_stopping(r->t) != CW_GO)
            return cw_sleep(r->t, 0.001);
        if (read_again(&batch) < 0)
            return -1;
        batch.of = RECORDS_K8S;
        if (read_again(&batch) < 0)
            return -1;
        for (int i = 0; i < batch.n; i++)
            if (r->slots[i].found.source && fn(&r->slots[i].found, arg) < 0)
                return -1;
    }
    return 0;
}
