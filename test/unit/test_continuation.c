/* SPDX-License-Identifier: Apache-2.0 */
/* What follows a task: real producers' messages in, the messages that must follow out. */

#include "proto/base/mem.h"
#include "worker/continuation.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static void load(const char *name, struct message *m)
{
    char *path = mem_printf("%s/celery-5.6.3/%s.json", getenv("GOLDEN") ?: "test/golden", name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    struct buf text = BUF_INIT(1 << 24);
    char chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
        buf_add(&text, chunk, n);
    fclose(file);
    cJSON *golden = json_parse(text.data, text.size, NULL);
    const char *raw = json_get_string(json_get(golden, "elements")->child, "raw");
    struct error err = {0};
    assert_int_equal(message_decode(mem_dup(raw), strlen(raw), NULL, m, &err), 0);
    cJSON_Delete(golden);
    buf_done(&text);
    free(path);
}

/* The n-th message that follows, decoded. */
static void sent(const cJSON *sends, int n, struct message *m)
{
    const char *text = json_get_string(cJSON_GetArrayItem(sends, n), "text");
    struct error err = {0};
    assert_non_null(text);
    assert_int_equal(message_decode(mem_dup(text), strlen(text), NULL, m, &err), 0);
}

static cJSON *body_of(const struct message *m)
{
    cJSON *body = json_parse(m->body.at, m->body.size, NULL);
    assert_non_null(body);
    return body;
}

static struct continuation make(const struct message *m)
{
    struct continuation c;
    continuation_init(&c, m);
    c.canvas.default_queue = "celery";
    c.canvas.now = 1700000000000000;
    c.canvas.counts_chords = true;
    c.canvas.sends = cJSON_CreateArray();
    c.canvas.prepares = cJSON_CreateArray();
    return c;
}

static void done(struct continuation *c)
{
    cJSON_Delete(c->canvas.sends);
    cJSON_Delete(c->canvas.prepares);
}

static void a_plain_task_is_followed_by_nothing(void **state)
{
    (void)state;
    struct message m;
    load("priority-5", &m);
    assert_true(continuation_is_empty(&m));
    struct continuation c = make(&m);
    assert_int_equal(continuation_succeeded(&c, (struct slice){"5", 1}, NULL), 0);
    assert_int_equal(cJSON_GetArraySize(c.canvas.sends), 0);
    done(&c);
    message_done(&m);
}

static void a_chain_goes_on_with_its_last_element_and_the_rest(void **state)
{
    (void)state;
    struct message m, next;
    load("chain-3", &m);
    assert_false(continuation_is_empty(&m));
    cJSON *before = body_of(&m);
    const cJSON *chain = json_get(cJSON_GetArrayItem(before, 2), "chain");
    const cJSON *step = cJSON_GetArrayItem(chain, cJSON_GetArraySize(chain) - 1);
    struct continuation c = make(&m);
    assert_int_equal(continuation_succeeded(&c, (struct slice){"5", 1}, NULL), 0);
    assert_int_equal(cJSON_GetArraySize(c.canvas.sends), 1);
    sent(c.canvas.sends, 0, &next);
    assert_string_equal(next.id, json_get_string(json_get(step, "options"), "task_id"));
    assert_string_equal(next.task, json_get_string(step, "task"));
    assert_string_equal(next.root_id, m.root_id);
    assert_string_equal(next.parent_id, m.id);
    cJSON *after = body_of(&next);
    assert_int_equal(cJSON_GetArrayItem(after, 0)->child->valueint, 5);
    assert_int_equal(cJSON_GetArraySize(json_get(cJSON_GetArrayItem(after, 2), "chain")),
                     cJSON_GetArraySize(chain) - 1);
    cJSON_Delete(before);
    cJSON_Delete(after);
    done(&c);
    message_done(&m);
    message_done(&next);
}

static void the_rest_of_a_failed_chain_is_named(void **state)
{
    (void)state;
    struct message m;
    load("chain-3", &m);
    cJSON *ids = continuation_abandoned(&m);
    assert_int_equal(cJSON_GetArraySize(ids), 2);
    cJSON_Delete(ids);
    message_done(&m);
}

static void several_callbacks_are_one_group(void **state)
{
    (void)state;
    struct message m, first, second;
    load("link-many", &m);
    struct continuation c = make(&m);
    assert_int_equal(continuation_succeeded(&c, (struct slice){"5", 1}, NULL), 0);
    assert_true(cJSON_GetArraySize(c.canvas.sends) >= 2);
    sent(c.canvas.sends, 0, &first);
    sent(c.canvas.sends, 1, &second);
    assert_string_equal(first.group, second.group);
    assert_int_equal(first.group_index, 0);
    assert_int_equal(second.group_index, 1);
    done(&c);
    message_done(&m);
    message_done(&first);
    message_done(&second);
}

static void an_errback_gets_the_failed_id(void **state)
{
    (void)state;
    struct message m, errback;
    load("link-error", &m);
    struct continuation c = make(&m);
    assert_int_equal(continuation_failed(&c, (struct slice){0}, NULL, NULL), 0);
    sent(c.canvas.sends, 0, &errback);
    cJSON *body = body_of(&errback);
    assert_string_equal(cJSON_GetArrayItem(body, 0)->child->valuestring, m.id);
    cJSON_Delete(body);
    done(&c);
    message_done(&m);
    message_done(&errback);
}

static void a_group_before_a_step_is_a_chord(void **state)
{
    (void)state;
    struct message m, part;
    load("group-in-chain", &m);
    struct continuation c = make(&m);
    assert_int_equal(continuation_succeeded(&c, (struct slice){"5", 1}, NULL), 0);
    int n = cJSON_GetArraySize(c.canvas.sends);
    assert_true(n > 1);
    const cJSON *size = c.canvas.prepares->child;
    assert_int_equal(json_get(size, "size")->valueint, n);
    char *group = mem_dup(json_get_string(size, "group"));
    for (int i = 0; i < n; i++) {
        sent(c.canvas.sends, i, &part);
        assert_string_equal(part.group, group);
        assert_int_equal(part.group_index, i);
        cJSON *body = body_of(&part);
        const cJSON *chord = json_get(cJSON_GetArrayItem(body, 2), "chord");
        assert_non_null(json_get_string(json_get(chord, "options"), "task_id"));
        assert_int_equal(cJSON_GetArrayItem(body, 0)->child->valueint, 5);
        cJSON_Delete(body);
        message_done(&part);
    }
    free(group);
    done(&c);
    message_done(&m);
}

static cJSON *signature(const char *format, ...)
{
    va_list args;
    char text[1024];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cJSON *tree = json_parse(text, strlen(text), NULL);
    assert_non_null(tree);
    return tree;
}

#define CHAIN(tasks)                                                                               \
    "{\"task\": \"celery.chain\", \"subtask_type\": \"chain\", \"kwargs\": {\"tasks\": ["               \
    tasks "]}, \"options\": {\"link\": [{\"task\": \"t\"}]}}"

static void members_of_a_body_have_the_chords_root(void **state)
{
    (void)state;
    static const char text[] =
        "[[1], {}, {\"callbacks\": [{\"task\": \"celery.chord\", \"subtask_type\": \"chord\", "
        "\"kwargs\": {\"header\": [{\"task\": \"t\"}], "
        "\"body\": {\"task\": \"celery.group\", \"subtask_type\": \"group\", \"kwargs\": "
        "{\"tasks\": [{\"task\": \"t\"}, {\"task\": \"t\"}, {\"task\": \"t\"}]}}}}]}]";
    struct message m = {.id = "2b8ebb86-4d8f-4a7c-bf41-4e0d0a4b3a10",
                        .task = "t",
                        .group_index = -1,
                        .root_id = "5f0a4a8c-0b8e-4b6c-8d52-9d6ad1c1f0b7",
                        .body = {text, sizeof text - 1}};
    struct message part;
    struct continuation c = make(&m);
    assert_int_equal(continuation_succeeded(&c, (struct slice){"5", 1}, NULL), 0);
    sent(c.canvas.sends, 0, &part);
    cJSON *body = body_of(&part);
    const cJSON *members = canvas_tasks(json_get(cJSON_GetArrayItem(body, 2), "chord")), *member;
    assert_int_equal(cJSON_GetArraySize(members), 3);
    cJSON_ArrayForEach(member, members)
        assert_string_equal(json_get_string(json_get(member, "options"), "root_id"), m.root_id);
    cJSON_Delete(body);
    message_done(&part);
    done(&c);
}

/* Celery, too, forgets a chain's own mark on the way. */
static void an_immutable_chain_hands_the_result_to_its_first(void **state)
{
    (void)state;
    static const char text[] =
        "[[1], {}, {\"callbacks\": [{\"task\": \"celery.chain\", \"subtask_type\": \"chain\", "
        "\"immutable\": true, \"kwargs\": {\"tasks\": [{\"task\": \"t\", \"args\": [2]}]}}]}]";
    struct message m = {.id = "id", .task = "t", .body = {text, sizeof text - 1}}, first;
    struct continuation c = make(&m);
    assert_int_equal(continuation_succeeded(&c, (struct slice){"5", 1}, NULL), 0);
    sent(c.canvas.sends, 0, &first);
    assert_memory_equal(first.body.at, "[[5, 2], ", 9);
    message_done(&first);
    done(&c);
}

/* The body of a chord is told its header's group. */
static void what_replaces_a_body_stays_in_its_group(void **state)
{
    (void)state;
    static const char text[] = "[[], {}, {\"chain\": [{\"task\": \"t\", \"options\": {\"task_id\": "
                               "\"last\"}}]}]";
    struct message m = {.id = "id", .task = "t", .group = "g", .group_index = -1,
                        .body = {text, sizeof text - 1}}, next;
    struct continuation c = make(&m);
    cJSON *instead = signature("{\"task\": \"t\", \"options\": {}}");
    assert_int_equal(continuation_replace(&c, instead, NULL), 0);
    sent(c.canvas.sends, 0, &next);
    assert_string_equal(next.id, "id");
    assert_string_equal(next.group, "g");
    cJSON_Delete(instead);
    message_done(&next);
    done(&c);
}

/* More would be deeper than anybody reads, and each step would cost as much as all before it. */
static void the_last_of_a_long_chain_knows_its_nearest_ancestors(void **state)
{
    (void)state;
    enum { STEPS = 20000 };
    cJSON *chain = signature(CHAIN("")), *steps = canvas_tasks(chain);
    for (int i = 0; i < STEPS; i++) {
        cJSON *inner = i % 2 ? signature(CHAIN("")) : NULL;
        cJSON *step = signature("{\"task\": \"t\", \"options\": {\"task_id\": \"%d\"}}", i);
        if (inner)
            cJSON_AddItemToArray(canvas_tasks(inner), step);
        cJSON_AddItemToArray(steps, inner ? inner : step);
    }
    cJSON *tuple = canvas_freeze(chain, NULL, NULL, NULL);
    int n = 0;
    for (const cJSON *at = tuple; cJSON_IsArray(at); at = at->child->child->next, n++)
        assert_int_equal(strtol(at->child->child->valuestring, NULL, 10), STEPS - 1 - n);
    assert_in_range(n, 50, 200);
    cJSON_Delete(tuple);
    cJSON_Delete(chain);
}

/* --- as many of everything as a producer likes --- */

enum { MANY = 20000 };

/* one, one, …: in each # is its number. */
static void put_many(struct buf *out, const char *one, int n)
{
    for (int i = 0; i < n; i++) {
        buf_str(out, i ? ", " : "");
        for (const char *at = one; *at; at++)
            if (*at == '#')
                buf_printf(out, "%d", i);
            else
                buf_char(out, *at);
    }
}

/* A message whose embed has a list of many. */
static struct message with_many(const char *part, const char *one, int n, struct buf *body)
{
    buf_printf(body, "[[], {}, {\"%s\": [", part);
    put_many(body, one, n);
    buf_str(body, "]}]");
    return (struct message){.id = "id", .task = "t", .group_index = -1,
                            .body = {body->data, body->size}};
}

static const cJSON *embed_of(const struct message *m, cJSON **ret_body)
{
    *ret_body = body_of(m);
    return cJSON_GetArrayItem(*ret_body, 2);
}

static void expect_replaced(const char *part, const char *one, int n, int expected)
{
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    struct message m = with_many(part, one, n, &text), next;
    struct continuation c = make(&m);
    struct error err = {0};
    cJSON *instead = signature("{\"task\": \"t\", \"options\": {}}"), *body;
    assert_int_equal(continuation_replace(&c, instead, &err), 0);
    sent(c.canvas.sends, 0, &next);
    assert_int_equal(cJSON_GetArraySize(json_get(embed_of(&next, &body), part)), expected);
    cJSON_Delete(body);
    cJSON_Delete(instead);
    message_done(&next);
    done(&c);
    buf_done(&text);
}

static void what_replaces_a_task_takes_its_many_links(void **state)
{
    (void)state;
    static const char one[] = "{\"task\": \"t\", \"args\": [#], \"options\": {}}";
    expect_replaced("callbacks", one, MANY, MANY);
    expect_replaced("errbacks", one, MANY, MANY);
    expect_replaced("chain", one, MANY, MANY);
    expect_replaced("callbacks", "{\"task\": \"t\"}", MANY, 1);
    expect_replaced("errbacks", "{\"task\": \"t\"}", 3, 1);
}

static void equal_links_are_linked_once(void **state)
{
    (void)state;
    cJSON *known = signature("[{\"task\": \"a\", \"args\": [1], \"kwargs\": {\"x\": 1, \"y\": 2}}]");
    cJSON *list = signature("[{\"task\": \"b\"}, {\"kwargs\": {\"y\": 2, \"x\": 1}, \"args\": [1], "
                            "\"task\": \"a\"}, {\"task\": \"b\"}, {\"task\": \"c\"}]");
    cJSON *once = canvas_others(list, known, true), *twice = canvas_others(list, known, false);
    char *text = json_text(once);
    assert_string_equal(text, "[{\"task\": \"b\"}, {\"task\": \"c\"}]");
    assert_int_equal(cJSON_GetArraySize(twice), 3);
    free(text);
    cJSON_Delete(twice);
    cJSON_Delete(once);
    cJSON_Delete(list);
    cJSON_Delete(known);
}

/* `before` and `after` are the texts around the members of an object, of which there are many. */
static cJSON *with_members(const char *before, const char *member, const char *after)
{
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    buf_str(&text, before);
    put_many(&text, member, MANY);
    buf_str(&text, after);
    cJSON *tree = json_parse(text.data, text.size, NULL);
    assert_non_null(tree);
    buf_done(&text);
    return tree;
}

static void a_callback_has_many_stamps(void **state)
{
    (void)state;
    struct message m = {.id = "id", .task = "t"}, first;
    struct continuation c = make(&m);
    cJSON *over = with_members("{", "\"k#\": 2", "}");
    cJSON *one = with_members("{\"task\": \"t\", \"options\": {", "\"k#\": 1", "}}");
    cJSON *names = with_members("[", "\"k#\", \"k#\"", "]");
    json_set(json_get(one, "options"), "stamped_headers", names);
    assert_int_equal(canvas_apply(&c.canvas, one, NULL, over, NULL), 0);
    sent(c.canvas.sends, 0, &first);
    cJSON *stamps = json_parse(first.stamps.at, first.stamps.size, NULL);
    assert_int_equal(cJSON_GetArraySize(stamps), MANY);
    assert_int_equal(json_get(stamps, "k19999")->valueint, 1); /* stamps are not written over */
    cJSON_Delete(stamps);
    cJSON_Delete(over);
    cJSON_Delete(one);
    message_done(&first);
    done(&c);
}

static void a_chord_hands_on_many_options(void **state)
{
    (void)state;
    struct message m = {.id = "id", .task = "t"}, first;
    struct continuation c = make(&m);
    cJSON *chord = with_members(
        "{\"task\": \"celery.chord\", \"subtask_type\": \"chord\", \"kwargs\": {\"header\": "
        "[{\"task\": \"t\"}], \"body\": {\"task\": \"t\"}}, \"options\": {", "\"k#\": 1", "}}"), *body;
    cJSON *kwargs = with_members("{", "\"k#\": 1", "}");
    json_set(json_get(chord, "kwargs"), "kwargs", kwargs);
    assert_int_equal(canvas_apply(&c.canvas, chord, NULL, NULL, NULL), 0);
    sent(c.canvas.sends, 0, &first);
    const cJSON *embed = embed_of(&first, &body);
    assert_true(cJSON_GetArraySize(json_get(json_get(embed, "chord"), "options")) > MANY);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetArrayItem(body, 1)), MANY);
    cJSON_Delete(body);
    cJSON_Delete(chord);
    message_done(&first);
    done(&c);
}

/* --- more than can be sent --- */

#define GROUP                                                                                      \
    "{\"task\": \"celery.group\", \"subtask_type\": \"group\", \"kwargs\": {\"tasks\": "             \
    "[{\"task\": \"t\"}, {\"task\": \"t\"}]}}"

static int apply_groups(const char *group, int n)
{
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    buf_str(&text, "{\"task\": \"celery.chain\", \"subtask_type\": \"chain\", \"kwargs\": "
                   "{\"tasks\": [");
    put_many(&text, group, n);
    buf_str(&text, ", {\"task\": \"t\"}]}}");
    cJSON *chain = json_parse(text.data, text.size, NULL);
    struct message m = {.id = "id", .task = "t"};
    struct continuation c = make(&m);
    int code = canvas_apply(&c.canvas, chain, NULL, NULL, NULL);
    cJSON_Delete(chain);
    done(&c);
    buf_done(&text);
    return code;
}

/* Each triples what follows it; without members they still nest. */
static void groups_in_a_row_are_bounded(void **state)
{
    (void)state;
    static const char empty[] = "{\"task\": \"celery.group\", \"subtask_type\": \"group\", "
                                "\"kwargs\": {\"tasks\": []}}";
    assert_int_equal(apply_groups(GROUP, 7), 0);
    assert_int_equal(apply_groups(GROUP, 20), ERROR_TOO_BIG);
    assert_int_equal(apply_groups(GROUP, MANY), ERROR_TOO_BIG);
    assert_int_equal(apply_groups(empty, 60), 0);
    assert_int_equal(apply_groups(empty, MANY), ERROR_TOO_BIG);
    assert_int_equal(apply_groups(GROUP ", {\"task\": \"t\"}", 100), 0); /* one after the other */
}

static void what_replaces_before_many_groups_is_bounded(void **state)
{
    (void)state;
    static const int numbers[] = {4, 40, MANY};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct buf text = BUF_INIT(SIZE_MAX / 4);
        struct message m = with_many("chain", "{\"task\": \"t\"}, " GROUP, numbers[i], &text);
        struct continuation c = make(&m);
        cJSON *instead = signature("{\"task\": \"t\", \"options\": {}}");
        assert_int_equal(continuation_replace(&c, instead, NULL), i ? ERROR_TOO_BIG : 0);
        cJSON_Delete(instead);
        done(&c);
        buf_done(&text);
    }
}

/* The result of a task goes to those alone that take it. */
static void a_large_result_is_copied_a_bounded_number_of_times(void **state)
{
    (void)state;
    char *large = mem_alloc(1 << 20);
    memset(large, 'x', 1 << 20);
    large[(1 << 20) - 1] = '\0';
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(large));
    static const char *const marks[] = {"true", "false"};
    for (int i = 0; i < 2; i++) {
        struct message m = {.id = "id", .task = "t"};
        struct continuation c = make(&m);
        cJSON *list = cJSON_CreateArray();
        for (int k = 0; k < 1000; k++)
            cJSON_AddItemToArray(list, signature("{\"task\": \"t\", \"immutable\": %s}", marks[i]));
        assert_int_equal(canvas_apply_group(&c.canvas, list, args, NULL, NULL),
                         i ? ERROR_TOO_BIG : 0);
        cJSON_Delete(list);
        done(&c);
    }
    cJSON_Delete(args);
    free(large);
}

static bool takes_any_error(const char *task)
{
    (void)task;
    return true;
}

/* Each errback of the new style gets the whole exception. */
static void what_has_been_sent_counts(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    struct message m = with_many("errbacks", "{\"task\": \"t\"}", 10, &text);
    struct continuation c = make(&m);
    size_t most = (size_t)CANVAS_MIB_MOST << 20, bytes = 0;
    c.takes_error = takes_any_error;
    c.canvas.sent = &bytes;
    assert_int_equal(continuation_failed(&c, (struct slice){"{}", 2}, NULL, NULL), 0);
    assert_int_equal(cJSON_GetArraySize(c.canvas.sends), 10);
    assert_in_range(bytes, 10 * 500, 10 * 2000);
    bytes = most - bytes / 2;
    assert_int_equal(continuation_failed(&c, (struct slice){"{}", 2}, NULL, NULL), ERROR_TOO_BIG);
    assert_in_range(cJSON_GetArraySize(c.canvas.sends), 13, 16);
    done(&c);
    buf_done(&text);
}

static void chains_of_nothing_are_followed_by_nothing(void **state)
{
    (void)state;
    static const char *const chains[] = {
        CHAIN(CHAIN("")),
        CHAIN("{\"task\": \"celery.chord\", \"subtask_type\": \"chord\", \"kwargs\": {\"header\": "
              "[{\"task\": \"t\"}], \"body\": " CHAIN("") "}}"),
    };
    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++) {
        struct message m = {.id = "id", .task = "t"};
        struct continuation c = make(&m);
        struct error err = {0};
        cJSON *chain = signature("%s", chains[i]);
        assert_int_equal(canvas_apply(&c.canvas, chain, NULL, NULL, &err), 0);
        assert_int_equal(cJSON_GetArraySize(c.canvas.sends), i); /* the header's only part */
        cJSON_Delete(canvas_freeze(chain, NULL, NULL, NULL));
        cJSON_Delete(chain);
        done(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_task_is_followed_by_nothing),
        cmocka_unit_test(a_chain_goes_on_with_its_last_element_and_the_rest),
        cmocka_unit_test(the_rest_of_a_failed_chain_is_named),
        cmocka_unit_test(several_callbacks_are_one_group),
        cmocka_unit_test(an_errback_gets_the_failed_id),
        cmocka_unit_test(a_group_before_a_step_is_a_chord),
        cmocka_unit_test(members_of_a_body_have_the_chords_root),
        cmocka_unit_test(an_immutable_chain_hands_the_result_to_its_first),
        cmocka_unit_test(what_replaces_a_body_stays_in_its_group),
        cmocka_unit_test(the_last_of_a_long_chain_knows_its_nearest_ancestors),
        cmocka_unit_test(what_replaces_a_task_takes_its_many_links),
        cmocka_unit_test(equal_links_are_linked_once),
        cmocka_unit_test(a_callback_has_many_stamps),
        cmocka_unit_test(a_chord_hands_on_many_options),
        cmocka_unit_test(groups_in_a_row_are_bounded),
        cmocka_unit_test(what_replaces_before_many_groups_is_bounded),
        cmocka_unit_test(a_large_result_is_copied_a_bounded_number_of_times),
        cmocka_unit_test(what_has_been_sent_counts),
        cmocka_unit_test(chains_of_nothing_are_followed_by_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
