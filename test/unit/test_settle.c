/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* The end of a delivery: its effects are one step with the ack, happen once, or not at all. */

static void effects_are_one_step(void **state)
{
    (void)state;
    push("q", "original");
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 1);
    WAIT_FOR(w->n == 1);
    struct effect effects[] = {
        {.kind = EFFECT_SEND, .queue = "next", .priority = 4, .text = slice_of("sent")},
        {.kind = EFFECT_RETURN, .queue = "other", .text = slice_of("returned")},
        {.kind = EFFECT_DELAY, .queue = "later", .priority = 9, .text = slice_of("delayed"),
         .due = INT64_C(4102444800000000), .id = "id-1"},
        {.kind = EFFECT_DEAD, .queue = "q", .text = slice_of("de\"ad"), .reason = "why"},
        {.kind = EFFECT_DEAD, .queue = "q", .text = {"\xff\x00", 2}, .reason = "bytes"},
    };
    push("next\x06\x16" "3", "before");
    push("other", "before");
    channel_settle(w->c, &w->items[0].d, effects, 5, settled, w);
    WAIT_FOR(w->n_settled);
    assert_int_equal(w->last_code, 0);
    assert_int_equal(inflight_count(w), 0);
    expect_element("next\x06\x16" "3", 0, "sent");
    expect_element("other", -1, "returned");
    assert_int_equal(NUMBER("ZCARD {later}.cworker.delayed"), 1);
    redisReply *values = ask("HVALS {later}.cworker.delayed.msg");
    assert_string_equal(values->element[0]->str, "1 9 delayed");
    freeReplyObject(values);
    redisReply *dead = ask("LRANGE {q}.cworker.dead 0 -1");
    assert_int_equal(dead->elements, 2);
    cJSON *letter = json_parse(dead->element[1]->str, dead->element[1]->len, NULL);
    assert_string_equal(json_get_string(letter, "message"), "de\"ad");
    assert_string_equal(json_get_string(letter, "reason"), "why");
    cJSON_Delete(letter);
    letter = json_parse(dead->element[0]->str, dead->element[0]->len, NULL);
    assert_string_equal(json_get_string(letter, "message"), "/wA=");
    assert_string_equal(json_get_string(letter, "encoding"), "base64");
    cJSON_Delete(letter);
    freeReplyObject(dead);
    worker_close(w);
}

static void lost_means_no_effects(void **state)
{
    (void)state;
    char *big = mem_alloc(100001);
    memset(big, 'x', 100000);
    big[100000] = '\0';
    push("q", "small");
    push("q", big);
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 2);
    WAIT_FOR(w->n == 2);
    TELL("DEL %b", lane_first(w->c)->inflight.at, lane_first(w->c)->inflight.size);
    struct effect send = {.kind = EFFECT_SEND, .queue = "next", .text = slice_of("sent")};
    for (int i = 0; i < 2; i++)
        channel_settle(w->c, &w->items[i].d, &send, 1, settled, w);
    WAIT_FOR(w->n_settled == 2);
    assert_int_equal(w->n_failed, 2);
    assert_int_equal(w->last_code, ERROR_LOST);
    assert_int_equal(NUMBER("EXISTS next"), 0);
    free(big);
    worker_close(w);
}

static void big_elements(void **state)
{
    (void)state;
    char *big = mem_alloc(300001);
    memset(big, 'y', 300000);
    big[300000] = '\0';
    push("q", "before");
    push("q", big);
    big[5] = 'z';
    push("q", big);
    struct worker *w = worker_open(tcp_url, (struct channel_options){.max_message = 300000});
    channel_set_window(w->c, 3);
    WAIT_FOR(w->n == 3);
    channel_settle(w->c, &w->items[1].d, NULL, 0, settled, w);
    WAIT_FOR(w->n_settled == 1);
    assert_int_equal(w->last_code, 0);
    redisReply *left = ask("LRANGE %b 0 -1", lane_first(w->c)->inflight.at, lane_first(w->c)->inflight.size);
    assert_int_equal(left->elements, 2);
    assert_int_equal(left->element[0]->str[5], 'z');
    assert_string_equal(left->element[1]->str, "before");
    freeReplyObject(left);
    settle_all(w);
    assert_int_equal(w->n_failed, 0);
    TELL("LPUSH q %s+", big);
    channel_set_window(w->c, 1);
    WAIT_FOR(NUMBER("LLEN {q}.cworker.dead") == 1);
    WAIT_FOR(channel_is_quiet(w->c));
    assert_int_equal(w->n, 3);
    assert_int_equal(inflight_count(w), 0);
    free(big);
    worker_close(w);
}

static void removed_by_others_is_noticed(void **state)
{
    (void)state;
    push("q", "m1");
    push("q", "m2");
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 1});
    channel_set_window(w->c, 2);
    WAIT_FOR(w->n == 2);
    TELL("LREM %b 1 m1", lane_first(w->c)->inflight.at, lane_first(w->c)->inflight.size);
    WAIT_FOR(w->n_lost == 1);
    assert_false(w->items[0].d.held);
    assert_true(w->items[1].d.held);
    /* The lease itself goes: taken again, and what is still in the list stays ours. */
    TELL("DEL %s", w->c->lease_key);
    int ups = w->n_up;
    WAIT_FOR(w->n_up > ups && channel_owns(w->c));
    assert_int_equal(NUMBER("EXISTS %s", w->c->lease_key), 1);
    assert_int_equal(w->n_lost, 1);
    channel_settle(w->c, &w->items[0].d, NULL, 0, settled, w);
    WAIT_FOR(w->n_settled == 1);
    assert_int_equal(w->last_code, ERROR_LOST);
    settle_all(w);
    assert_int_equal(w->last_code, 0);
    worker_close(w);
}

static void unheard_settlements_happen_once(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    for (int i = 0; i < 20; i++)
        push("q", (char[]){(char)('a' + i), 0});
    channel_set_window(w->c, 20);
    WAIT_FOR(w->n == 20);
    struct effect send = {.kind = EFFECT_SEND, .queue = "next", .text = slice_of("sent")};
    for (int i = 0; i < 10; i++)
        channel_settle(w->c, &w->items[i].d, &send, i % 2, settled, w);
    /* Redis gets and runs the commands, and then cuts the connection before the answers are read. */
    TELL("CLIENT PAUSE 100 WRITE");
    event_base_loop(base, EVLOOP_ONCE);
    usleep(200000);
    TELL("CLIENT KILL TYPE normal SKIPME yes");
    for (int i = 10; i < 20; i++)
        channel_settle(w->c, &w->items[i].d, &send, i % 2, settled, w);
    WAIT_FOR(w->n_settled == 20);
    assert_int_equal(w->n_failed, 0);
    assert_int_equal(inflight_count(w), 0);
    assert_int_equal(NUMBER("LLEN next"), 10);
    worker_close(w);
}

static void many_effects(void **state)
{
    (void)state;
    enum { N = 12000 };
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect *effects = mem_zalloc(N * sizeof *effects);
    for (int i = 0; i < N; i++)
        effects[i] = (struct effect){.kind = EFFECT_SEND, .queue = "next", .text = slice_of("s")};
    push("q", "m");
    channel_set_window(w->c, 1);
    WAIT_FOR(w->n == 1);
    channel_settle(w->c, &w->items[0].d, effects, N, settled, w);
    channel_publish(w->c, effects, N, settled, w);
    free(effects);
    WAIT_FOR(w->n_settled == 2);
    assert_int_equal(w->n_failed, 0);
    assert_int_equal(NUMBER("LLEN next"), 2 * N);
    TELL("SCRIPT FLUSH");
    struct effect one = {.kind = EFFECT_RETURN, .queue = "next", .text = slice_of("r")};
    channel_publish(w->c, &one, 1, settled, w);
    WAIT_FOR(w->n_settled == 3);
    expect_element("next", -1, "r");
    worker_close(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(effects_are_one_step),
        TEST(lost_means_no_effects),
        TEST(big_elements),
        TEST(removed_by_others_is_noticed),
        TEST(unheard_settlements_happen_once),
        TEST(many_effects),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
