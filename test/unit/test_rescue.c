/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* What a dead worker held comes back: at once where its death is proved, else with its lease. */

/* A child process opens a channel, takes `n` messages and dies without a word. */
static void child_dies_holding(size_t n, double lease)
{
    pid_t pid = fork();
    if (pid == 0) {
        base = event_base_new();
        struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = lease});
        channel_set_window(w->c, n);
        WAIT_FOR(w->n == n);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void envelopes_push(int n)
{
    for (int i = 0; i < n; i++) {
        char *text = mem_printf("{\"body\": \"\", \"headers\": {}, \"properties\": {\"delivery_info\": "
                                "{\"exchange\": \"\"}, \"n\": %d}}", i);
        push("q", i == 1 ? "no envelope" : text);
        free(text);
    }
}

static void expect_rescued(struct worker *w, size_t n)
{
    channel_set_window(w->c, n);
    WAIT_FOR(w->n == n);
    for (size_t i = 0; i < n; i++) {
        char *number = mem_printf("\"n\": %zu", i);
        if (i == 1)
            assert_string_equal(w->items[i].text, "no envelope");
        else
            assert_non_null(strstr(w->items[i].text, number));
        if (i != 1 && i < 4)
            assert_non_null(strstr(w->items[i].text, "redelivered"));
        free(number);
    }
    WAIT_FOR(NUMBER("HLEN cworker.incarnations") == 1);
    settle_all(w);
    worker_close(w);
    assert_int_equal(NUMBER("KEYS *cworker*"), 0);
}

static void death_that_can_be_proved(void **state)
{
    (void)state;
    envelopes_push(6);
    child_dies_holding(4, 600);
    assert_int_equal(NUMBER("LLEN q"), 2);
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 600});
    WAIT_FOR(NUMBER("LLEN q") == 6);
    expect_rescued(w, 6);
}

static void death_that_only_the_lease_shows(void **state)
{
    (void)state;
    envelopes_push(250);
    child_dies_holding(230, 1);
    redisReply *all = ask("HGETALL cworker.incarnations");
    cJSON *about = json_parse(all->element[1]->str, all->element[1]->len, NULL);
    json_set(about, "host", cJSON_CreateString("elsewhere"));
    char *text = json_text(about);
    TELL("HSET cworker.incarnations %s %s", all->element[0]->str, text);
    free(text);
    cJSON_Delete(about);
    TELL("HSET cworker.incarnations broken {");
    TELL("HDEL cworker.incarnations broken");
    TELL("DEL cworker.lease.%s", all->element[0]->str);
    double start = seconds_now();
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 1});
    WAIT_FOR(NUMBER("LLEN q") == 250);
    assert_true(seconds_now() - start > 0.9); /* not before a full lease has been watched */
    freeReplyObject(all);
    expect_rescued(w, 250);
}

static const char NEIGHBOUR[] = "{\"v\": 1, \"node\": \"n\", \"host\": \"elsewhere\", \"boot\": \"b\", "
                                "\"pid\": 1, \"start\": 1, \"lease_ms\": 600000, \"lists\": []}";

/* A worker of another host with a lease of ten minutes, of which `ms` are left: only the fast way can
 * find it dead before this test gives up. */
static void neighbour_make(const char *id, int ms)
{
    cJSON *about = json_parse(NEIGHBOUR, strlen(NEIGHBOUR), NULL), *pair = cJSON_CreateArray();
    char *list = mem_printf("{q}.cworker.inflight.%s", id);
    cJSON_AddItemToArray(pair, cJSON_CreateString(list));
    cJSON_AddItemToArray(pair, cJSON_CreateString("q"));
    cJSON_AddItemToArray(json_get(about, "lists"), pair);
    char *text = json_text(about);
    TELL("HSET cworker.incarnations %s %s", id, text);
    TELL("SET cworker.lease.%s %s PX %d", id, id, ms);
    TELL("LPUSH %s m", list);
    free(text);
    free(list);
    cJSON_Delete(about);
}

/* A list that is none must not keep the others, and what is no in-flight list of its own is not
 * emptied: least of all a queue into itself, which would never end. */
static void registrations_of_garbage(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "[]", "{\"v\": 1}", "{\"v\": 1, \"lists\": [1]}", "{\"v\": 1, \"lists\": [[\"other\", \"q\"]]}",
        "{\"v\": 1, \"lease_ms\": -1, \"lists\": [[\"other\", \"other\"]]}",
        "{\"v\": 1, \"lease_ms\": 9223372036854775807, \"lists\": []}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        TELL("HSET cworker.incarnations bad%d %s", (int)i, bad[i]);
    push("other", "m");
    TELL("HSET cworker.incarnations dead %s",
         "{\"v\": 1, \"lease_ms\": 100, \"lists\": [[\"{q}.cworker.inflight.dead.3\", \"q\"], "
         "[\"{q}.cworker.inflight.dead.6\", \"wrong\"], [\"{q}.cworker.inflight.dead\", \"q\"]]}");
    TELL("SET {q}.cworker.inflight.dead.3 text");
    TELL("SET wrong text");
    push("{q}.cworker.inflight.dead.6", "kept");
    push("{q}.cworker.inflight.dead", "saved");
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 1});
    WAIT_FOR(NUMBER("LLEN q") == 1);
    expect_element("q", 0, "saved");
    loop_for(1);
    expect_element("other", 0, "m");
    expect_element("{q}.cworker.inflight.dead.6", 0, "kept");
    assert_int_equal(NUMBER("HEXISTS cworker.incarnations dead"), 1);
    assert_true(w->n_notes < 10);
    worker_close(w);
}

static void a_lease_that_was_seen_to_end(void **state)
{
    (void)state;
    neighbour_make("gone", 1500);
    neighbour_make("lives", 600000);
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 6});
    WAIT_FOR(NUMBER("LLEN q") == 1);
    assert_int_equal(NUMBER("EXISTS cworker.lease.gone"), 0);
    assert_int_equal(NUMBER("LLEN {q}.cworker.inflight.lives"), 1);
    WAIT_FOR(NUMBER("HLEN cworker.incarnations") == 2);
    worker_close(w);
}

static void a_lease_that_was_taken_away_proves_nothing(void **state)
{
    (void)state;
    neighbour_make("evicted", 500000);
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 1});
    loop_for(0.5);
    TELL("DEL cworker.lease.evicted");
    loop_for(2);
    assert_int_equal(NUMBER("LLEN {q}.cworker.inflight.evicted"), 1);
    worker_close(w);
}

static void leases_that_end_while_redis_stands_still(void **state)
{
    (void)state;
    neighbour_make("lives", 1200);
    struct worker *w = worker_open(tcp_url, (struct channel_options){.lease = 3});
    loop_for(0.1);
    kill(server, SIGSTOP);
    loop_for(3);
    kill(server, SIGCONT);
    loop_for(2.5);
    assert_int_equal(NUMBER("EXISTS cworker.lease.lives"), 0);
    assert_int_equal(NUMBER("LLEN {q}.cworker.inflight.lives"), 1);
    worker_close(w);
}

static void living_neighbours_are_left_alone(void **state)
{
    (void)state;
    push("q", "m");
    TELL("HSET cworker.incarnations broken {");
    struct worker *a = worker_open(tcp_url, (struct channel_options){.lease = 1});
    channel_set_window(a->c, 1);
    WAIT_FOR(a->n == 1);
    struct worker *b = worker_open(tcp_url, (struct channel_options){.lease = 1});
    channel_set_window(b->c, 1);
    loop_for(3);
    assert_int_equal(b->n, 0);
    assert_int_equal(a->n_lost, 0);
    settle_all(a);
    assert_int_equal(a->last_code, 0);
    worker_close(a);
    worker_close(b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(death_that_can_be_proved),
        TEST(death_that_only_the_lease_shows),
        TEST(registrations_of_garbage),
        TEST(a_lease_that_was_seen_to_end),
        TEST(a_lease_that_was_taken_away_proves_nothing),
        TEST(leases_that_end_while_redis_stands_still),
        TEST(living_neighbours_are_left_alone),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
