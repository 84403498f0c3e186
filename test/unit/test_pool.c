/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/pool_rig.h"

/* The pool with real processes: the plain way, deaths, batches, replacements. The one idea:
 * task_run is replaced by a small one (pool_rig.h), so that each test can tell what the pool
 * reported from what really happened. */

/* --- the plain way --- */

static void test_returns(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    assert_int_equal(pool_lanes(rig->pool), 2);
    assert_int_equal(pool_room(rig->pool), 2);
    struct record *r = run(DO_RETURN, "[1, 2]");
    assert_string_equal(r->text, "[1, 2]");
    assert_int_equal(r->kind, RESULT_SUCCESS);
    assert_int_equal(r->starts, 1);
    UNTIL(pool_pids(rig->pool, (pid_t[8]){0}, 8) == 2);

    uint64_t a = submit(DO_SLEEP, "60"), b = submit(DO_SLEEP, "60");
    assert_int_equal(pool_room(rig->pool), 0);
    assert_int_equal(pool_running(rig->pool), 2);
    uint64_t c = submit(DO_RETURN, "x"); /* beyond the room: waits for a lane */
    UNTIL(job(c)->outcomes);
    assert_true(job(a)->outcomes || job(b)->outcomes);
    r = run(DO_STATE, "");
    assert_int_equal(r->states, 1);
    rig_close();
}

static void test_big(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    char *body = mem_alloc(BIG + 1);
    memset(body, 'b', BIG);
    body[BIG] = '\0';
    struct record *r = run(DO_RETURN, body);
    assert_int_equal(r->size, BIG);
    assert_memory_equal(r->text, "bbbbbbbbbb", 10);
    assert_int_equal(run(DO_BIG, "")->size, BIG);
    assert_string_equal(run(DO_RETURN, "after")->text, "after");
    free(body);
    rig_close();
}

/* --- deaths --- */

static void test_crash(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    struct record *r = run(DO_CRASH, "");
    assert_int_equal(r->losses, 1);
    assert_int_equal(r->why, POOL_CRASHED);
    assert_true(WIFSIGNALED(r->status) && WTERMSIG(r->status) == SIGSEGV && r->pid > 0);
    assert_string_equal(run(DO_RETURN, "next")->text, "next");
    r = run(DO_EXIT, "");
    assert_true(r->why == POOL_CRASHED && WIFEXITED(r->status) && WEXITSTATUS(r->status) == 0);
    r = run(DO_RUBBISH, "");
    assert_true(r->losses == 1 && r->why == POOL_CRASHED);
    assert_string_equal(run(DO_RETURN, "next")->text, "next");
    rig_close();
}

static void test_tools_die(void **state)
{
    (void)state;
    static const struct {
        enum behaviour def;
        const char *then;
        double hard;
    } rows[] = {
        {DO_FORK, "crash", 0},
        {DO_FORK, "spin", 0.1},
        {DO_DAEMON, "crash", 0},
        {DO_DAEMON, "spin", 0.1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
        uint64_t j = submit_limited(rows[i].def, rows[i].then, 0, rows[i].hard);
        UNTIL(job(j)->losses);
        assert_int_equal(job(j)->why, rows[i].hard > 0 ? POOL_HARD_LIMIT : POOL_CRASHED);
        UNTIL(is_gone(seen->tool));
        rig_close();
    }
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    assert_int_equal(run(DO_DAEMON, "return")->outcomes, 1);
    assert_false(is_gone(seen->tool));
    rig_close();
    assert_true(is_gone(seen->tool));
}

static void test_limits(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    double begin = now();
    uint64_t soft = submit_limited(DO_SLEEP, "90000", 1.2, 60);
    uint64_t hard = submit_limited(DO_SPIN, "", 1.2, 2);
    uint64_t late = submit_limited(DO_SLEEP, "10", 0, 1); /* waits longer than its limit first */
    UNTIL(rig->ended == 3);
    assert_true(job(soft)->softs == 1 && job(soft)->kind == RESULT_FAILURE);
    assert_true(job(soft)->at - begin > 1.19);
    assert_true(job(hard)->softs == 1 && job(hard)->why == POOL_HARD_LIMIT);
    assert_true(job(hard)->at - begin > 1.99);
    assert_true(job(late)->outcomes == 1);
    assert_int_equal(run(DO_SLEEP, "20")->kind, RESULT_SUCCESS); /* no stop is left over */
    rig_close();
}

static void test_stop_and_terminate(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    uint64_t a = submit(DO_SLEEP, "90000"), b = submit(DO_RETURN, "");
    UNTIL(job(a)->starts);
    pool_stop(rig->pool, b, CW_REVOKED);
    UNTIL(job(b)->losses);
    assert_int_equal(job(b)->why, POOL_UNSTARTED);
    pool_stop(rig->pool, a, CW_REVOKED);
    UNTIL(job(a)->outcomes);
    assert_int_equal(job(a)->kind, RESULT_FAILURE);
    assert_false(pool_terminate(rig->pool, a, SIGTERM));

    a = submit(DO_SLEEP, "90000");
    UNTIL(job(a)->starts);
    assert_true(pool_terminate(rig->pool, a, SIGTERM));
    UNTIL(job(a)->losses);
    assert_true(job(a)->why == POOL_TERMINATED && WTERMSIG(job(a)->status) == SIGTERM);

    a = submit(DO_IGNORE, "");
    UNTIL(job(a)->starts && seen->tool);
    double begin = now();
    assert_true(pool_terminate(rig->pool, a, SIGTERM));
    UNTIL(job(a)->losses);
    assert_true(job(a)->why == POOL_TERMINATED && WTERMSIG(job(a)->status) == SIGKILL);
    assert_true(now() - begin > 0.09);
    rig_close();
}

/* --- batches --- */

static void test_batch_crash(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    learn_tiny();
    assert_int_equal(pool_room(rig->pool), 64);
    rig->resubmit = true;
    uint64_t first = rig->last + 1, poison = 0;
    for (int i = 0; i < 60; i++)
        if (submit(DO_TINY, i == 20 ? "crash" : "0") && i == 20)
            poison = rig->last;
    UNTIL(pool_running(rig->pool) == 0);
    assert_int_equal(expect_once_each(first, rig->last), 1);
    assert_int_equal(job(poison)->why, POOL_CRASHED);
    rig_close();
}

static void test_batch_held_up(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    learn_tiny();
    rig->resubmit = true;
    uint64_t first = rig->last + 1, slow = 0;
    for (int i = 0; i < 100; i++) {
        assert_true(pool_room(rig->pool) > 0);
        submit(DO_TINY, i == 20 ? "2000000" : "0");
        slow = i == 20 ? rig->last : slow;
    }
    UNTIL(pool_running(rig->pool) == 0);
    assert_int_equal(expect_once_each(first, rig->last), 0);
    for (uint64_t j = first; j <= rig->last; j++)
        assert_true(j == slow || job(j)->at < job(slow)->at);
    rig_close();
}

static void test_batch_limits(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    learn_tiny();
    rig->resubmit = true;
    uint64_t first = rig->last + 1;
    for (int i = 0; i < 60; i++)
        submit_limited(DO_TINY, i == 5 ? "9000000" : "40000", 0, 2); /* 2.4 s in a row */
    UNTIL(pool_running(rig->pool) == 0);
    assert_int_equal(expect_once_each(first, rig->last), 1);
    assert_int_equal(job(first + 5)->why, POOL_HARD_LIMIT);
    rig_close();
}

/* Children are shot at random while tiny and other jobs run: each job ends once, and runs once
 * unless it is one that was shot. */
static void test_storm(void **state)
{
    (void)state;
    rig_open(
        (struct pool_options){.kind = POOL_PREFORK, .concurrency = 3, .max_tasks_per_child = 400});
    learn_tiny();
    rig->resubmit = true;
    uint64_t first = rig->last + 1;
    double shoot = now();
    int shots = 0;
    srand(7);
    while (rig->last < 30000) {
        while (pool_room(rig->pool) > 0 && rig->last < 30000)
            submit(rand() % 50 ? DO_TINY : DO_RETURN, rand() % 500 ? "0" : "7000");
        turn();
        pid_t pids[8];
        int n = pool_pids(rig->pool, pids, 8);
        if (n > 0 && now() > shoot) {
            kill(pids[rand() % n], SIGKILL);
            shots++;
            shoot = now() + (double)(rand() % 30) / 1000;
        }
    }
    UNTIL(pool_running(rig->pool) == 0);
    assert_true(expect_once_each(first, rig->last) <= shots);
    rig_close();
}

/* --- replacement --- */

static void test_retire(void **state)
{
    (void)state;
    rig_open(
        (struct pool_options){.kind = POOL_PREFORK, .concurrency = 1, .max_tasks_per_child = 3});
    pid_t pids[7];
    for (int i = 0; i < 7; i++)
        pids[i] = run(DO_RETURN, "")->pid;
    assert_true(pids[0] == pids[2] && pids[2] != pids[3] && pids[3] == pids[5] &&
                pids[5] != pids[6]);
    UNTIL(is_gone(pids[0]));
    assert_true(seen->closed >= 1);
    rig_close();

    rig_open(
        (struct pool_options){.kind = POOL_PREFORK, .concurrency = 1, .max_memory_kb = 1 << 20});
    pids[0] = run(DO_RETURN, "")->pid;
    pids[1] = run(DO_FAT, "")->pid;
    pids[2] = run(DO_RETURN, "")->pid;
    assert_true(pids[0] == pids[1] && pids[1] != pids[2]);
    rig_close();
}

static void test_start_throttle(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    int killed = 0;
    pid_t pid, last = 0;
    double end = now() + 1;
    while (now() < end || (killed < 2 && now() < end + PATIENCE)) { /* longer where starts are slow */
        if (pool_pids(rig->pool, &pid, 1) == 1 && pid != last) {
            killed++;
            last = pid;
            kill(pid, SIGKILL);
        }
        turn();
    }
    assert_in_range(killed, 2, 8);
    assert_string_equal(run(DO_RETURN, "well")->text, "well");
    rig_close();
}

static void test_start_without_descriptors(void **state)
{
    (void)state;
    struct rlimit usual, none;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
    run(DO_RETURN, "");
    getrlimit(RLIMIT_NOFILE, &usual);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = usual.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    run(DO_CRASH, ""); /* whose successor cannot be had now */
    uint64_t j = submit(DO_RETURN, "next");
    for (double end = now() + 0.05; now() < end;)
        turn();
    assert_int_equal(job(j)->outcomes, 0);
    setrlimit(RLIMIT_NOFILE, &usual);
    UNTIL(job(j)->outcomes);
    rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_returns, clean_up),
        cmocka_unit_test_teardown(test_big, clean_up),
        cmocka_unit_test_teardown(test_crash, clean_up),
        cmocka_unit_test_teardown(test_tools_die, clean_up),
        cmocka_unit_test_teardown(test_limits, clean_up),
        cmocka_unit_test_teardown(test_stop_and_terminate, clean_up),
        cmocka_unit_test_teardown(test_batch_crash, clean_up),
        cmocka_unit_test_teardown(test_batch_held_up, clean_up),
        cmocka_unit_test_teardown(test_batch_limits, clean_up),
        cmocka_unit_test_teardown(test_storm, clean_up),
        cmocka_unit_test_teardown(test_retire, clean_up),
        cmocka_unit_test_teardown(test_start_throttle, clean_up),
        cmocka_unit_test_teardown(test_start_without_descriptors, clean_up),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
