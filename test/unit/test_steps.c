/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/channel_rig.h"

/* Every interleaving of two workers, and one of them killed or paused at every point of it, over the real
 * sequence of Redis steps: take the lease, fetch, ask the store, record what the task causes, store its
 * result, settle; and of the other: see the lease gone, give back, fetch. Each step is the command or
 * script that the worker itself sends, run against a real Redis; the scheduler alone is the test's. A
 * state that was met before (all of Redis, both workers' positions) is not looked at again. */

enum step { LEASE, FETCH, ASK, START, RECORD, STORE, SETTLE, LOOK, IDLE };
enum fate { ALIVE, KILLED, PAUSED, RESUMED };
enum choice { STEP_A, STEP_B, KILL_A, PAUSE_A, RESUME_A, N_CHOICES };

struct actor {
    const char *name, *other;
    enum step at;
    enum fate fate;
    bool marked;      /* the message in hand was delivered before */
    bool lapsed;      /* its lease went: it knows before it starts a task, not before it settles */
    bool in_hand;
    bool had_result;  /* there was one when this message came */
};

static struct {
    struct actor a, b;
    bool faulted;
    int started;
    bool delays; /* what follows waits in the delayed set */
} world;

static const char PLAIN[] = "message", MARKED[] = "message, redelivered";
enum { MAX_DEPTH = 60, MAX_STATES = 20000 };

static const char *element(const struct actor *w)
{
    return w->marked ? MARKED : PLAIN;
}

static long long script(const struct redis_script *s, int n_keys, int argc, const char **words)
{
    char keys[8];
    snprintf(keys, sizeof keys, "%d", n_keys);
    const char *argv[40] = {"EVAL", s->body, keys};
    memcpy(argv + 3, words, (size_t)argc * sizeof *words);
    redisReply *reply = redisCommandArgv(admin, argc + 3, argv, NULL);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s", reply->str);
    return number_of(reply);
}

#define SCRIPT(s, n_keys, ...)                                                                     \
    script(&(s), (n_keys), sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *),                 \
           (const char *[]){__VA_ARGS__})

static const char *inflight_of(const char *name)
{
    return name[0] == 'a' ? "{q}.cworker.inflight.a" : "{q}.cworker.inflight.b";
}

static const char *lease_of(const char *name)
{
    return name[0] == 'a' ? "cworker.lease.a" : "cworker.lease.b";
}

static void take_lease(struct actor *w)
{
    SCRIPT(script_lease_take, 2, lease_of(w->name), "cworker.incarnations", w->name, "600000", "{}");
    w->at = FETCH;
}

static void fetch(struct actor *w)
{
    redisReply *reply = ask("LMOVE q %s RIGHT LEFT", inflight_of(w->name));
    w->in_hand = reply->type == REDIS_REPLY_STRING;
    w->marked = w->in_hand && strcmp(reply->str, MARKED) == 0;
    w->had_result = NUMBER("EXISTS result") == 1;
    w->at = !w->in_hand ? LOOK : w->marked ? ASK : START;
    freeReplyObject(reply);
}

static void drop(struct actor *w)
{
    w->in_hand = false;
    w->at = FETCH;
}

static void ask_store(struct actor *w)
{
    w->at = NUMBER("EXISTS result") ? SETTLE : START;
}

static void start(struct actor *w)
{
    if (w->lapsed) {
        drop(w);
        return;
    }
    if (w->had_result)
        fail_msg("a task with a stored result was started again");
    world.started++;
    w->at = RECORD;
}

static void record(struct actor *w)
{
    if (SCRIPT(script_settle, 2, inflight_of(w->name), "{q}.cworker.outbox", "held", element(w), "H",
               "id/tag", "next"))
        w->at = STORE;
    else
        drop(w);
}

static void store(struct actor *w)
{
    TELL("SETNX result SUCCESS");
    w->at = SETTLE;
}

static void settle(struct actor *w)
{
    if (world.delays)
        SCRIPT(script_settle, 4, inflight_of(w->name), "{q}.cworker.delayed",
               "{q}.cworker.delayed.msg", "{q}.cworker.outbox", "text", element(w), "Z", "1", "id",
               "1 0 next", "D", "id/tag");
    else
        SCRIPT(script_settle, 3, inflight_of(w->name), "next", "{q}.cworker.outbox", "text",
               element(w), "L", "next", "D", "id/tag");
    drop(w);
}

/* Gives back what a dead one holds, each element marked. */
static void look(struct actor *w)
{
    redisReply *held = ask("LRANGE %s 0 -1", inflight_of(w->other));
    long long n = 0;
    if (held->elements && !NUMBER("EXISTS %s", lease_of(w->other)))
        n = SCRIPT(script_give_back, 3, inflight_of(w->other), "q", lease_of(w->other),
                   held->element[0]->str, MARKED);
    freeReplyObject(held);
    w->at = n > 0 ? FETCH : IDLE;
}

static void step(struct actor *w)
{
    static void (*const steps[])(struct actor *) = {
        [LEASE] = take_lease, [FETCH] = fetch,   [ASK] = ask_store,  [START] = start,
        [RECORD] = record,    [STORE] = store,   [SETTLE] = settle,  [LOOK] = look,
    };
    steps[w->at](w);
}

static void lapse(struct actor *w)
{
    TELL("DEL %s", lease_of(w->name));
    w->lapsed = true;
    world.faulted = true;
    if (world.b.at == IDLE)
        world.b.at = LOOK;
}

static bool may(enum choice c)
{
    const struct actor *a = &world.a;
    switch (c) {
    case STEP_A:
        return a->at != IDLE && (a->fate == ALIVE || a->fate == RESUMED);
    case STEP_B:
        return world.b.at != IDLE;
    case KILL_A:
    case PAUSE_A:
        return !world.faulted && a->at != LEASE;
    default:
        return a->fate == PAUSED;
    }
}

static void take(enum choice c)
{
    switch (c) {
    case STEP_A:
        step(&world.a);
        break;
    case STEP_B:
        step(&world.b);
        break;
    case KILL_A:
        world.a.fate = KILLED;
        lapse(&world.a);
        break;
    case PAUSE_A:
        world.a.fate = PAUSED;
        lapse(&world.a);
        break;
    default:
        world.a.fate = RESUMED;
    }
}

static void replay(const enum choice *path, int depth)
{
    bool delays = world.delays;
    memset(&world, 0, sizeof world);
    world.delays = delays;
    world.a = (struct actor){.name = "a", .other = "b"};
    world.b = (struct actor){.name = "b", .other = "a"};
    TELL("FLUSHALL");
    TELL("LPUSH q %s", PLAIN);
    for (int i = 0; i < depth; i++)
        take(path[i]);
}

/* All that can make a difference from here on, as text. */
static void describe(char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%d%d%d%d%d%d/%d%d%d%d/%d", world.a.at, world.a.fate,
                                world.a.marked, world.a.lapsed, world.a.in_hand, world.faulted,
                                world.b.at, world.b.marked, world.b.lapsed, world.b.in_hand,
                                world.started);
    static const char *const lists[] = {"q", "next", "{q}.cworker.inflight.a",
                                        "{q}.cworker.inflight.b"};
    for (size_t i = 0; i < 4; i++) {
        redisReply *all = ask("LRANGE %s 0 -1", lists[i]);
        n += (size_t)snprintf(out + n, size - n, "/%zu", all->elements);
        for (size_t k = 0; k < all->elements; k++)
            n += (size_t)snprintf(out + n, size - n, "%zu,", all->element[k]->len);
        freeReplyObject(all);
    }
    snprintf(out + n, size - n, "/%lld%lld%lld", NUMBER("EXISTS result"),
             NUMBER("HLEN {q}.cworker.outbox"), NUMBER("ZCARD {q}.cworker.delayed"));
}

static char *seen[MAX_STATES];
static int n_seen, n_ends;

static bool is_new(void)
{
    char text[400];
    describe(text, sizeof text);
    for (int i = 0; i < n_seen; i++)
        if (strcmp(seen[i], text) == 0)
            return false;
    assert_true(n_seen < MAX_STATES);
    seen[n_seen++] = mem_dup(text);
    return true;
}

static void print_path(const enum choice *path, int depth)
{
    static const char *const names[] = {"A", "B", "kill A", "pause A", "resume A"};
    for (int i = 0; i < depth; i++)
        print_error("%s%s", i ? ", " : "after: ", names[path[i]]);
    print_error("\n");
}

/* Nobody has anything left to do: what must hold, whatever the order was. */
static void check_end(const enum choice *path, int depth)
{
    long long published = world.delays ? NUMBER("ZCARD {q}.cworker.delayed") : NUMBER("LLEN next");
    long long left = NUMBER("LLEN q") + NUMBER("LLEN %s", inflight_of("a")) +
                     NUMBER("LLEN %s", inflight_of("b"));
    int most = world.faulted ? 2 : 1;
    n_ends++;
    if (published == 1 && left == 0 && NUMBER("EXISTS result") == 1 &&
        NUMBER("HLEN {q}.cworker.outbox") == 0 && world.started >= 1 && world.started <= most)
        return;
    print_path(path, depth);
    fail_msg("published %lld times, started %d times, %lld left, %lld in the outbox", published,
             world.started, left, NUMBER("HLEN {q}.cworker.outbox"));
}

static void explore(enum choice *path, int depth)
{
    bool any = false;
    assert_true(depth < MAX_DEPTH);
    for (enum choice c = 0; c < N_CHOICES; c++) {
        replay(path, depth);
        if (!may(c))
            continue;
        any |= c == STEP_A || c == STEP_B || c == RESUME_A;
        path[depth] = c;
        take(c);
        if (is_new())
            explore(path, depth + 1);
    }
    replay(path, depth);
    if (!any)
        check_end(path, depth);
}

static void explore_all(bool delays)
{
    enum choice path[MAX_DEPTH];
    n_seen = n_ends = 0;
    world.delays = delays;
    explore(path, 0);
    print_message("%d states, %d ends\n", n_seen, n_ends);
    assert_true(n_seen > 100 && n_ends >= 5);
    while (n_seen > 0)
        free(seen[--n_seen]);
}

static void what_follows_is_sent_once(void **state)
{
    (void)state;
    explore_all(false);
}

static void a_retry_is_delayed_once(void **state)
{
    (void)state;
    explore_all(true);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_follows_is_sent_once),
        TEST(a_retry_is_delayed_once),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
