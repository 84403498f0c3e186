/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/time.h"

#include <stdlib.h>
#include <string.h>

/* Effects as keys and arguments: the caller's side of what script_settle and script_restore do. */

/* How long it is remembered which parts have ended, and that the body has left: the first is only
 * about time, and the second outlasts the copies that a Python worker's visibility time-out
 * makes. */
static const char *const PARTS_SECONDS = "86400", *const BODY_SECONDS = "7200";

/* The message as a JSON string; in base64, and marked so, where a string would not give it back. */
static void dead_message(struct slice text, struct buf *out)
{
    struct buf string = BUF_INIT(SIZE_MAX / 4), back = BUF_INIT(SIZE_MAX / 4);
    json_print_string(text.at, text.size, &string);
    bool same = json_unquote((struct slice){string.data, string.size}, &back) == 0 &&
                back.size == text.size &&
                memcmp(back.data ? back.data : "", text.at, text.size) == 0;
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

void effect_keys(struct argument_list *list, struct channel *c, const struct effect *e)
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

void effect_arguments(struct argument_list *list, struct channel *c, const struct effect *e)
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
        if (e->kind == EFFECT_RECORD) { /* it may be large, and is copied once */
            buf_printf(&list->bytes, "%d ", OUTBOX_VERSION);
            arguments_add(list, e->text.at, e->text.size);
        }
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
