/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed messages brought forward by their ids or by the end of a chord's parts, and leases that end with
 * an ack: against a real Redis. */

#include "channel_rig.h"

static struct effect delayed(const char *text, const char *id)
{
    return (struct effect){.kind = EFFECT_DELAY, .queue = "q", .text = slice_of(text), .id = id,
                           .due = ((int64_t)time(NULL) + 3600) * 1000000};
}

/* How often Redis was told to, since CONFIG RESETSTAT. */
static long calls_of(const char *command)
{
    redisReply *reply = ask("INFO commandstats");
    char *name = mem_printf("cmdstat_%s:calls=", command);
    const char *calls = strstr(reply->str, name);
    long n = calls ? strtol(calls + strlen(name), NULL, 10) : 0;
    free(name);
    freeReplyObject(reply);
    return n;
}

static void delayed_messages_come_at_once(void **state)
{
    (void)state;
    enum { OTHERS = 3000 };
    static const char *const ids[] = {"with/slash", "unknown", "a", "twice"};
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect wanted[] = {delayed("1", "a"), delayed("2", "with/slash"), delayed("3", "twice"),
                              delayed("4", "twice"), delayed("no", "ab"), delayed("no", "with")};
    struct effect *others = mem_alloc(OTHERS * sizeof *others);
    for (int i = 0; i < OTHERS; i++)
        others[i] = delayed("no", i % 2 ? "b" : "unknown2");
    channel_publish(w->c, others, OTHERS, settled, w);
    channel_publish(w->c, wanted, 6, settled, w);
    WAIT_FOR(w->n_settled == 2);
    channel_set_window(w->c, 100);
    channel_hasten(w->c, ids, 4);
    WAIT_FOR(w->n == 4);
    int sum = 0;
    for (size_t i = 0; i < w->n; i++)
        sum += w->items[i].text[0] - '0';
    assert_int_equal(sum, 10);
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), OTHERS + 2);
    settle_all(w);
    free(others);
    worker_close(w);
}

/* By a worker that had not heard of its revoke yet. */
static void a_message_that_is_delayed_a_moment_later_comes_too(void **state)
{
    (void)state;
    static const char *const ids[] = {"a"}, *const others[] = {"b"};
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect late = delayed("1", "a");
    channel_set_window(w->c, 100);
    channel_hasten(w->c, ids, 1);
    loop_for(0.2);
    channel_publish(w->c, &late, 1, settled, w);
    WAIT_FOR(w->n == 1);
    settle_all(w);
    channel_hasten(w->c, others, 1);
    loop_for(0.1); /* closed while it waits for its second search */
    worker_close(w);
}

static void one_worker_searches_for_all(void **state)
{
    (void)state;
    static const char *const ids[] = {"a", "b"}, *const same[] = {"b", "a"};
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct worker *other = worker_open(tcp_url, (struct channel_options){.node = "celery@other"});
    TELL("CONFIG RESETSTAT");
    channel_hasten(w->c, ids, 2);
    channel_hasten(other->c, same, 2);
    WAIT_FOR(calls_of("zscan"));
    loop_for(0.2);
    assert_int_equal(calls_of("zscan"), 1);
    worker_close(w);
    worker_close(other);
}

static void one_queues_delays_are_looked_for_there_alone(void **state)
{
    (void)state;
    enum { DELAYED = 100 };
    static const char *const queues[] = {"q",  "q1",  "q2",  "q3",  "q4",  "q5",  "q6",
                                         "q7", "q8",  "q9",  "q10", "q11", "q12", "q13",
                                         "q14", "q15", "q16", "q17", "q18", "q19", NULL};
    struct worker *w = worker_open(tcp_url, (struct channel_options){.queues = queues});
    struct effect all[DELAYED];
    int64_t now = (int64_t)time(NULL) * 1000000;
    for (int i = 0; i < DELAYED; i++) {
        all[i] = delayed("message", "id");
        all[i].due = now + 1000000 + i * 5000;
    }
    TELL("CONFIG RESETSTAT");
    channel_set_window(w->c, DELAYED);
    channel_publish(w->c, all, DELAYED, settled, w);
    double begin = seconds_now();
    WAIT_FOR(w->n == DELAYED);
    long seconds = (long)(seconds_now() - begin) + 1;
    assert_in_range(calls_of("evalsha"), 1, 3 * DELAYED + 25 * seconds);
    settle_all(w);
    worker_close(w);
}

static void what_is_asked_for_one_by_one_is_searched_for_together(void **state)
{
    (void)state;
    enum { WANTED = 300, OTHERS = 3000 };
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect *all = mem_alloc((WANTED + OTHERS) * sizeof *all);
    char ids[WANTED][12];
    for (int i = 0; i < WANTED; i++) {
        snprintf(ids[i], sizeof ids[i], "%d", i);
        all[i] = delayed("yes", ids[i]);
    }
    for (int i = 0; i < OTHERS; i++)
        all[WANTED + i] = delayed("no", "other");
    channel_publish(w->c, all, WANTED + OTHERS, settled, w);
    WAIT_FOR(w->n_settled == 1);
    TELL("CONFIG RESETSTAT");
    channel_set_window(w->c, WANTED);
    for (int i = 0; i < WANTED; i++)
        channel_hasten(w->c, &(const char *){ids[i]}, 1);
    WAIT_FOR(w->n == WANTED);
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), OTHERS);
    assert_in_range(calls_of("zscan"), 1, WANTED);
    settle_all(w);
    free(all);
    worker_close(w);
}

static char *with_stamp(const char *value)
{
    return mem_printf("{\"stamped_headers\": [\"h\"], \"stamps\": {\"h\": %s}}", value);
}

/* Cut off: before the claim is answered, in the middle of the search, and while there is no
 * connection at all. By ids and by stamps. */
static void a_search_outlives_its_connection(void **state)
{
    (void)state;
    enum { OTHERS = 30000, CUTS = 3 };
    static const char *const ids[] = {"a", "b", "c"}, *const values[] = {"\"x\"", "\"y\"", "\"z\""};
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect *others = mem_alloc(OTHERS * sizeof *others);
    for (int i = 0; i < OTHERS; i++)
        others[i] = delayed("no", "other");
    channel_publish(w->c, others, OTHERS, settled, w);
    for (int i = 0; i < CUTS; i++) {
        char *text = with_stamp(values[i]);
        struct effect wanted[] = {delayed("yes", ids[i]), delayed(text, "stamped")};
        channel_publish(w->c, wanted, 2, settled, w);
        free(text);
    }
    WAIT_FOR(w->n_settled == 1 + CUTS);
    channel_set_window(w->c, 100);
    for (int i = 0; i < 2 * CUTS; i++) {
        int n_up = w->n_up;
        if (i / 2 == 2)
            redis_reconnect(channel_redis(w->c), "test");
        if (i % 2)
            channel_hasten_stamped(w->c, "\"h\"", &values[i / 2], 1);
        else
            channel_hasten(w->c, &ids[i / 2], 1);
        if (i / 2 == 1)
            WAIT_FOR(w->c->searching);
        if (i / 2 != 2)
            redis_reconnect(channel_redis(w->c), "test");
        assert_int_equal(w->n, i);
        WAIT_FOR(w->n == (size_t)i + 1 && w->n_up == n_up + 1);
    }
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), OTHERS);
    settle_all(w);
    channel_hasten(w->c, ids, CUTS);
    channel_hasten(w->c, ids, 0);
    redis_reconnect(channel_redis(w->c), "test"); /* closed while it waits for a connection */
    worker_close(w);
    free(others);
}

static void settle_with(struct worker *w, size_t item, const struct effect *e, int code)
{
    size_t n = w->n_settled;
    channel_settle(w->c, &w->items[item].d, e, 1, settled, w);
    WAIT_FOR(w->n_settled == n + 1);
    assert_int_equal(w->last_code, code);
}

static void leases_end_with_the_ack(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){.key_prefix = "p-"});
    struct effect end = {.kind = EFFECT_LEASE, .text = slice_of("lease"), .id = "me"};
    struct effect keep = end;
    keep.due = 60 * INT64_C(1000000);
    channel_set_window(w->c, 100);
    for (int i = 0; i < 4; i++)
        push("p-q", "message");
    WAIT_FOR(w->n == 4);
    TELL("SET p-lease me PX 1000");
    settle_with(w, 0, &keep, 0);
    assert_true(NUMBER("PTTL p-lease") > 50000);
    settle_with(w, 1, &end, 0);
    assert_int_equal(NUMBER("EXISTS p-lease"), 0);
    TELL("SET p-lease other PX 60000");
    settle_with(w, 2, &end, 0);
    assert_int_equal(NUMBER("EXISTS p-lease"), 1);
    TELL("SET p-lease me PX 60000");
    TELL("DEL %b", lane_first(w->c)->inflight.at, lane_first(w->c)->inflight.size);
    settle_with(w, 3, &end, ERROR_LOST);
    assert_int_equal(NUMBER("EXISTS p-lease"), 1);
    worker_close(w);
}

static struct effect unlock(const char *text, const char *chord, int n_parts)
{
    struct effect e = delayed(text, "unlock");
    e.chord = chord;
    e.n_parts = n_parts;
    return e;
}

static void publish(struct worker *w, const struct effect *effects, size_t n)
{
    size_t before = w->n_settled;
    channel_publish(w->c, effects, n, settled, w);
    WAIT_FOR(w->n_settled == before + 1);
}

static void parts_bring_their_unlock_forward(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){.key_prefix = "p-"});
    struct effect wait = unlock("look", "g", 2), part = {.kind = EFFECT_PART, .chord = "g"};
    struct effect other = {.kind = EFFECT_PART, .chord = "other"};
    publish(w, &wait, 1);
    publish(w, (struct effect[]){part, other}, 2);
    assert_int_equal(NUMBER("LLEN p-q"), 0);
    publish(w, &part, 1);
    expect_element("p-q", 0, "look");
    assert_int_equal(NUMBER("ZCARD p-{q}.cworker.delayed"), 0);
    assert_int_equal(NUMBER("HLEN p-{q}.cworker.delayed.msg"), 0);
    publish(w, &wait, 1); /* it found them not ready, and no further part has ended */
    assert_int_equal(NUMBER("LLEN p-q"), 1);
    publish(w, &part, 1);
    assert_int_equal(NUMBER("LLEN p-q"), 2);
    assert_true(NUMBER("TTL p-cworker.chord.g") > 80000);
    worker_close(w);
}

/* The last part ended while the unlock was in its queue, or ran. */
static void an_unlock_that_comes_late_does_not_wait(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect wait = unlock("look", "g", 2), part = {.kind = EFFECT_PART, .chord = "g"};
    publish(w, (struct effect[]){part, part}, 2);
    publish(w, &wait, 1);
    expect_element("q", 0, "look");
    wait.priority = 3;
    wait.text = slice_of("again");
    publish(w, &wait, 1);
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), 1);
    TELL("HSET cworker.chord.g set {q}.cworker.delayed member gone");
    publish(w, &part, 1);
    assert_int_equal(NUMBER("LLEN q"), 1);
    worker_close(w);
}

static void a_body_is_sent_once(void **state)
{
    (void)state;
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect sent[] = {{.kind = EFFECT_PART, .chord = "outer"},
                            {.kind = EFFECT_BODY, .chord = "g"},
                            {.kind = EFFECT_SEND, .queue = "to", .text = slice_of("body")},
                            delayed("later", "id"),
                            {.kind = EFFECT_FORGET, .queue = "q", .id = "i", .tag = "t"}};
    channel_set_window(w->c, 2);
    push("q", "one");
    push("q", "two");
    WAIT_FOR(w->n == 2);
    for (size_t i = 0; i < 2; i++) {
        TELL("HSET {q}.cworker.outbox i/t x");
        channel_settle(w->c, &w->items[i].d, sent, 5, settled, w);
        WAIT_FOR(w->n_settled == i + 1);
        assert_int_equal(w->last_code, 0);
        assert_int_equal(NUMBER("EXISTS {q}.cworker.outbox"), 0);
    }
    assert_int_equal(NUMBER("LLEN to"), 1);
    assert_int_equal(NUMBER("ZCARD {q}.cworker.delayed"), 1);
    assert_int_equal(inflight_count(w), 0);
    struct effect part = {.kind = EFFECT_PART, .chord = "g"}, wait = unlock("look", "g", 1);
    publish(w, (struct effect[]){part, wait}, 2);
    assert_int_equal(NUMBER("HLEN cworker.chord.g"), 1);
    worker_close(w);
}

/* A script that fails half-way is not undone: the message would be gone, and what it causes too. */
static void garbage_beside_an_ack_harms_nothing(void **state)
{
    (void)state;
    static const char *const counts[] = {"n x", "n 9223372036854775807", "n 5 size x member m",
                                         "n 5 size 1 member m", "n 5 size 1 at x member m set q list q",
                                         "n 5 size 1 member m set lease list q"};
    enum { N = sizeof counts / sizeof *counts };
    struct worker *w = worker_open(tcp_url, (struct channel_options){0});
    struct effect all[] = {{.kind = EFFECT_PART, .chord = "g"},
                           {.kind = EFFECT_LEASE, .text = slice_of("lease"), .id = "me"},
                           {.kind = EFFECT_SEND, .queue = "to", .text = slice_of("next")}};
    TELL("HSET lease me me");
    channel_set_window(w->c, N);
    for (int i = 0; i < N; i++)
        push("q", "message");
    WAIT_FOR(w->n == N);
    for (size_t i = 0; i < N; i++) {
        char command[120];
        snprintf(command, sizeof command, "HSET cworker.chord.g %s", counts[i]);
        TELL("DEL cworker.chord.g");
        freeReplyObject(ask(command));
        channel_settle(w->c, &w->items[i].d, all, 3, settled, w);
        WAIT_FOR(w->n_settled == i + 1);
        assert_int_equal(w->last_code, 0);
    }
    assert_int_equal(NUMBER("LLEN to"), N);
    assert_int_equal(NUMBER("HLEN lease"), 1);
    worker_close(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(delayed_messages_come_at_once),
        TEST(a_message_that_is_delayed_a_moment_later_comes_too),
        TEST(one_worker_searches_for_all),
        TEST(one_queues_delays_are_looked_for_there_alone),
        TEST(what_is_asked_for_one_by_one_is_searched_for_together),
        TEST(a_search_outlives_its_connection),
        TEST(leases_end_with_the_ack),
        TEST(parts_bring_their_unlock_forward),
        TEST(an_unlock_that_comes_late_does_not_wait),
        TEST(a_body_is_sent_once),
        TEST(garbage_beside_an_ack_harms_nothing),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
