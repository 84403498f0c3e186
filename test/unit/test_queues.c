/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* Queues that come, go and pause while the channel runs. */

static void expect_queues(struct worker *w, const char *expected)
{
    char text[200] = "";
    const char **names = channel_queues(w->c);
    for (int i = 0; names[i]; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? "," : "", names[i]);
    free(names);
    assert_string_equal(text, expected);
}

static bool is_registered(struct worker *w, const char *list)
{
    redisReply *about = ask("HGET cworker.incarnations %s", w->c->incarnation);
    bool found = about->type == REDIS_REPLY_STRING && strstr(about->str, list);
    freeReplyObject(about);
    return found;
}

static void an_added_queue_is_consumed(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 1000);
    push("late", "waits already");
    push("q", "held across the growth");
    WAIT_FOR(w->n == 1);
    assert_false(is_registered(w, "{late}.cworker.inflight."));
    for (int i = 0; i < 40; i++) {
        char name[24];
        snprintf(name, sizeof name, "extra%d", i);
        assert_int_equal(channel_add_queue(w->c, name), 0);
    }
    assert_int_equal(channel_add_queue(w->c, "late"), 0);
    assert_int_equal(channel_add_queue(w->c, "late"), 0);
    WAIT_FOR(w->n == 2);
    assert_true(is_registered(w, "{late}.cworker.inflight."));
    assert_string_equal(w->items[1].d.queue, "late");
    push("late\x06\x16" "9", "by priority");
    push("extra39", "the last one");
    WAIT_FOR(w->n == 4);
    static const char *const sets[] = {"_kombu.binding.late", "_kombu.binding_permanent.late"};
    for (int i = 0; i < 2; i++) {
        const char member[] = "late\x06\x16\x06\x16late";
        assert_int_equal(NUMBER("SISMEMBER %s %b", sets[i], member, sizeof member - 1), 1);
    }
    struct effect later = {.kind = EFFECT_DELAY, .queue = "late", .text = slice_of("delayed"),
                           .id = "id", .due = (int64_t)time(NULL) * 1000000};
    channel_settle(w->c, &w->items[1].d, &later, 1, settled, w);
    WAIT_FOR(w->n == 5);
    settle_all(w);
    assert_int_equal(w->n_failed, 0);
    worker_close(w);
    assert_int_equal(NUMBER("KEYS *cworker*"), 0);
}

static long calls_of(const char *command)
{
    redisReply *stats = ask("INFO commandstats");
    char name[40];
    snprintf(name, sizeof name, "cmdstat_%s:calls=", command);
    const char *at = strstr(stats->str, name);
    long calls = at ? strtol(at + strlen(name), NULL, 10) : 0;
    freeReplyObject(stats);
    return calls;
}

/* Each registration names all queues. */
static void many_queues_that_are_added_share_a_registration(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 1000);
    long before = calls_of("hset");
    for (int i = 0; i < 1000; i++) {
        char name[24];
        snprintf(name, sizeof name, "extra%d", i);
        assert_int_equal(channel_add_queue(w->c, name), 0);
    }
    push("extra0", "the first one");
    push("extra999", "the last one");
    WAIT_FOR(w->n == 2);
    assert_true(is_registered(w, "{extra999}.cworker.inflight."));
    assert_in_range(calls_of("hset") - before, 2, 4);
    settle_all(w);
    worker_close(w);
}

static void a_cancelled_queue_settles_what_is_held(void **state)
{
    (void)state;
    static const char *const queues[] = {"a", "b", NULL};
    struct worker *w = worker_open(tcp_url, (struct channel_options){.queues = queues});
    channel_set_window(w->c, 1000);
    push("a", "held");
    WAIT_FOR(w->n == 1);
    assert_int_equal(channel_cancel_queue(w->c, "a"), 0);
    assert_int_equal(channel_cancel_queue(w->c, "never heard of"), 0);
    assert_int_equal(channel_cancel_queue(w->c, ""), ERROR_INVALID);
    expect_queues(w, "b");
    push("a", "stays");
    push("b", "comes");
    WAIT_FOR(w->n == 2);
    loop_for(0.3);
    assert_int_equal(w->n, 2);
    settle_all(w);
    assert_int_equal(NUMBER("LLEN a"), 1);
    assert_int_equal(inflight_count(w), 0);
    assert_int_equal(channel_add_queue(w->c, "a"), 0);
    expect_queues(w, "a,b");
    WAIT_FOR(w->n == 3);
    settle_all(w);
    worker_close(w);
}

static void a_queue_added_without_a_connection(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 1000);
    redis_reconnect(w->c->redis, "for the test");
    assert_int_equal(channel_add_queue(w->c, "late"), 0);
    push("late", "m");
    WAIT_FOR(w->n == 1);
    assert_true(is_registered(w, "{late}.cworker.inflight."));
    settle_all(w);
    worker_close(w);
}

static void what_an_added_queue_gave_is_rescued(void **state)
{
    (void)state;
    struct channel_options o = {.lease = 1};
    struct worker *w = worker_open(tcp_url, o);
    channel_add_queue(w->c, "late");
    channel_set_window(w->c, 1000);
    push("late", "m");
    WAIT_FOR(w->n == 1);
    char *registration = mem_dup(w->c->description), *id = mem_dup(w->c->incarnation);
    settle_all(w);
    worker_close(w);
    /* A predecessor of another host, with the same lists, which died holding one message. */
    char *at = strstr(registration, "\"host\"");
    memcpy(at, "\"hose\"", 6);
    TELL("HSET cworker.incarnations %s %s", id, registration);
    TELL("LPUSH {late}.cworker.inflight.%s m", id);
    w = worker_open(tcp_url, o);
    WAIT_FOR(NUMBER("LLEN late") == 1);
    worker_close(w);
    free(registration);
    free(id);
}

static void a_pause_holds_for_everybody(void **state)
{
    (void)state;
    static const char *const queues[] = {"a", "b", NULL};
    struct worker *w = worker_open(tcp_url, (struct channel_options){.queues = queues});
    channel_set_window(w->c, 1000);
    assert_int_equal(channel_pause(w->c, "a", settled, w), 0);
    assert_int_equal(channel_pause(w->c, "later", settled, w), 0);
    WAIT_FOR(w->n_settled == 2 && channel_paused(w->c, "a") && channel_paused(w->c, "later"));
    assert_int_equal(w->n_failed, 0);
    struct worker *young = worker_open(tcp_url, (struct channel_options){.queues = queues});
    channel_set_window(young->c, 1000);
    assert_true(channel_paused(young->c, "a"));
    channel_add_queue(young->c, "later");
    push("a", "m1");
    push("later", "m2");
    push("b", "m3");
    WAIT_FOR(w->n + young->n == 1);
    loop_for(0.3);
    assert_int_equal(w->n + young->n, 1);
    assert_int_equal(channel_resume(young->c, "a", settled, young), 0);
    WAIT_FOR(w->n + young->n == 2 && !channel_paused(w->c, "a"));
    assert_true(channel_paused(w->c, "later"));
    TELL("DEL cworker.paused");
    WAIT_FOR(w->n + young->n == 3);
    settle_all(w);
    settle_all(young);
    worker_close(w);
    worker_close(young);
    assert_int_equal(NUMBER("KEYS *cworker*"), 0);
}

static void a_pause_outlives_the_connection(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){.key_prefix = "p."});
    channel_set_window(w->c, 1000);
    redis_reconnect(w->c->redis, "for the test");
    assert_int_equal(channel_pause(w->c, "q", settled, w), ERROR_UNAVAILABLE);
    TELL("HSET p.cworker.paused q now");
    push("p.q", "m");
    WAIT_FOR(w->n_up == 2);
    assert_true(channel_paused(w->c, "q"));
    loop_for(0.2);
    assert_int_equal(w->n, 0);
    channel_resume(w->c, "q", NULL, NULL);
    WAIT_FOR(w->n == 1);
    settle_all(w);
    worker_close(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_added_queue_is_consumed),
        TEST(many_queues_that_are_added_share_a_registration),
        TEST(a_cancelled_queue_settles_what_is_held),
        TEST(a_queue_added_without_a_connection),
        TEST(what_an_added_queue_gave_is_rescued),
        TEST(a_pause_holds_for_everybody),
        TEST(a_pause_outlives_the_connection),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
