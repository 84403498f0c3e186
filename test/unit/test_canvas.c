/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures as nobody would write them: whatever a message's embed holds, what follows from it is
 * messages or an error, and never the end of the worker. ROUNDS=100000 tries more of them. */

#include "proto/base/mem.h"
#include "worker/continuation.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static unsigned pick(unsigned *seed, unsigned n)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % n;
}

static bool odd_too; /* else all that is there is a signature */

/* What stands where something else belongs. */
static void put_odd(unsigned *seed, struct buf *out)
{
    static const char *const odd[] = {"null", "5", "\"x\"", "[]", "{}", "true", "[null]", "[[]]",
                                      "{\"task\": 1}", "[5, {}]"};
    buf_str(out, odd[pick(seed, sizeof odd / sizeof *odd)]);
}

static void put_signature(unsigned *seed, int depth, struct buf *out);

static void put_list(unsigned *seed, int depth, struct buf *out)
{
    unsigned n = pick(seed, 4);
    buf_char(out, '[');
    for (unsigned i = 0; i < n; i++) {
        buf_str(out, i ? ", " : "");
        put_signature(seed, depth + 1, out);
    }
    buf_char(out, ']');
}

static void put_option(unsigned *seed, int depth, struct buf *out)
{
    static const char *const texts[] = {"task_id", "group_id", "root_id", "parent_id",  "queue",
                                        "shadow",  "eta",      "expires", "compression"};
    static const char *const lists[] = {"link", "link_error", "chain", "stamped_headers"};
    static const char *const others[] = {
        "group_index", "priority",    "countdown",     "headers",  "replaced_task_nesting",
        "time_limit",  "max_retries", "ignore_result", "interval",
    };
    unsigned kind = pick(seed, 4), i;
    if (kind == 0) {
        i = pick(seed, sizeof texts / sizeof *texts);
        buf_printf(out, "\"%s\": \"a%u\"", texts[i], pick(seed, 3));
    } else if (kind == 1) {
        i = pick(seed, sizeof lists / sizeof *lists);
        buf_printf(out, "\"%s\": ", lists[i]);
        if (pick(seed, 4))
            put_list(seed, depth + 1, out);
        else
            put_signature(seed, depth + 1, out);
    } else if (kind == 2) {
        buf_str(out, "\"chord\": ");
        put_signature(seed, depth + 1, out);
    } else {
        bool text = pick(seed, 2);
        buf_printf(out, "\"%s\": ", text ? texts[pick(seed, sizeof texts / sizeof *texts)]
                                         : others[pick(seed, sizeof others / sizeof *others)]);
        put_odd(seed, out);
    }
}

static void put_options(unsigned *seed, int depth, struct buf *out)
{
    unsigned n = pick(seed, 3);
    buf_str(out, ", \"options\": {");
    for (unsigned i = 0; i < n; i++) {
        buf_str(out, i ? ", " : "");
        put_option(seed, depth, out);
    }
    buf_char(out, '}');
}

static void put_signature(unsigned *seed, int depth, struct buf *out)
{
    static const char *const types[] = {"chain", "group", "chord"};
    unsigned kind = pick(seed, depth > 4 ? 2 : 8);
    if (kind == 0 && odd_too) {
        put_odd(seed, out);
        return;
    }
    if (kind < 4) {
        buf_str(out, "{\"task\": \"t\", \"subtask_type\": ");
        buf_str(out, pick(seed, 8) ? "null" : "\"odd\"");
    } else {
        unsigned type = pick(seed, 3);
        buf_printf(out, "{\"task\": \"celery.%s\", \"subtask_type\": \"%s\", \"kwargs\": ",
                   types[type], types[type]);
        if (odd_too && !pick(seed, 12)) {
            put_odd(seed, out);
        } else {
            buf_printf(out, "{\"%s\": ", type == 2 ? "header" : "tasks");
            if (!odd_too || pick(seed, 10))
                put_list(seed, depth + 1, out);
            else
                put_signature(seed, depth + 1, out);
            if (type == 2 && (!odd_too || pick(seed, 10))) {
                buf_str(out, ", \"body\": ");
                put_signature(seed, depth + 1, out);
            }
            buf_char(out, '}');
        }
    }
    if (pick(seed, 8))
        put_options(seed, depth, out);
    if (!pick(seed, 10)) {
        buf_str(out, ", \"args\": ");
        put_odd(seed, out);
    }
    if (!pick(seed, 6))
        buf_str(out, ", \"immutable\": true");
    buf_char(out, '}');
}

static void put_embed(unsigned *seed, struct buf *out)
{
    static const char *const lists[] = {"callbacks", "errbacks", "chain"};
    buf_str(out, "[[1], {}, {");
    for (int i = 0; i < 3; i++) {
        buf_printf(out, "%s\"%s\": ", i ? ", " : "", lists[i]);
        put_list(seed, 1, out);
    }
    buf_str(out, ", \"chord\": ");
    put_signature(seed, 1, out);
    buf_str(out, "}]");
}

static bool takes_error(const char *task)
{
    return task[0] == 't';
}

static struct continuation make(const struct message *m, struct canvas_ids *ids, unsigned *seed)
{
    struct continuation c;
    continuation_init(&c, m);
    *ids = (struct canvas_ids){m->id, "tag", NULL, 0};
    c.takes_error = pick(seed, 2) ? takes_error : NULL;
    c.canvas.ids = pick(seed, 2) ? ids : NULL;
    c.canvas.default_queue = "celery";
    c.canvas.now = 1700000000000000;
    c.canvas.counts_chords = pick(seed, 2);
    c.canvas.sends = cJSON_CreateArray();
    c.canvas.prepares = cJSON_CreateArray();
    c.canvas.children = pick(seed, 2) ? cJSON_CreateArray() : NULL;
    return c;
}

static void done(struct continuation *c)
{
    for (const cJSON *send = c->canvas.sends->child; send; send = send->next) {
        struct message m;
        const char *text = json_get_string(send, "text");
        assert_int_equal(message_decode(mem_dup(text), strlen(text), NULL, &m, NULL), 0);
        message_done(&m);
    }
    cJSON_Delete(c->canvas.sends);
    cJSON_Delete(c->canvas.prepares);
    cJSON_Delete(c->canvas.children);
}

static void follow(const struct message *m, unsigned *seed)
{
    struct canvas_ids ids;
    struct error err = {0};
    struct continuation c = make(m, &ids, seed);
    continuation_succeeded(&c, (struct slice){"5", 1}, &err);
    done(&c);
    c = make(m, &ids, seed);
    continuation_failed(&c, (struct slice){"{}", 2}, "traceback", &err);
    done(&c);
    cJSON_Delete(continuation_abandoned(m));
    cJSON_Delete(continuation_part(m));
}

/* What a task of ours sends, replaces itself by, or adds to its chord. */
static void apply(const struct message *m, unsigned *seed)
{
    struct canvas_ids ids;
    struct error err = {0};
    struct buf text = BUF_INIT(1 << 24);
    put_signature(seed, 0, &text);
    cJSON *signature = json_parse(text.data, text.size, &err), *ends = cJSON_CreateArray();
    assert_non_null(signature);
    struct continuation c = make(m, &ids, seed);
    canvas_apply(&c.canvas, signature, NULL, NULL, &err);
    continuation_replace(&c, signature, &err);
    continuation_add_to_chord(&c, signature, &err);
    continuation_call_errbacks(&c, signature, "id", (struct slice){0}, NULL, &err);
    continuation_ends(signature, ends);
    done(&c);
    cJSON_Delete(ends);
    cJSON_Delete(signature);
    buf_done(&text);
}

static void odd_signatures_end_no_worker(void **state)
{
    (void)state;
    int rounds = getenv("ROUNDS") ? atoi(getenv("ROUNDS")) : 5000;
    for (int i = 0; i < rounds; i++) {
        unsigned seed = (unsigned)i;
        odd_too = pick(&seed, 4) == 0;
        struct buf text = BUF_INIT(1 << 24);
        put_embed(&seed, &text);
        struct message m = {.id = "id", .task = "t", .group = pick(&seed, 2) ? "g" : NULL,
                            .group_index = (int)pick(&seed, 3) - 1,
                            .body = {text.data, text.size}};
        struct error err = {0};
        if (continuation_check(&m, &err) == 0) {
            follow(&m, &seed);
            if (m.group)
                apply(&m, &seed);
        }
        buf_done(&text);
    }
}

/* What a damaged child says is to be sent, or somebody wrote into the outbox. */
static void rows_that_are_none(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool sound, messages;
    } rows[] = {
        {"[]", true, true},
        {"[{\"queue\": \"q\", \"id\": \"i\", \"text\": \"t\", \"due\": null}]", true, true},
        {"[{\"revoke\": {\"ids\": [\"a\"]}}]", true, false},
        {"[{\"apply\": {\"task\": \"t\"}}]", true, false},
        {"{}", false, false},
        {"5", false, false},
        {"[1]", false, false},
        {"[{\"due\": 1}]", false, false},
        {"[{\"queue\": \"q\", \"id\": \"i\", \"text\": {}}]", false, false},
        {"[{\"revoke\": {}}]", false, false},
        {"[{\"revoke\": {\"ids\": [1]}}]", false, false},
        {"[{\"revoke\": {\"ids\": \"a\"}}]", false, false},
    };
    assert_false(canvas_rows_are_sound(NULL));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cJSON *list = json_parse(rows[i].text, strlen(rows[i].text), NULL);
        assert_int_equal(canvas_rows_are_sound(list), rows[i].sound);
        assert_int_equal(canvas_are_messages(list), rows[i].messages);
        cJSON_Delete(list);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(odd_signatures_end_no_worker),
                                       cmocka_unit_test(rows_that_are_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
