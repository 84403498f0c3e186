/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* Kombu's restore of `unacked`: records as a Python worker that died has left them. */

static const char ENVELOPE[] = "{\"body\": \"W10=\", \"headers\": {\"id\": \"%s\"}, \"properties\": "
                               "{\"priority\": %d, \"delivery_info\": {\"exchange\": \"\"}}}";

static struct channel_options usual(void)
{
    return (struct channel_options){.visibility_timeout = 4};
}

static void leave(const char *tag, const char *exchange, const char *key, int priority, double age)
{
    char envelope[400], value[800], score[32];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(envelope, sizeof envelope, ENVELOPE, tag, priority);
    snprintf(value, sizeof value, "[%s, \"%s\", \"%s\"]", envelope, exchange, key);
    snprintf(score, sizeof score, "%.6f", (double)now.tv_sec + (double)now.tv_nsec / 1e9 - age);
    TELL("HSET unacked %s %s", tag, value);
    TELL("ZADD unacked_index %s %s", score, tag);
}

static void expect_one(const char *key, const char *tag)
{
    redisReply *reply = ask("LINDEX %b 0", key, strlen(key));
    assert_int_equal(reply->type, REDIS_REPLY_STRING);
    assert_non_null(strstr(reply->str, tag));
    assert_non_null(strstr(reply->str, "\"redelivered\": true"));
    freeReplyObject(reply);
}

static void the_overdue_come_back(void **state)
{
    (void)state;
    leave("second", "", "q", 0, 90);
    leave("first", "", "q", 0, 100);
    leave("elsewhere", "", "other", 5, 100);
    leave("running", "", "q", 0, 1);
    TELL("ZADD unacked_index 1000 no-record");
    struct worker *w = worker_open(tcp_url, usual());
    WAIT_FOR(NUMBER("LLEN q") == 2 && !NUMBER("EXISTS unacked_mutex"));
    expect_one("q", "second");
    expect_one("other\x06\x16" "3", "elsewhere");
    channel_set_window(w->c, 10);
    WAIT_FOR(w->n == 2);
    assert_non_null(strstr(w->items[0].text, "first"));
    assert_int_equal(NUMBER("HLEN unacked"), 1);
    assert_int_equal(NUMBER("ZCARD unacked_index"), 1);
    WAIT_FOR(w->n == 3); /* its time runs out too */
    settle_all(w);
    worker_close(w);
}

static void more_than_a_batch(void **state)
{
    (void)state;
    for (int limited = 0; limited < 2; limited++) {
        for (int i = 0; i < 250; i++) {
            char tag[24];
            snprintf(tag, sizeof tag, "tag%d", i);
            leave(tag, "", "elsewhere", 0, 1000 + i);
        }
        struct channel_options o = usual();
        o.visibility_timeout = 100;
        o.unacked_restore_limit = limited ? 130 : 0;
        struct worker *w = worker_open(tcp_url, o);
        WAIT_FOR(NUMBER("LLEN elsewhere") == (limited ? 130 : 250));
        expect_one("elsewhere", "tag0");
        loop_for(0.1);
        assert_int_equal(NUMBER("HLEN unacked"), limited ? 120 : 0);
        worker_close(w);
        TELL("DEL elsewhere unacked unacked_index");
    }
}

static void named_exchanges(void **state)
{
    (void)state;
    static const struct {
        const char *exchange, *key, *pattern, *queue;
    } bindings[] = {
        {"direct", "rk", "", "d1"},
        {"topic", "scan.*", "^scan\\.[^\\.]+$", "t1"},
        {"topic", "#.full", "^.*?\\.full$", "t2"},
        {"topic", "scan.*.full", "^scan\\.[^\\.]+\\.full$", "t3"},
    };
    for (size_t i = 0; i < sizeof bindings / sizeof *bindings; i++) {
        char member[100];
        snprintf(member, sizeof member, "%s\x06\x16%s\x06\x16%s", bindings[i].key, bindings[i].pattern,
                 bindings[i].queue);
        TELL("SADD _kombu.binding.%s %b", bindings[i].exchange, member, strlen(member));
    }
    leave("to-d1", "direct", "rk", 0, 100);
    leave("to-t1-t2", "topic", "scan.full", 0, 100);
    leave("to-nobody", "topic", "unknown.key", 0, 100);
    struct worker *w = worker_open(tcp_url, usual());
    WAIT_FOR(!NUMBER("EXISTS unacked"));
    expect_one("d1", "to-d1");
    expect_one("t1", "to-t1-t2");
    expect_one("t2", "to-t1-t2");
    assert_int_equal(NUMBER("EXISTS t3"), 0);
    redisReply *dead = ask("LINDEX {q}.cworker.dead 0");
    assert_non_null(strstr(dead->str, "to-nobody"));
    assert_non_null(strstr(dead->str, "no queue is bound to exchange topic for unknown.key"));
    freeReplyObject(dead);
    worker_close(w);
}

/* Bindings and routing keys are strangers' texts: neither a long one nor many `#` may cost more than
 * their length. */
static void hostile_patterns(void **state)
{
    (void)state;
    enum { WORDS = 400000, HASHES = 40 };
    char *key = mem_alloc(2 * WORDS + 32), *record = mem_alloc(2 * WORDS + 200), member[200];
    for (int i = 0; i < WORDS; i++)
        memcpy(key + 2 * i, "a.", 2);
    strcpy(key + 2 * WORDS, "end");
    int n = snprintf(member, sizeof member, "#.end\x06\x16\x06\x16long");
    TELL("SADD _kombu.binding.topic %b", member, (size_t)n);
    n = 0;
    for (int i = 0; i < HASHES; i++)
        n += snprintf(member + n, sizeof member - (size_t)n, "#.");
    n += snprintf(member + n, sizeof member - (size_t)n, "no\x06\x16\x06\x16never");
    TELL("SADD _kombu.binding.topic %b", member, (size_t)n);
    sprintf(record, "[{\"body\": \"\", \"headers\": {\"id\": \"tag\"}}, \"topic\", \"%s\"]", key);
    TELL("HSET unacked tag %s", record);
    TELL("ZADD unacked_index 1000 tag");
    struct worker *w = worker_open(tcp_url, usual());
    WAIT_FOR(!NUMBER("EXISTS unacked"));
    expect_one("long", "tag");
    assert_int_equal(NUMBER("EXISTS never"), 0);
    worker_close(w);
    free(record);
    free(key);
}

static void unreadable_records_are_kept(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "no json", "[]", "[{}, \"\", \"q\", 1]", "[1, \"\", \"q\"]",
                                      "[{\"properties\": {}}, \"\", \"\"]", "[{}, null, \"q\"]"};
    size_t n = sizeof bad / sizeof *bad;
    for (size_t i = 0; i < n; i++) {
        TELL("HSET unacked bad%d %s", (int)i, bad[i]);
        TELL("ZADD unacked_index 1000 bad%d", (int)i);
    }
    leave("good", "", "q", 0, 100);
    struct worker *w = worker_open(tcp_url, usual());
    WAIT_FOR(!NUMBER("EXISTS unacked"));
    expect_one("q", "good");
    assert_int_equal(NUMBER("LLEN {q}.cworker.dead"), n);
    worker_close(w);
}

static void the_mutex_is_kombus(void **state)
{
    (void)state;
    TELL("SET unacked_mutex somebody");
    leave("tag", "", "q", 0, 100);
    struct worker *w = worker_open(tcp_url, usual()), *other = worker_open(tcp_url, usual());
    loop_for(1.5);
    assert_int_equal(NUMBER("LLEN q"), 0);
    assert_int_equal(NUMBER("PTTL unacked_mutex"), -1);
    TELL("DEL unacked_mutex");
    WAIT_FOR(NUMBER("LLEN q") == 1);
    loop_for(1.5);
    assert_int_equal(NUMBER("LLEN q"), 1);
    worker_close(w);
    worker_close(other);
    assert_int_equal(NUMBER("EXISTS unacked_mutex"), 0);
}

static void wrong_types_harm_nothing(void **state)
{
    (void)state;
    leave("tag", "", "wrong", 0, 100);
    TELL("SET wrong text");
    struct worker *w = worker_open(tcp_url, usual());
    WAIT_FOR(strstr(w->last_note, "WRONGTYPE"));
    assert_int_equal(NUMBER("HLEN unacked"), 1);
    TELL("DEL wrong");
    WAIT_FOR(NUMBER("LLEN wrong") == 1);
    worker_close(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_overdue_come_back),
        TEST(more_than_a_batch),
        TEST(named_exchanges),
        TEST(hostile_patterns),
        TEST(unreadable_records_are_kept),
        TEST(the_mutex_is_kombus),
        TEST(wrong_types_harm_nothing),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
