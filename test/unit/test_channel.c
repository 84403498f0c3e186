/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* A channel beside a real Redis: what it declares, fetches, is woken by and survives. */

/* What waits in all queues, once each of them has answered. -1: not yet. */
static int64_t known_waiting(struct worker *w)
{
    int64_t sum = 0;
    for (struct lane *lane = lane_first(w->c); lane; lane = lane_after(lane)) {
        if (lane->asking)
            return -1;
        sum += lane->waiting;
    }
    return sum;
}

static void declares_and_leaves_nothing(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    static const char *const sets[] = {"_kombu.binding.q", "_kombu.binding_permanent.q"};
    for (int i = 0; i < 2; i++) {
        const char member[] = "q\x06\x16\x06\x16q";
        assert_int_equal(NUMBER("SISMEMBER %s %b", sets[i], member, sizeof member - 1), 1);
    }
    assert_int_equal(NUMBER("EXISTS %s", w->c->lease_key), 1);
    assert_int_equal(NUMBER("HLEN cworker.incarnations"), 1);
    assert_true(NUMBER("PTTL %s", w->c->lease_key) > 0);
    assert_true(channel_owns(w->c));
    worker_close(w);
    assert_int_equal(NUMBER("KEYS *cworker*"), 0);
}

static void order_and_priorities(void **state)
{
    (void)state;
    static const char *const queues[][3] = {{"a", "b"}, {"a", "b"}, {"b", "a"}};
    for (int strategy = 0; strategy < 3; strategy++) {
        push("a\x06\x16" "3", "a3");
        push("b\x06\x16" "9", "b9");
        for (int i = 0; i < 3; i++) {
            push("a", (const char *[]){"a-1", "a-2", "a-3"}[i]);
            push("b", (const char *[]){"b-1", "b-2", "b-3"}[i]);
        }
        struct worker *w =
            worker_open(tcp_url, (struct channel_options){.queues = queues[strategy],
                                                          .ordered = strategy == 1,
                                                          .by_name = strategy == 2});
        /* One at a time, when all lengths are known: the order is then exactly Kombu's. */
        WAIT_FOR(known_waiting(w) == 8);
        while (w->n < 8) {
            size_t before = w->n;
            channel_set_window(w->c, 1);
            WAIT_FOR(w->n > before);
        }
        static const char *const expected[2][8] = {
            {"a-1", "b-1", "a-2", "b-2", "a-3", "b-3", "a3", "b9"},
            {"a-1", "a-2", "a-3", "b-1", "b-2", "b-3", "a3", "b9"}};
        for (int i = 0; i < 8; i++)
            assert_string_equal(w->items[i].text, expected[strategy > 0][i]);
        assert_int_equal(w->items[6].d.step, 1);
        assert_string_equal(w->items[7].d.queue, "b");
        settle_all(w);
        worker_close(w);
    }
}

static void stopping_with_a_fetch_under_way(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    push("q", "m");
    WAIT_FOR(lane_first(w->c)->waiting == 1);
    assert_false(channel_is_fetching(w->c));
    channel_set_window(w->c, 5);
    channel_stop_fetching(w->c);
    assert_true(channel_is_fetching(w->c));
    WAIT_FOR(!channel_is_fetching(w->c));
    assert_int_equal(w->n, 1);
    push("q", "stays");
    loop_for(0.1);
    assert_int_equal(NUMBER("LLEN q"), 1);
    settle_all(w);
    worker_close(w);
}

static void window_is_never_exceeded(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        push("q", "m");
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 3);
    WAIT_FOR(w->n == 3);
    loop_for(0.2);
    assert_int_equal(w->n, 3);
    assert_int_equal(inflight_count(w), 3);
    assert_int_equal(NUMBER("LLEN q"), 47);
    channel_set_window(w->c, 2);
    WAIT_FOR(w->n == 5);
    loop_for(0.1);
    assert_int_equal(inflight_count(w), 5);
    channel_stop_fetching(w->c);
    channel_set_window(w->c, 10);
    loop_for(0.2);
    assert_int_equal(w->n, 5);
    settle_all(w);
    assert_int_equal(w->n_failed, 0);
    assert_int_equal(inflight_count(w), 0);
    worker_close(w);
}

/* Large messages come one by one: their size is known only afterwards. */
static void large_messages_come_in_short_rows(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    static const struct {
        size_t size, most;
    } rows[] = {{0, 1}, {40 << 20, 1}, {10 << 20, 6}, {1000, 32}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        channel_set_window(w->c, 0);
        for (int n = 0; n < 40; n++)
            push("q", "m");
        WAIT_FOR(lane_first(w->c)->waiting == 40);
        if (rows[i].size) /* else: nothing has come yet */
            w->c->typical_size = rows[i].size;
        channel_set_window(w->c, 40);
        assert_int_equal(w->c->n_underway, rows[i].most);
        WAIT_FOR(w->n == 40 * (i + 1));
    }
    settle_all(w);
    worker_close(w);
}

static void wakes_without_polling(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 100);
    WAIT_FOR(w->c->tracking);
    w->c->poll_period = 3600;
    timer_arm(w->c->poll_timer, 3600);
    WAIT_FOR(known_waiting(w) == 0);
    loop_for(0.2);
    redisReply *before = ask("INFO commandstats");
    loop_for(0.5);
    redisReply *after = ask("INFO commandstats");
    const char *llen = strstr(before->str, "cmdstat_llen:"), *now = strstr(after->str, "cmdstat_llen:");
    assert_int_equal(strcspn(llen, ","), strcspn(now, ","));
    assert_memory_equal(llen, now, strcspn(llen, ","));
    freeReplyObject(before);
    freeReplyObject(after);
    for (size_t i = 1; i <= 20; i++) {
        push(i % 2 ? "q" : "q\x06\x16" "6", "m");
        WAIT_FOR(w->n == i);
    }
    /* A script's push, and the channel's own, wake as well. */
    TELL("EVAL %s 1 q m", "return redis.call('LPUSH', KEYS[1], ARGV[1])");
    WAIT_FOR(w->n == 21);
    struct effect send = {.kind = EFFECT_SEND, .queue = "q", .text = slice_of("own")};
    channel_publish(w->c, &send, 1, NULL, NULL);
    WAIT_FOR(w->n == 22);
    settle_all(w);
    worker_close(w);
}

static void polls_where_tracking_is_forbidden(void **state)
{
    (void)state;
    TELL("ACL SETUSER narrow on >pa%%:ss ~* resetchannels +@all -client|tracking");
    char *url = mem_printf("redis://narrow:pa%%25%%3Ass@%s", tcp_url + strlen("redis://"));
    struct worker *w = worker_open(url, (struct channel_options){0});
    free(url);
    channel_set_window(w->c, 10);
    loop_for(0.3);
    assert_false(w->c->tracking);
    push("q", "m");
    WAIT_FOR(w->n == 1);
    settle_all(w);
    worker_close(w);
    TELL("ACL DELUSER narrow");
}

static void delayed_come_back(void **state)
{
    (void)state;
    struct worker *w = worker_open(unix_url, (struct channel_options){0});
    channel_set_window(w->c, 10);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t due = now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000 + 300000;
    double start = seconds_now();
    struct effect effects[] = {
        {.kind = EFFECT_DELAY, .queue = "q", .text = slice_of("second"), .due = due + 1, .id = "2"},
        {.kind = EFFECT_DELAY, .queue = "q", .text = slice_of("first"), .due = due, .id = "1"},
        {.kind = EFFECT_DELAY, .queue = "q", .priority = 3, .text = slice_of("third"), .due = due,
         .id = "3"}};
    channel_publish(w->c, effects, 3, settled, w);
    WAIT_FOR(w->n == 3);
    assert_true(seconds_now() - start >= 0.29);
    printf("promoted %.1f ms after they were due\n", (seconds_now() - start - 0.3) * 1e3);
    assert_string_equal(w->items[0].text, "first");
    assert_string_equal(w->items[1].text, "second");
    assert_string_equal(w->items[2].text, "third");
    assert_int_equal(w->items[2].d.step, 1);
    settle_all(w);
    /* More than one batch, and an entry of a later format, which has to stay. */
    TELL("ZADD {q}.cworker.delayed 1 future");
    TELL("HSET {q}.cworker.delayed.msg future %s", "7 whatever");
    for (int i = 0; i < 250; i++) {
        TELL("ZADD {q}.cworker.delayed %d m%d", i + 2, i);
        TELL("HSET {q}.cworker.delayed.msg m%d %s", i, "1 0 m");
    }
    channel_set_window(w->c, 1000);
    WAIT_FOR(w->n == 253);
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), 1);
    assert_int_equal(NUMBER("HLEN {q}.cworker.delayed.msg"), 1);
    settle_all(w);
    worker_close(w);
}

static void reconnect_keeps_everything_once(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    char text[32];
    enum { N = 3000 };
    w->hand_back = true;
    w->window = 50;
    channel_set_window(w->c, w->window);
    for (int i = 0; i < N; i++) {
        snprintf(text, sizeof text, "message-%d", i);
        push("q", text);
        if (i % 200 == 100)
            TELL("CLIENT KILL TYPE normal SKIPME yes");
        if (i % 10 == 0)
            loop_once();
    }
    /* A reply that was lost leaves the window half-open, as it would for a real worker: set it again. */
    double end = seconds_now() + PATIENCE;
    while (w->n_settled < N && seconds_now() < end) {
        channel_set_window(w->c, w->window);
        loop_once();
    }
    assert_int_equal(w->n, N);
    assert_int_equal(w->n_settled, N);
    assert_int_equal(w->n_failed, 0);
    assert_int_equal(w->n_lost, 0);
    assert_true(w->n_down > 0);
    bool *seen = mem_zalloc(N);
    for (int i = 0; i < N; i++) {
        int number = (int)strtol(w->items[i].text + strlen("message-"), NULL, 10);
        assert_false(seen[number]);
        seen[number] = true;
    }
    free(seen);
    WAIT_FOR(channel_is_quiet(w->c));
    assert_int_equal(inflight_count(w), 0);
    worker_close(w);
}

static void prefix_is_everywhere(void **state)
{
    (void)state;
    push("app:q", "m");
    struct worker *w = worker_open(unix_url, (struct channel_options){.key_prefix = "app:"});
    channel_set_window(w->c, 1);
    WAIT_FOR(w->n == 1);
    assert_string_equal(w->items[0].d.queue, "q");
    WAIT_FOR(w->c->tracking);
    struct effect effects[] = {
        {.kind = EFFECT_SEND, .queue = "q", .priority = 9, .text = slice_of("sent")},
        {.kind = EFFECT_DELAY, .queue = "q", .text = slice_of("d"), .due = 1, .id = "x"},
        {.kind = EFFECT_DEAD, .queue = "q", .text = slice_of("dead"), .reason = "r"}};
    channel_settle(w->c, &w->items[0].d, effects, 3, settled, w);
    channel_set_window(w->c, 2);
    WAIT_FOR(w->n == 3);
    settle_all(w);
    assert_int_equal(NUMBER("KEYS *"), NUMBER("KEYS app:*"));
    worker_close(w);
    assert_int_equal(NUMBER("KEYS *"), 3); /* two binding sets and the dead letter */
}

static void password_and_database(void **state)
{
    (void)state;
    TELL("CONFIG SET requirepass sesame");
    char *url = mem_printf("redis+socket://:sesame@%s?virtual_host=3", socket_path);
    TELL("SELECT 3");
    push("q", "m");
    struct worker *w = worker_open(url, (struct channel_options){0});
    channel_set_window(w->c, 1);
    WAIT_FOR(w->n == 1);
    settle_all(w);
    worker_close(w);
    TELL("SELECT 0");
    TELL("CONFIG SET requirepass %s", "");
    free(url);
}

static void out_of_memory(void **state)
{
    (void)state;
    push("q", "m1");
    push("q", "m2");
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 1});
    TELL("CONFIG SET maxmemory 1");
    channel_set_window(w->c, 2);
    WAIT_FOR(w->n == 2);
    struct effect send = {.kind = EFFECT_SEND, .queue = "next", .text = slice_of("sent")};
    channel_settle(w->c, &w->items[0].d, &send, 1, settled, w);
    loop_for(1.5);
    WAIT_FOR(NUMBER("EXISTS %s", w->c->lease_key) == 1);
    settle_all(w);
    assert_int_equal(w->n_settled, 2);
    assert_int_equal(w->n_failed, 0);
    assert_int_equal(NUMBER("LLEN next"), 1);
    TELL("CONFIG SET maxmemory 0");
    worker_close(w);
}

static void wrong_types_harm_nothing(void **state)
{
    (void)state;
    push("q", "m");
    TELL("SET next string");
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    channel_set_window(w->c, 1);
    WAIT_FOR(w->n == 1);
    struct effect effects[] = {
        {.kind = EFFECT_SEND, .queue = "fine", .text = slice_of("sent")},
        {.kind = EFFECT_SEND, .queue = "next", .text = slice_of("sent")}};
    channel_settle(w->c, &w->items[0].d, effects, 2, settled, w);
    WAIT_FOR(strstr(w->last_note, "WRONGTYPE"));
    assert_int_equal(NUMBER("EXISTS fine"), 0);
    assert_int_equal(inflight_count(w), 1);
    TELL("DEL next");
    WAIT_FOR(w->n_settled == 1);
    assert_int_equal(w->last_code, 0);
    assert_int_equal(NUMBER("EXISTS fine next"), 2);
    worker_close(w);
}

/* What cannot be put into its queue stays delayed, and what was there before is promoted. */
static void delayed_for_a_key_of_another_type(void **state)
{
    (void)state;
    TELL("SET q string");
    for (int i = 0; i < 3; i++) {
        TELL("ZADD {q}.cworker.delayed %d m%d", i + 1, i);
        TELL("HSET {q}.cworker.delayed.msg m%d %s", i, "1 0 m");
    }
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    WAIT_FOR(strstr(w->last_note, "queue q: WRONGTYPE"));
    loop_for(1.2);
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), 3);
    assert_int_equal(NUMBER("HLEN {q}.cworker.delayed.msg"), 3);
    assert_true(w->n_notes < 5);
    TELL("DEL q");
    WAIT_FOR(NUMBER("LLEN q") == 3);
    worker_close(w);
}

static void bad_options(void **state)
{
    (void)state;
    static const char *const none[] = {NULL}, *const twice[] = {"a", "a", NULL}, *const good[] = {"a", NULL};
    struct channel_options bad[] = {
        {.queues = good},
        {.node = "n", .queues = none},
        {.node = "n", .queues = twice},
        {.node = "n", .queues = good, .steps = {0, 0}, .n_steps = 2},
        {.node = "n", .queues = good, .steps = {1}, .n_steps = 1},
    };
    struct redis_url url = {0};
    struct channel_handlers h = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        assert_null(channel_open(base, &url, &bad[i], &h, &err));
        assert_int_equal(err.code, ERROR_INVALID);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(declares_and_leaves_nothing),
        TEST(order_and_priorities),
        TEST(stopping_with_a_fetch_under_way),
        TEST(window_is_never_exceeded),
        TEST(large_messages_come_in_short_rows),
        TEST(wakes_without_polling),
        TEST(polls_where_tracking_is_forbidden),
        TEST(delayed_come_back),
        TEST(reconnect_keeps_everything_once),
        TEST(prefix_is_everywhere),
        TEST(password_and_database),
        TEST(out_of_memory),
        TEST(wrong_types_harm_nothing),
        TEST(delayed_for_a_key_of_another_type),
        TEST(bad_options),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
