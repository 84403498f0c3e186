/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/digest.h"

#include <stdlib.h>
#include <string.h>

/* Settling and publishing. The one idea: a settlement is kept, with all it needs to be sent again,
 * until Redis has answered it; it removes its entry first and does nothing unless that removed
 * something, so sending it again is harmless.
 *
 * Plain ack: one LREM. A kill -9 before Redis runs it leaves the entry in flight: it is delivered
 * again. After it the message is gone, as it should be. Ack with effects: one script. Before it the
 * entry is in flight and nothing has been sent; after it the entry is gone and everything is sent.
 * Nothing lies between. Effects without a delivery: before, nothing; after, all of a batch. Their
 * answer may be lost with the connection; they are then sent again, so such an effect may happen
 * twice. */

enum {
    BIG_ELEMENT = 16 * 1024,
    PUBLISH_BATCH = 256,
    BESIDE_TEXT = 256 /* bytes of keys and words of one effect, roughly */
};

/* --- a script's arguments --- */

/* A big element is named by its sum and size instead of being sent back whole. */
static void element_arguments(struct argument_list *list, struct slice text)
{
    if (text.size <= BIG_ELEMENT) {
        arguments_text(list, "text");
        arguments_add(list, text.at, text.size);
        return;
    }
    char hex[41], size[24];
    digest_sha1(text, hex);
    snprintf(size, sizeof size, "%zu", text.size);
    arguments_text(list, "digest");
    arguments_text(list, hex);
    arguments_text(list, size);
}

static struct argument_list *script_arguments(struct channel *c, struct lane *lane,
                                              struct slice text, const struct effect *effects,
                                              size_t n)
{
    struct argument_list *list = mem_zalloc(sizeof *list);
    size_t size = text.size + BESIDE_TEXT;
    for (size_t i = 0; i < n; i++)
        size += effects[i].text.size + BESIDE_TEXT;
    list->bytes = BUF_INIT(SIZE_MAX / 4);
    buf_reserve(&list->bytes, size);
    if (lane)
        arguments_add(list, lane->inflight.at, lane->inflight.size);
    else
        arguments_text(list, c->registry_key);
    for (size_t i = 0; i < n; i++)
        effect_keys(list, c, &effects[i]);
    list->n_keys = list->n;
    if (lane)
        element_arguments(list, text);
    else
        arguments_text(list, "none");
    for (size_t i = 0; i < n; i++)
        effect_arguments(list, c, &effects[i]);
    return list;
}

/* --- settlements --- */

static struct settlement *settlement_new(struct channel *c, struct lane *lane, struct slice text,
                                         channel_settled_fn *fn, void *arg)
{
    struct settlement *s = mem_alloc(sizeof *s + text.size);
    *s = (struct settlement){.c = c, .lane = lane, .fn = fn, .arg = arg, .prev = c->settling_last};
    if (text.size)
        memcpy(s + 1, text.at, text.size);
    s->text = (struct slice){(char *)(s + 1), text.size};
    if (c->settling_last)
        c->settling_last->next = s;
    else
        c->settling = s;
    c->settling_last = s;
    if (lane)
        lane->n_settling++;
    return s;
}

void settlement_finish(struct settlement *s, int code)
{
    struct channel *c = s->c;
    if (s->prev)
        s->prev->next = s->next;
    else
        c->settling = s->next;
    if (s->next)
        s->next->prev = s->prev;
    else
        c->settling_last = s->prev;
    if (s->lane && !s->lost)
        s->lane->n_settling--;
    channel_settled_fn *fn = s->fn;
    void *arg = s->arg;
    if (s->script)
        arguments_done(s->script);
    free(s->script);
    free(s);
    if (fn)
        fn(code, arg);
}

static void settlement_answered(const redisReply *reply, void *arg)
{
    struct settlement *s = arg;
    s->asked = false;
    if (!reply) {
        s->unheard = true;
        return;
    }
    if (reply->type != REDIS_REPLY_INTEGER) {
        note_error(s->c, "settling a message, will be tried again", reply);
        timer_arm(s->c->retry_timer, 1);
        return;
    }
    bool certain = !s->lane && !s->beside;
    bool done = reply->integer > 0 || certain || (s->unheard && !s->beside);
    if (!done && s->beside) /* its owner hears of it here, and may free it */
        delivery_unlink(s->beside);
    if (done && s->c->wait_replicas)
        replicas_await(s);
    else
        settlement_finish(s, done ? 0 : ERROR_LOST);
}

static void settlement_send(struct settlement *s)
{
    struct channel *c = s->c;
    if (!c->ready || s->asked || s->lost || s->awaiting)
        return;
    int code;
    if (s->script)
        code = redis_run_kept(c->redis, &script_settle, settlement_answered, s,
                              s->script->n_keys, s->script->n, arguments_seal(s->script));
    else
        code = redis_send(c->redis, settlement_answered, s, 4,
                          (struct slice[]){slice_of("LREM"), s->lane->inflight, slice_of("-1"),
                                           s->text});
    s->asked = code == 0;
}

void settle_resend(struct channel *c)
{
    for (struct settlement *s = c->settling; s; s = s->next)
        settlement_send(s);
}

/* Also says LOST, from the loop and not from within channel_settle, for what was lost before. */
void settle_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    for (bool found = true; found;) {
        struct settlement *s = c->settling;
        while (s && !s->lost)
            s = s->next;
        found = s != NULL;
        if (s)
            settlement_finish(s, ERROR_LOST);
    }
    if (c->ready) {
        settle_resend(c);
        queues_register(c);
    } else {
        recover_start(c);
    }
}

void settle_abandon(struct channel *c)
{
    while (c->settling)
        settlement_finish(c->settling, ERROR_UNAVAILABLE);
}

static void delays_expect(struct channel *c, const struct effect *effects, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct lane *lane =
            effects[i].kind == EFFECT_DELAY ? lane_find(c, effects[i].queue, 0) : NULL;
        if (lane)
            delayed_expect(lane->queue, effects[i].due - clock_us(CLOCK_REALTIME));
    }
}

void channel_settle(struct channel *c, struct delivery *d, const struct effect *effects,
                    size_t n_effects, channel_settled_fn *fn, void *arg)
{
    if (!d->held) {
        settlement_new(c, NULL, (struct slice){0}, fn, arg)->lost = true;
        timer_arm(c->retry_timer, 0);
        return;
    }
    struct lane *lane = d->lane;
    delivery_unlink(d);
    struct settlement *s = settlement_new(c, lane, d->text, fn, arg);
    if (n_effects || d->text.size > BIG_ELEMENT)
        s->script = script_arguments(c, lane, d->text, effects, n_effects);
    settlement_send(s);
    delays_expect(c, effects, n_effects);
}

void channel_publish(struct channel *c, const struct effect *effects, size_t n_effects,
                     channel_settled_fn *fn, void *arg)
{
    size_t at = 0;
    do {
        size_t n = n_effects - at < PUBLISH_BATCH ? n_effects - at : PUBLISH_BATCH;
        bool last = at + n == n_effects;
        struct settlement *s =
            settlement_new(c, NULL, (struct slice){0}, last ? fn : NULL, last ? arg : NULL);
        s->script = script_arguments(c, NULL, s->text, effects + at, n);
        settlement_send(s);
        at += n;
    } while (at < n_effects);
    delays_expect(c, effects, n_effects);
}

/* Only while the delivery is ours: a worker that was paused must not write over its successor's.
 * The element goes whole, since it stays in the list. */
void settle_beside(struct channel *c, struct delivery *d, const struct effect *effect,
                   channel_settled_fn *fn, void *arg)
{
    struct settlement *s = settlement_new(c, NULL, (struct slice){0}, fn, arg);
    s->beside = d;
    if (!d->held) {
        s->lost = true;
        timer_arm(c->retry_timer, 0);
        return;
    }
    struct lane *lane = d->lane;
    struct argument_list *list = mem_zalloc(sizeof *list);
    list->bytes = BUF_INIT(SIZE_MAX / 4);
    buf_reserve(&list->bytes, d->text.size + effect->text.size + 2 * BESIDE_TEXT);
    arguments_add(list, lane->inflight.at, lane->inflight.size);
    effect_keys(list, c, effect);
    list->n_keys = list->n;
    arguments_text(list, "held");
    arguments_add(list, d->text.at, d->text.size);
    effect_arguments(list, c, effect);
    s->script = list;
    settlement_send(s);
}

void settle_dead(struct lane *lane, struct slice text, const char *reason)
{
    struct channel *c = lane->c;
    struct effect dead = {.kind = EFFECT_DEAD, .queue = lane->queue->name, .text = text,
                          .reason = reason};
    struct settlement *s = settlement_new(c, lane, text, NULL, NULL);
    s->script = script_arguments(c, lane, text, &dead, 1);
    settlement_send(s);
}
