/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"
#include "proto/message.h"
#include "proto/uuid.h"

#include <stdlib.h>
#include <string.h>

/* Kombu's restore of `unacked`, run as Kombu's workers run it: what a Python worker took and did
 * not ack within the visibility timeout goes back to its queue. The one idea: the mutex only keeps
 * workers out of each other's way; what makes it safe is that each record goes by one script, which
 * looks whether it is still the same delivery, removes it and pushes it. Unlike Kombu, a record is
 * never removed without a push: one that is unreadable, or that no queue is bound for, goes to the
 * dead-letter list.
 *
 * A kill -9 before that script leaves the record where it was, and the mutex until it expires;
 * after it the message is in its queue. */

enum { BATCH = 100 };
static const double LONGEST_INTERVAL = 10;

struct restore {
    struct channel *c;
    struct record *first; /* records of this batch, without an answer */
    size_t n_batch, n_restored, n_total;
    unsigned era;
    char token[37];
};

struct record {
    struct record *next;
    struct restore *restore;
    char *tag, *score, *envelope, *exchange, *routing_key; /* envelope: as it is pushed */
    int step;
};

/* --- the end --- */

static void record_end(struct record *r)
{
    struct record **at = &r->restore->first;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    char *strings[] = {r->tag, r->score, r->envelope, r->exchange, r->routing_key};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        free(strings[i]);
    free(r);
}

static void restore_end(struct restore *restore)
{
    struct channel *c = restore->c;
    if (restore->n_total)
        note(c, false, "gave back %zu message(s) that were not acked within the visibility timeout",
             restore->n_total);
    redis_run(c->redis, &script_unlock, NULL, NULL, 1, 2,
              (struct slice[]){slice_of(c->unacked.mutex), slice_of(restore->token)});
    c->restoring = false;
    free(restore);
}

static void overdue_ask(struct restore *restore);

/* A full batch that moved something is followed by another one, up to the limit. */
static void batch_look(struct restore *restore)
{
    if (restore->first)
        return;
    struct channel *c = restore->c;
    bool more = restore->n_batch == BATCH && restore->n_restored && restore->era == c->era &&
                c->ready && !c->stopped;
    if (c->unacked.limit && restore->n_total >= c->unacked.limit)
        more = false;
    if (more)
        overdue_ask(restore);
    else
        restore_end(restore);
}

/* --- one record --- */

static void record_restored(const redisReply *reply, void *arg)
{
    struct record *r = arg;
    struct restore *restore = r->restore;
    note_error(restore->c, "restoring an unacked message", reply);
    if (reply && reply->type == REDIS_REPLY_INTEGER && reply->integer == 1) {
        restore->n_restored++;
        restore->n_total++;
    }
    record_end(r);
    batch_look(restore);
}

static void record_send(struct record *r, struct argument_list *keys, struct argument_list *rest)
{
    struct channel *c = r->restore->c;
    struct argument_list list = {.bytes = BUF_INIT(SIZE_MAX / 4)};
    arguments_text(&list, c->unacked.index);
    arguments_text(&list, c->unacked.hash);
    const struct slice *words = arguments_seal(keys);
    for (int i = 0; i < keys->n; i++)
        arguments_add(&list, words[i].at, words[i].size);
    list.n_keys = list.n;
    arguments_text(&list, r->tag);
    arguments_text(&list, r->score);
    words = arguments_seal(rest);
    for (int i = 0; i < rest->n; i++)
        arguments_add(&list, words[i].at, words[i].size);
    if (redis_run(c->redis, &script_restore, record_restored, r, list.n_keys, list.n,
                  arguments_seal(&list)))
        record_end(r);
    arguments_done(&list);
    arguments_done(keys);
    arguments_done(rest);
}

static void record_set_aside(struct record *r, struct slice text, const char *reason)
{
    struct channel *c = r->restore->c;
    struct argument_list keys = {.bytes = BUF_INIT(1 << 20)};
    struct argument_list rest = {.bytes = BUF_INIT(SIZE_MAX / 4)};
    const char *queue = c->queues[0]->name;
    struct effect dead = {.kind = EFFECT_DEAD, .queue = queue, .text = text, .reason = reason};
    note(c, true, "a message in %s is set aside in the dead-letter list of %s: %s", c->unacked.hash,
         queue, reason);
    effect_keys(&keys, c, &dead);
    effect_arguments(&rest, c, &dead);
    record_send(r, &keys, &rest);
}

static void target_add(struct record *r, struct argument_list *keys, struct argument_list *rest,
                       const char *queue)
{
    char *key = queue_key(r->restore->c, queue, r->step);
    arguments_text(keys, key);
    arguments_text(rest, "R");
    arguments_text(rest, r->envelope);
    free(key);
}

static const char *word_after(const char *word)
{
    word += strcspn(word, ".");
    return word + (*word == '.');
}

/* One word of a pattern, which is not `#`, and one of a key. */
static bool word_fits(const char *pattern, const char *key)
{
    size_t word = strcspn(pattern, "."), size = strcspn(key, ".");
    return *pattern && *key &&
           ((word == 1 && *pattern == '*') || (word == size && memcmp(pattern, key, size) == 0));
}

/* Does a routing key fit a topic's pattern? `*` is one word, `#` any number of them. Both are
 * strangers' texts: where words do not fit, the last `#` takes one more, and no earlier one has
 * to. */
static bool topic_fits(const char *pattern, const char *key)
{
    const char *after = NULL, *taken = NULL; /* behind the last `#`, and what that has taken */
    while (*pattern || *key) {
        if (*pattern == '#' && strcspn(pattern, ".") == 1) {
            pattern = after = word_after(pattern);
            taken = key;
        } else if (word_fits(pattern, key)) {
            pattern = word_after(pattern);
            key = word_after(key);
        } else if (after && *taken) {
            pattern = after;
            key = taken = word_after(taken);
        } else {
            return false;
        }
    }
    return true;
}

/* The queue of a member of a binding set, or NULL when the routing key does not fit it. */
static char *binding_queue(const redisReply *member, const char *routing_key)
{
    char *text = mem_ndup(member->str, member->len), *queue = NULL;
    char *pattern = strstr(text, KEY_SEPARATOR);
    char *name = pattern ? strstr(pattern + 2, KEY_SEPARATOR) : NULL;
    if (name && name[2]) {
        *pattern = '\0';
        if (strcmp(text, routing_key) == 0 || topic_fits(text, routing_key))
            queue = mem_dup(name + 2);
    }
    free(text);
    return queue;
}

static void bindings_read(const redisReply *reply, void *arg)
{
    struct record *r = arg;
    struct restore *restore = r->restore;
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        note_error(restore->c, "reading an exchange's bindings", reply);
        record_end(r);
        batch_look(restore);
        return;
    }
    struct argument_list keys = {.bytes = BUF_INIT(1 << 24)};
    struct argument_list rest = {.bytes = BUF_INIT(SIZE_MAX / 4)};
    for (size_t i = 0; i < reply->elements; i++) {
        char *queue = binding_queue(reply->element[i], r->routing_key);
        if (queue)
            target_add(r, &keys, &rest, queue);
        free(queue);
    }
    if (keys.n) {
        record_send(r, &keys, &rest);
    } else {
        char reason[300];
        snprintf(reason, sizeof reason, "no queue is bound to exchange %.100s for %.100s",
                 r->exchange, r->routing_key);
        record_set_aside(r, slice_of(r->envelope), reason);
        arguments_done(&keys);
        arguments_done(&rest);
    }
    batch_look(restore); /* the connection may have gone under the last one */
}

/* --- reading --- */

struct triple {
    struct slice part[3];
    int n;
};

static int triple_add(struct slice value, void *arg)
{
    struct triple *t = arg;
    if (t->n == 3)
        return ERROR_INVALID;
    t->part[t->n++] = value;
    return 0;
}

static char *name_read(struct slice raw)
{
    struct buf out = BUF_INIT(SIZE_MAX / 4);
    bool sound = json_unquote(raw, &out) == 0 && (!out.size || !memchr(out.data, '\0', out.size));
    char *name = sound ? mem_ndup(out.data ? out.data : "", out.size) : NULL;
    buf_done(&out);
    return name;
}

/* Kombu's record: [envelope, exchange, routing key]. */
static bool record_read(struct record *r, const redisReply *value)
{
    struct triple t = {0};
    int64_t priority = 0;
    if (json_walk_list((struct slice){value->str, value->len}, triple_add, &t, NULL) || t.n != 3)
        return false;
    r->envelope = message_encode_redelivered(t.part[0].at, t.part[0].size);
    r->exchange = name_read(t.part[1]);
    r->routing_key = name_read(t.part[2]);
    if (!r->envelope || !r->exchange || !r->routing_key || (!*r->exchange && !*r->routing_key))
        return false;
    cJSON *envelope = json_parse(r->envelope, strlen(r->envelope), NULL);
    json_as_int(json_get(json_get(envelope, "properties"), "priority"), &priority);
    cJSON_Delete(envelope);
    r->step = step_of(r->restore->c, priority < 0 ? 0 : priority > 9 ? 9 : (int)priority);
    return true;
}

static void record_start(struct restore *restore, const redisReply *tag, const redisReply *score,
                         const redisReply *value)
{
    struct channel *c = restore->c;
    struct record *r = mem_alloc(sizeof *r);
    *r = (struct record){.next = restore->first, .restore = restore,
                         .tag = mem_ndup(tag->str, tag->len),
                         .score = mem_ndup(score->str, score->len)};
    restore->first = r;
    if (!record_read(r, value)) {
        record_set_aside(r, (struct slice){value->str, value->len},
                         "unreadable record in Kombu's unacked");
    } else if (*r->exchange) {
        char *key = mem_printf("%s_kombu.binding.%s", c->prefix, r->exchange);
        if (redis_send(c->redis, bindings_read, r, 2,
                       (struct slice[]){slice_of("SMEMBERS"), slice_of(key)}))
            record_end(r);
        free(key);
    } else {
        struct argument_list keys = {.bytes = BUF_INIT(1 << 20)};
        struct argument_list rest = {.bytes = BUF_INIT(SIZE_MAX / 4)};
        target_add(r, &keys, &rest, r->routing_key);
        record_send(r, &keys, &rest);
    }
}

static void overdue_read(const redisReply *reply, void *arg)
{
    struct restore *restore = arg;
    bool usable = reply && reply->type == REDIS_REPLY_ARRAY;
    if (!usable)
        note_error(restore->c, "looking for unacked messages", reply);
    restore->n_batch = usable ? reply->elements / 3 : 0;
    restore->n_restored = 0;
    for (size_t i = 0; i < restore->n_batch; i++)
        record_start(restore, reply->element[3 * i], reply->element[3 * i + 1],
                     reply->element[3 * i + 2]);
    batch_look(restore);
}

static void overdue_ask(struct restore *restore)
{
    struct channel *c = restore->c;
    char timeout[32], most[24];
    size_t left = c->unacked.limit ? c->unacked.limit - restore->n_total : BATCH;
    snprintf(timeout, sizeof timeout, "%.6f", c->unacked.timeout);
    snprintf(most, sizeof most, "%zu", left < BATCH ? left : (size_t)BATCH);
    if (redis_run(c->redis, &script_overdue, overdue_read, restore, 2, 4,
                  (struct slice[]){slice_of(c->unacked.index), slice_of(c->unacked.hash),
                                   slice_of(timeout), slice_of(most)}))
        restore_end(restore);
}

static void mutex_answered(const redisReply *reply, void *arg)
{
    struct restore *restore = arg;
    struct channel *c = restore->c;
    note_error(c, "taking the mutex of unacked", reply);
    if (reply && reply->type == REDIS_REPLY_STATUS && restore->era == c->era) {
        overdue_ask(restore);
        return;
    }
    c->restoring = false;
    free(restore);
}

/* At each connection, and then every ten seconds, or more often where the timeout is short. */
void restore_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    if (!(c->unacked.timeout > 0))
        return;
    double interval = c->unacked.timeout / 4;
    timer_arm(c->restore_timer, interval < LONGEST_INTERVAL ? interval : LONGEST_INTERVAL);
    if (!c->ready || c->stopped || c->restoring)
        return;
    struct restore *restore = mem_zalloc(sizeof *restore);
    restore->c = c;
    restore->era = c->era;
    uuid_make(restore->token);
    char expire[32];
    snprintf(expire, sizeof expire, "%.0f", c->unacked.mutex_expire * 1000);
    c->restoring = redis_send(c->redis, mutex_answered, restore, 6,
                              (struct slice[]){slice_of("SET"), slice_of(c->unacked.mutex),
                                               slice_of(restore->token), slice_of("NX"),
                                               slice_of("PX"), slice_of(expire)}) == 0;
    if (!c->restoring)
        free(restore);
}
