/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"
#include "proto/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Brings delayed messages forward, by their task ids or their stamps, so that a revoked task does
 * not wait for its ETA. The one idea: their due time becomes 0, and promotion does the rest;
 * whoever takes one meets the revoked set. The sets are searched in pieces, by one worker of the
 * fleet for each list of ids.
 *
 * A worker that has not heard of it yet may be delaying such a message just then: whoever has
 * searched searches again a second later.
 *
 * A search looks at all that is delayed. So one is under way at a time, and takes along what has
 * come meanwhile: who revokes a thousand tasks one by one causes a few searches and not a thousand.
 *
 * A search whose connection is lost begins anew on the next one; so does one whose claim was not
 * heard of, since the claim may be its own.
 *
 * A stamp is looked for as text in the message: what only looks like it is taken, found not to be
 * revoked, and delayed again until its ETA.
 *
 * A kill -9 anywhere leaves each message delayed, due now or later: none is ever outside its
 * set. */

enum { SCAN_COUNT = 1000, CLAIM_SECONDS = 10 };
static const int64_t AGAIN_AFTER = 1000000;

struct hasten {
    STAILQ_ENTRY(hasten) link; /* while it waits for its turn, or for its second search */
    struct channel *c;
    struct queue *queue;
    int64_t again_at; /* boot-time µs; 0: this is the first one */
    char *set, **ids; /* sorted; of stamps: the values, as JSON */
    size_t n_ids;
    char *header; /* whose stamps these are, as JSON; NULL: task ids */
};

/* KEYS delayed set, hash. ARGV cursor, count, header, values. Answers the next cursor and how many
 * are due now. */
static struct redis_script script_hasten_stamped = {
    .body = "#!lua flags=allow-oom\n"
            "local page = redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[2])\n"
            "local n = 0\n"
            "for i = 1, #page[2], 2 do\n"
            "  local text, found = page[2][i + 1], false\n"
            "  if string.find(text, '\"stamped_headers\"', 1, true) and\n"
            "     string.find(text, ARGV[3], 1, true) then\n"
            "    for v = 4, #ARGV do\n"
            "      if string.find(text, ARGV[v], 1, true) then found = true break end\n"
            "    end\n"
            "  end\n"
            "  if found then n = n + redis.call('ZADD', KEYS[1], 'XX', 'CH', 0, page[2][i]) end\n"
            "end\n"
            "return {page[1], n}"};

static void hasten_free(struct hasten *h)
{
    for (size_t i = 0; i < h->n_ids; i++)
        free(h->ids[i]);
    free(h->ids);
    free(h->header);
    free(h->set);
    free(h);
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_ids(struct hasten *h)
{
    qsort(h->ids, h->n_ids, sizeof *h->ids, compare_ids);
}

/* --- turns --- */

static int scan(struct hasten *h, const char *cursor);

static bool is_alike(const struct hasten *a, const struct hasten *b)
{
    bool header = a->header && b->header ? strcmp(a->header, b->header) == 0 : a->header == b->header;
    return header && !a->again_at == !b->again_at && a->queue == b->queue;
}

/* What waits for the same search: its ids are looked for together with these. */
static void take_along(struct hasten *h)
{
    for (struct hasten *other = STAILQ_FIRST(&h->c->to_search), *next; other; other = next) {
        next = STAILQ_NEXT(other, link);
        if (!is_alike(h, other))
            continue;
        STAILQ_REMOVE(&h->c->to_search, other, hasten, link);
        h->ids = mem_realloc(h->ids, (h->n_ids + other->n_ids) * sizeof *h->ids);
        memcpy(h->ids + h->n_ids, other->ids, other->n_ids * sizeof *h->ids);
        h->n_ids += other->n_ids;
        other->n_ids = 0;
        hasten_free(other);
    }
    sort_ids(h);
}

static void search_next(struct channel *c)
{
    struct hasten *h = STAILQ_FIRST(&c->to_search);
    if (c->searching || !c->ready || !h)
        return;
    STAILQ_REMOVE_HEAD(&c->to_search, link);
    take_along(h);
    if (scan(h, "0") == 0)
        c->searching = true;
    else
        STAILQ_INSERT_HEAD(&c->to_search, h, link);
}

static void search_queue(struct hasten *h)
{
    struct channel *c = h->c;
    STAILQ_INSERT_TAIL(&c->to_search, h, link);
    search_next(c);
}

/* Until there is a connection again. */
static void search_put_off(struct hasten *h)
{
    h->c->searching = false;
    STAILQ_INSERT_HEAD(&h->c->to_search, h, link);
}

void hasten_go_on(struct channel *c)
{
    search_next(c);
}

/* `again`: it went through, and is due for a second one if this was the first. */
static void search_end(struct hasten *h, bool again)
{
    struct channel *c = h->c;
    if (again && !h->again_at) {
        h->again_at = time_boot() + AGAIN_AFTER;
        if (STAILQ_EMPTY(&c->hastened))
            timer_arm(c->hasten_timer, (double)AGAIN_AFTER / 1e6);
        STAILQ_INSERT_TAIL(&c->hastened, h, link);
    } else {
        hasten_free(h);
    }
    c->searching = false;
    search_next(c);
}

/* --- one search --- */

/* After a page: the next one, until the cursor is 0 again. */
static void search_go_on(struct hasten *h, const char *cursor)
{
    if (strcmp(cursor, "0") == 0)
        search_end(h, true);
    else if (scan(h, cursor) < 0)
        search_put_off(h);
}

/* A member is "id/nonce". */
static bool is_wanted(const struct hasten *h, const redisReply *member)
{
    const char *end = member->str ? strrchr(member->str, '/') : NULL;
    if (!end)
        return false;
    char *id = mem_ndup(member->str, (size_t)(end - member->str));
    bool wanted = bsearch(&id, h->ids, h->n_ids, sizeof *h->ids, compare_ids) != NULL;
    free(id);
    return wanted;
}

static void scanned(const redisReply *reply, void *arg)
{
    struct hasten *h = arg;
    if (!reply) {
        search_put_off(h);
        return;
    }
    bool usable = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
                  reply->element[0]->str && reply->element[1]->type == REDIS_REPLY_ARRAY;
    if (!usable) {
        search_end(h, false);
        return;
    }
    const redisReply *members = reply->element[1];
    for (size_t i = 0; i + 1 < members->elements; i += 2)
        if (is_wanted(h, members->element[i])) {
            struct slice argv[] = {slice_of("ZADD"),
                                   slice_of(h->set),
                                   slice_of("XX"),
                                   slice_of("0"),
                                   {members->element[i]->str, members->element[i]->len}};
            redis_send(h->c->redis, NULL, NULL, 5, argv);
            delayed_expect(h->queue, 0);
        }
    search_go_on(h, reply->element[0]->str);
}

static void scanned_stamped(const redisReply *reply, void *arg)
{
    struct hasten *h = arg;
    if (!reply) {
        search_put_off(h);
        return;
    }
    bool usable = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
                  reply->element[0]->str;
    if (!usable) {
        search_end(h, false);
        return;
    }
    if (reply->element[1]->integer > 0)
        delayed_expect(h->queue, 0);
    search_go_on(h, reply->element[0]->str);
}

static int scan_stamped(struct hasten *h, const char *cursor)
{
    struct argument_list list = {.bytes = BUF_INIT(SIZE_MAX / 4)};
    char *hash = mem_printf("%s.msg", h->set), count[16];
    snprintf(count, sizeof count, "%d", SCAN_COUNT);
    const char *const words[] = {h->set, hash, cursor, count, h->header};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        arguments_text(&list, words[i]);
    for (size_t i = 0; i < h->n_ids; i++)
        arguments_text(&list, h->ids[i]);
    int code = redis_run(h->c->redis, &script_hasten_stamped, scanned_stamped, h, 2, list.n,
                         arguments_seal(&list));
    arguments_done(&list);
    free(hash);
    return code;
}

/* Non-zero: there is no connection, and nothing will be heard. */
static int scan(struct hasten *h, const char *cursor)
{
    return h->header ? scan_stamped(h, cursor)
                     : redis_sendf(h->c->redis, scanned, h, "ZSCAN %s %s COUNT %d", h->set, cursor,
                                   SCAN_COUNT);
}

void hasten_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    struct hasten *h;
    int64_t now = time_boot();
    while ((h = STAILQ_FIRST(&c->hastened)) && h->again_at <= now) {
        STAILQ_REMOVE_HEAD(&c->hastened, link);
        STAILQ_INSERT_TAIL(&c->to_search, h, link);
    }
    search_next(c);
    if (h)
        timer_arm(c->hasten_timer, (double)(h->again_at - now) / 1e6);
}

void hasten_forget_all(struct channel *c)
{
    struct hasten *h;
    STAILQ_CONCAT(&c->hastened, &c->to_search);
    while ((h = STAILQ_FIRST(&c->hastened))) {
        STAILQ_REMOVE_HEAD(&c->hastened, link);
        hasten_free(h);
    }
}

static void claimed(const redisReply *reply, void *arg)
{
    struct hasten *h = arg;
    if (!reply)
        search_put_off(h);
    else if (reply->type == REDIS_REPLY_STATUS)
        search_queue(h);
    else
        hasten_free(h);
}

static void claim(struct hasten *h)
{
    char hex[41];
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    buf_printf(&text, "%s\n%s", h->set, h->header ? h->header : "");
    for (size_t i = 0; i < h->n_ids; i++)
        buf_printf(&text, "\n%s", h->ids[i]);
    digest_sha1((struct slice){text.data, text.size}, hex);
    buf_done(&text);
    if (redis_sendf(h->c->redis, claimed, h, "SET %scworker.hasten.%s %s NX EX %d", h->c->prefix,
                    hex, h->c->node, CLAIM_SECONDS) < 0)
        search_queue(h);
}

static void search(struct channel *c, const char *header, const char *const *ids, size_t n)
{
    for (int q = 0; q < c->n_queues && n > 0; q++) {
        struct hasten *h = mem_zalloc(sizeof *h);
        h->c = c;
        h->queue = c->queues[q];
        h->header = header ? mem_dup(header) : NULL;
        h->set = mem_printf("%s{%s}.cworker.delayed", c->prefix, h->queue->name);
        h->ids = mem_alloc(n * sizeof *h->ids);
        for (h->n_ids = 0; h->n_ids < n; h->n_ids++)
            h->ids[h->n_ids] = mem_dup(ids[h->n_ids]);
        sort_ids(h);
        claim(h);
    }
}

void channel_hasten(struct channel *c, const char *const *ids, size_t n)
{
    search(c, NULL, ids, n);
}

void channel_hasten_stamped(struct channel *c, const char *header, const char *const *values,
                            size_t n)
{
    search(c, header, values, n);
}
