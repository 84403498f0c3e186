/* SPDX-License-Identifier: Apache-2.0 */
/* Records at rest: the copy that waits to be written, the lists it waits in, and its JSON form. The
 * idea: everything a writer needs of a record lies in one allocation, so that handing it to another
 * thread is handing over one pointer. */
#include "worker/store/backend.h"

#include "proto/base/mem.h"
#include "proto/time.h"
#include "proto/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- copies ----------------------------------------------------------------------------------- */

enum { N_TEXTS = 12 };

static void collect_texts(struct store_record *r, const char **ret_texts[N_TEXTS])
{
    const char **texts[N_TEXTS] = {&r->id,       &r->state,     &r->traceback, &r->children,
                                   &r->group_id, &r->parent_id, &r->name,      &r->worker,
                                   &r->queue,    &r->args,      &r->kwargs,    &r->stamps};
    memcpy(ret_texts, texts, sizeof texts);
}

static char *put_text(char *at, const char **ref, size_t size)
{
    memcpy(at, *ref, size);
    at[size] = '\0';
    *ref = at;
    return at + size + 1;
}

struct store_entry *entry_copy(const struct store_record *record)
{
    struct store_record copy = *record;
    const char **texts[N_TEXTS];
    size_t sizes[N_TEXTS], total = sizeof(struct store_entry);
    size_t n_stamped = copy.stamped_headers ? strlen(copy.stamped_headers) : 0;
    collect_texts(&copy, texts);
    for (size_t i = 0; i < N_TEXTS; i++) {
        sizes[i] = *texts[i] ? strlen(*texts[i]) : 0;
        total += sizes[i] + 1;
    }
    total += copy.result.size + 1 + n_stamped + 1;

    struct store_entry *e = mem_alloc(total);
    *e = (struct store_entry){.size = total, .code = STORE_WAITING, .record = *record};
    char *at = (char *)(e + 1);
    collect_texts(&e->record, texts);
    for (size_t i = 0; i < N_TEXTS; i++)
        if (*texts[i])
            at = put_text(at, texts[i], sizes[i]);
    if (copy.stamped_headers)
        at = put_text(at, &e->record.stamped_headers, n_stamped);
    if (copy.result.at)
        put_text(at, &e->record.result.at, copy.result.size);
    return e;
}

void entry_move(struct store_entry *e, uintptr_t by)
{
    const char **texts[N_TEXTS];
    collect_texts(&e->record, texts);
    for (size_t i = 0; i < N_TEXTS; i++)
        if (*texts[i])
            *texts[i] = (const char *)((uintptr_t)*texts[i] + by);
    if (e->record.stamped_headers)
        e->record.stamped_headers = (const char *)((uintptr_t)e->record.stamped_headers + by);
    if (e->record.result.at)
        e->record.result.at = (const char *)((uintptr_t)e->record.result.at + by);
}

void entry_free(struct store_entry *e)
{
    while (e) {
        struct store_entry *merged = e->merged;
        free(e->why);
        free(e);
        e = merged;
    }
}

void entry_settle(struct store_entry *e, int code, const char *why)
{
    struct store *store = e->store;
    size_t size = e->size;
    if (e->fn)
        e->fn(code, why, e->arg);
    e->merged = NULL;
    entry_free(e);
    store_settled(store, size);
}

int entry_refuse(struct store_entry *e, int code, const char *fmt, ...)
{
    struct error err;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err.text, sizeof err.text, fmt, args);
    va_end(args);
    free(e->why);
    e->why = mem_dup(err.text);
    e->code = code;
    return code;
}

void list_push(struct store_list *l, struct store_entry *e)
{
    e->next = NULL;
    if (l->last)
        l->last->next = e;
    else
        l->first = e;
    l->last = e;
    l->n++;
}

void list_push_front(struct store_list *l, struct store_entry *e)
{
    e->next = l->first;
    l->first = e;
    if (!l->last)
        l->last = e;
    l->n++;
}

struct store_entry *list_pop(struct store_list *l)
{
    struct store_entry *e = l->first;
    if (e) {
        l->first = e->next;
        if (!l->first)
            l->last = NULL;
        l->n--;
        e->next = NULL;
    }
    return e;
}

/* --- coalescing ------------------------------------------------------------------------------- */

bool state_is_final(const char *state)
{
    return !strcmp(state, "SUCCESS") || !strcmp(state, "FAILURE") || !strcmp(state, "REVOKED");
}

static bool stays(const struct store_entry *earlier, const struct store_entry *later)
{
    const char *state = earlier->record.state;
    return !strcmp(state, "SUCCESS") ||
           (state_is_final(state) && !state_is_final(later->record.state));
}

static struct store_entry *merge(struct store_entry *earlier, struct store_entry *later)
{
    bool keep = stays(earlier, later);
    struct store_entry *winner = keep ? earlier : later, *loser = keep ? later : earlier;
    struct store_entry *last = loser->merged ? loser->merged_last : loser;
    last->merged = winner->merged;
    winner->merged_last = winner->merged ? winner->merged_last : last;
    winner->merged = loser;
    return winner;
}

static uint32_t hash(const char *id)
{
    uint32_t h = 2166136261u;
    for (; *id; id++)
        h = (h ^ (unsigned char)*id) * 16777619u;
    return h ^ (h >> 15);
}

size_t store_coalesce(struct store_entry **entries, size_t n)
{
    enum { SLOTS = 4096 };
    _Static_assert(STORE_BATCH < SLOTS / 2, "the table must stay sparse");
    uint16_t places[SLOTS] = {0}; /* index in entries + 1 */
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct store_entry *e = entries[i];
        size_t slot = hash(e->record.id) % SLOTS;
        while (places[slot] && strcmp(entries[places[slot] - 1]->record.id, e->record.id) != 0)
            slot = (slot + 1) % SLOTS;
        if (places[slot]) {
            entries[places[slot] - 1] = merge(entries[places[slot] - 1], e);
        } else {
            entries[kept++] = e;
            places[slot] = (uint16_t)kept;
        }
    }
    return kept;
}

/* --- the JSON form ---------------------------------------------------------------------------- */

bool record_text_succeeded(const char *text, size_t size)
{
    /* Every writer of these records puts the status first; Python with a space, others maybe not.
     */
    static const char *const starts[] = {"{\"status\": \"SUCCESS\"", "{\"status\":\"SUCCESS\""};
    for (size_t i = 0; i < 2; i++)
        if (size >= strlen(starts[i]) && !memcmp(text, starts[i], strlen(starts[i])))
            return true;
    return false;
}

bool stamp_is_allowed(struct slice name)
{
    static const char *const taken[] = {
        "status", "result",  "traceback", "children", "date_done", "group_id", "parent_id",
        "name",   "args",    "kwargs",    "worker",   "retries",   "queue",    "stamped_headers",
        "_id",    "task_id", "expires_at"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (name.size == strlen(taken[i]) && !memcmp(name.at, taken[i], name.size))
            return false;
    return true;
}

static void print_text(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, ", \"%s\": ", key);
    if (text)
        json_print_string(text, strlen(text), out);
    else
        buf_str(out, "null");
}

static void print_raw(struct buf *out, const char *key, const char *json, const char *fallback)
{
    buf_printf(out, ", \"%s\": ", key);
    buf_str(out, json ? json : fallback);
}

static int print_stamp(struct slice key, struct slice value, void *arg)
{
    struct buf *out = arg;
    if (!stamp_is_allowed(key))
        return 0;
    buf_str(out, ", \"");
    buf_add(out, key.at, key.size);
    buf_str(out, "\": ");
    buf_add(out, value.at, value.size);
    return 0;
}

static void print_extended(const struct store_record *r, struct buf *out)
{
    print_text(out, "name", r->name);
    print_raw(out, "args", r->args, "null");
    print_raw(out, "kwargs", r->kwargs, "null");
    print_text(out, "worker", r->worker);
    buf_printf(out, ", \"retries\": %lld", (long long)r->retries);
    print_text(out, "queue", r->queue);
    if (r->stamped_headers)
        print_raw(out, "stamped_headers", r->stamped_headers, "null");
    if (r->stamps)
        json_walk((struct slice){r->stamps, strlen(r->stamps)}, print_stamp, out, NULL);
}

int record_print(const struct store_record *r, struct buf *out, struct error *err)
{
    if (!utf8_is_valid(r->id, strlen(r->id)))
        return error_set(err, ERROR_INVALID, "the task id is not UTF-8");
    if (r->result.at && !utf8_is_valid(r->result.at, r->result.size))
        return error_set(err, ERROR_INVALID, "the result is not UTF-8");
    buf_str(out, "{\"status\": ");
    json_print_string(r->state, strlen(r->state), out);
    buf_str(out, ", \"result\": ");
    if (r->result.at)
        buf_add(out, r->result.at, r->result.size);
    else
        buf_str(out, "null");
    print_text(out, "traceback", r->traceback);
    print_raw(out, "children", r->children, "[]");
    char date[40];
    print_text(out, "date_done", r->date_done == TIME_NONE ? NULL : time_print(r->date_done, date));
    if (r->group_id)
        print_text(out, "group_id", r->group_id);
    if (r->parent_id)
        print_text(out, "parent_id", r->parent_id);
    if (r->extended)
        print_extended(r, out);
    print_text(out, "task_id", r->id);
    buf_char(out, '}');
    return out->failed ? error_set(err, ERROR_TOO_BIG, "the record exceeds %zu bytes", out->max)
                       : 0;
}
