/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/time.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

/* Settling and publishing. The one idea: a settlement is kept, with all it needs to be sent again, until
 * Redis has answered it; it removes its entry first and does nothing unless that removed something, so
 * sending it again is harmless.
 *
 * Plain ack: one LREM. A kill -9 before Redis runs it leaves the entry in flight: it is delivered again.
 * After it the message is gone, as it should be. Ack with effects: one script. Before it the entry is in
 * flight and nothing has been sent; after it the entry is gone and everything is sent. Nothing lies
 * between. Effects without a delivery: before, nothing; after, all of a batch. Their answer may be lost
 * with the connection; they are then sent again, so such an effect may happen twice. */

enum { BIG_ELEMENT = 16 * 1024, PUBLISH_BATCH = 256 };

/* How long it is remembered which parts have ended, and that the body has left: the first is only about
 * time, and the second outlasts the copies that a Python worker's visibility time-out makes. */
static const char *const PARTS_SECONDS = "86400", *const BODY_SECONDS = "7200";

/* --- argument lists --- */

void arguments_add(struct argument_list *list, const void *data, size_t size)
{
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 16;
        list->ends = mem_realloc(list->ends, (size_t)list->capacity * sizeof *list->ends);
    }
    buf_add(&list->bytes, data, size);
    list->ends[list->n++] = list->bytes.size;
}

void arguments_text(struct argument_list *list, const char *text)
{
    arguments_add(list, text, strlen(text));
}

const struct slice *arguments_seal(struct argument_list *list)
{
    if (list->slices)
        return list->slices;
    list->slices = mem_alloc((size_t)list->n * sizeof *list->slices);
    size_t from = 0;
    for (int i = 0; i < list->n; i++) {
        const char *at = list->bytes.data ? list->bytes.data + from : "";
        list->slices[i] = (struct slice){at, list->ends[i] - from};
        from = list->ends[i];
    }
    return list->slices;
}

void arguments_done(struct argument_list *list)
{
    buf_done(&list->bytes);
    free(list->ends);
    free(list->slices);
}

/* --- effects as arguments --- */

/* The message as a JSON string; in base64, and marked so, where a string would not give it back. */
static void dead_message(struct slice text, struct buf *out)
{
    struct buf string = BUF_INIT(SIZE_MAX / 4), back = BUF_INIT(SIZE_MAX / 4);
    json_print_string(text.at, text.size, &string);
    bool same = json_unquote((struct slice){string.data, string.size}, &back) == 0 &&
                back.size == text.size && memcmp(back.data ? back.data : "", text.at, text.size) == 0;
    if (same) {
        buf_add(out, string.data, string.size);
    } else {
        buf_char(out, '"');
        base64_encode(text, out);
        buf_str(out, "\", \"encoding\": \"base64\"");
    }
    buf_done(&string);
    buf_done(&back);
}

static struct slice dead_letter(struct channel *c, const struct effect *e)
{
    char at[40];
    struct buf out = BUF_INIT(SIZE_MAX / 4);
    const char *reason = e->reason ? e->reason : "";
    buf_str(&out, "{\"v\": 1, \"reason\": ");
    json_print_string(reason, strlen(reason), &out);
    buf_printf(&out, ", \"at\": \"%s\", \"queue\": ", time_print(clock_us(CLOCK_REALTIME), at));
    json_print_string(e->queue, strlen(e->queue), &out);
    buf_str(&out, ", \"worker\": ");
    json_print_string(c->node, strlen(c->node), &out);
    buf_str(&out, ", \"message\": ");
    dead_message(e->text, &out);
    buf_char(&out, '}');
    size_t size = out.size;
    return (struct slice){buf_take(&out), size};
}

static void key_add(struct argument_list *list, struct channel *c, const struct effect *e,
                    const char *kind)
{
    char *key = kind ? mem_printf("%s{%s}.cworker.%s", c->prefix, e->queue, kind)
                     : queue_key(c, e->queue, step_of(c, e->priority));
    arguments_text(list, key);
    free(key);
}

static void chord_key_add(struct argument_list *list, struct channel *c, const struct effect *e)
{
    char *key = mem_printf("%scworker.chord.%s", c->prefix, e->chord);
    arguments_text(list, key);
    free(key);
}

static void effect_keys(struct argument_list *list, struct channel *c, const struct effect *e)
{
    if (e->kind == EFFECT_DELAY) {
        key_add(list, c, e, "delayed");
        key_add(list, c, e, "delayed.msg");
        if (e->chord) {
            chord_key_add(list, c, e);
            key_add(list, c, e, NULL);
        }
    } else if (e->kind == EFFECT_PART || e->kind == EFFECT_BODY) {
        chord_key_add(list, c, e);
    } else if (e->kind == EFFECT_LEASE) {
        char *key = mem_printf("%s%.*s", c->prefix, (int)e->text.size, e->text.at);
        arguments_text(list, key);
        free(key);
    } else if (e->kind == EFFECT_RECORD || e->kind == EFFECT_FORGET) {
        char *key = outbox_key(c, e->queue);
        arguments_text(list, key);
        free(key);
    } else {
        key_add(list, c, e, e->kind == EFFECT_DEAD ? "dead" : NULL);
    }
}

/* The member's name is drawn here and not in the script: sent again, the effect lands on itself. */
static void delay_arguments(struct argument_list *list, struct channel *c, const struct effect *e)
{
    char *due = mem_printf("%lld", (long long)e->due);
    char *member = mem_printf("%s/%016llx", e->id ? e->id : "", (unsigned long long)c->nonce++);
    struct buf value = BUF_INIT(SIZE_MAX / 4);
    buf_printf(&value, "1 %d ", c->steps[step_of(c, e->priority)]);
    buf_add(&value, e->text.at, e->text.size);
    arguments_text(list, e->chord ? "Y" : "Z");
    arguments_text(list, due);
    arguments_text(list, member);
    arguments_add(list, value.data, value.size);
    if (e->chord) {
        char *n_parts = mem_printf("%lld", (long long)e->n_parts);
        arguments_text(list, PARTS_SECONDS);
        arguments_text(list, n_parts);
        free(n_parts);
    }
    buf_done(&value);
    free(member);
    free(due);
}

static void effect_arguments(struct argument_list *list, struct channel *c, const struct effect *e)
{
    if (e->kind == EFFECT_DELAY) {
        delay_arguments(list, c, e);
    } else if (e->kind == EFFECT_DEAD) {
        struct slice letter = dead_letter(c, e);
        arguments_text(list, "L");
        arguments_add(list, letter.at, letter.size);
        free((char *)letter.at);
    } else if (e->kind == EFFECT_RECORD || e->kind == EFFECT_FORGET) {
        char *field = outbox_field(e->id, e->tag);
        arguments_text(list, e->kind == EFFECT_RECORD ? "H" : "D");
        arguments_text(list, field);
        if (e->kind == EFFECT_RECORD)
            arguments_add(list, e->text.at, e->text.size);
        free(field);
    } else if (e->kind == EFFECT_LEASE) {
        char *ms = mem_printf("%lld", (long long)(e->due + 999) / 1000);
        arguments_text(list, "U");
        arguments_text(list, e->id);
        arguments_text(list, ms);
        free(ms);
    } else if (e->kind == EFFECT_PART || e->kind == EFFECT_BODY) {
        arguments_text(list, e->kind == EFFECT_PART ? "C" : "B");
        arguments_text(list, e->kind == EFFECT_PART ? PARTS_SECONDS : BODY_SECONDS);
    } else {
        arguments_text(list, e->kind == EFFECT_SEND ? "L" : "R");
        arguments_add(list, e->text.at, e->text.size);
    }
}

void effect_arguments_of(struct argument_list *keys, struct argument_list *rest, struct channel *c,
                         const struct effect *e)
{
    effect_keys(keys, c, e);
    effect_arguments(rest, c, e);
}

/* A big element is named by its sum and size instead of being sent back whole. */
static void element_arguments(struct argument_list *list, struct slice text)
{
    if (text.size <= BIG_ELEMENT) {
        arguments_text(list, "text");
        arguments_add(list, text.at, text.size);
        return;
    }
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[41], size[24];
    EVP_Digest(text.at, text.size, digest, NULL, EVP_sha1(), NULL);
    for (int i = 0; i < 20; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    snprintf(size, sizeof size, "%zu", text.size);
    arguments_text(list, "digest");
    arguments_text(list, hex);
    arguments_text(list, size);
}

static struct argument_list *script_arguments(struct channel *c, struct lane *lane, struct slice text,
                                              const struct effect *effects, size_t n)
{
    struct argument_list *list = mem_zalloc(sizeof *list);
    list->bytes = BUF_INIT(SIZE_MAX / 4);
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
        code = redis_run(c->redis, &script_settle, settlement_answered, s, s->script->n_keys,
                         s->script->n, arguments_seal(s->script));
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
    for (size_t i = 0; i < n; i++)
        if (effects[i].kind == EFFECT_DELAY && lane_find(c, effects[i].queue, 0))
            delayed_expect(c, effects[i].due - clock_us(CLOCK_REALTIME));
}

void channel_settle(struct channel *c, struct delivery *d, const struct effect *effects,
                    size_t n_effects, channel_settled_fn *fn, void *arg)
{
    if (!d->held) {
        settlement_new(c, NULL, (struct slice){0}, fn, arg)->lost = true;
        timer_arm(c->retry_timer, 0);
        return;
    }
    struct lane *lane = lane_find(c, d->queue, d->step);
    delivery_unlink(c, d);
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

/* Only while the delivery is ours: a worker that was paused must not write over its successor's. The
 * element goes whole, since it stays in the list. */
void settle_beside(struct channel *c, struct delivery *d, const struct effect *effect,
                   channel_settled_fn *fn, void *arg)
{
    struct settlement *s = settlement_new(c, NULL, (struct slice){0}, fn, arg);
    s->beside = true;
    if (!d->held) {
        s->lost = true;
        timer_arm(c->retry_timer, 0);
        return;
    }
    struct lane *lane = lane_find(c, d->queue, d->step);
    struct argument_list *list = mem_zalloc(sizeof *list);
    list->bytes = BUF_INIT(SIZE_MAX / 4);
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
