/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/pool_rig.h"

/* The pool with real processes. The one idea: task_run is replaced by a small one (pool_rig.h), so
 * that each test can tell what the pool reported from what really happened. */

/* --- frames --- */

static void test_frames(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(FRAME_MAX);
    struct task_frame f = {.job = 7,
                           .def = 3,
                           .soft_limit = 1.5,
                           .id = {"abc", 3},
                           .body = {"[]", 2},
                           .parent_id = {"", 0}},
                      got;
    struct outcome_frame o = {.job = 9,
                              .kind = RESULT_RETRY,
                              .countdown = 2,
                              .result = {"{}", 2},
                              .sends = {"[1]", 3}},
                         outcome;
    frame_put_task(&b, &f);
    size_t size = b.size;
    for (size_t i = 0; i < size; i++)
        assert_int_equal(frame_complete(b.data, i), 0);
    assert_int_equal(frame_complete(b.data, size), size);
    assert_int_equal(frame_get_task(b.data, size, &got), 0);
    assert_true(got.job == 7 && got.def == 3 && got.soft_limit == 1.5);
    assert_true(got.id.size == 3 && memcmp(got.id.at, "abc", 3) == 0);
    assert_null(got.group_id.at);
    assert_non_null(got.parent_id.at);
    assert_int_equal(frame_get_outcome(b.data, size, &outcome), ERROR_INVALID);
    buf_reset(&b);
    frame_put_outcome(&b, &o);
    assert_int_equal(frame_kind_of(b.data), FRAME_OUTCOME);
    assert_int_equal(frame_get_outcome(b.data, b.size, &outcome), 0);
    assert_true(outcome.kind == RESULT_RETRY && memcmp(outcome.sends.at, "[1]", 3) == 0);
    srand(1);
    for (int i = 0; i < 20000; i++) {
        char *copy = mem_ndup(b.data, b.size);
        for (int k = 0; k < 4; k++)
            copy[(size_t)rand() % b.size] = (char)rand();
        if (frame_complete(copy, b.size) > 0 && frame_get_outcome(copy, b.size, &outcome) == 0)
            assert_true(outcome.result.size + outcome.traceback.size + outcome.repr.size +
                            outcome.sends.size ==
                        5);
        free(copy);
    }
    struct buf small = BUF_INIT(100);
    frame_put_task(&small, &f);
    assert_true(small.failed && small.size == 0);
    buf_done(&small);
    buf_done(&b);
}

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
        submit_limited(DO_TINY, i == 5 ? "5000000" : "12000", 0, 0.5); /* 700 ms in a row */
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
    srand(7);
    while (rig->last < 30000) {
        while (pool_room(rig->pool) > 0 && rig->last < 30000)
            submit(rand() % 50 ? DO_TINY : DO_RETURN, rand() % 500 ? "0" : "7000");
        turn();
        pid_t pids[8];
        int n = pool_pids(rig->pool, pids, 8);
        if (n > 0 && now() > shoot) {
            kill(pids[rand() % n], SIGKILL);
            shoot = now() + (double)(rand() % 30) / 1000;
        }
    }
    UNTIL(pool_running(rig->pool) == 0);
    int lost = expect_once_each(first, rig->last);
    assert_true(lost < 200);
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
    while (now() < end) {
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

/* --- threads and solo --- */

/* --- another number of lanes --- */

static int pids(void)
{
    pid_t all[16];
    return pool_pids(rig->pool, all, 16);
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

static void test_resize(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    UNTIL(pids() == 2);
    uint64_t a = submit(DO_SLEEP, "90000"), b = submit(DO_SLEEP, "90000");
    UNTIL(job(a)->starts && job(b)->starts);
    assert_true(pool_resize(rig->pool, 4));
    assert_int_equal(pool_lanes(rig->pool), 4);
    assert_int_equal(pool_room(rig->pool), 2);
    UNTIL(pids() == 4);
    assert_true(pool_resize(rig->pool, 1)); /* both idle ones go, one of the busy ones when it is done */
    assert_int_equal(pool_room(rig->pool), 0);
    pool_stop(rig->pool, a, CW_REVOKED);
    pool_stop(rig->pool, b, CW_REVOKED);
    UNTIL(job(a)->outcomes && job(b)->outcomes && pids() == 1);
    assert_string_equal(run(DO_RETURN, "x")->text, "x");
    assert_true(pool_resize(rig->pool, 0));
    assert_int_equal(pool_room(rig->pool), 0);
    UNTIL(pids() == 0);
    uint64_t c = submit(DO_RETURN, "y"); /* waits for a lane */
    assert_true(pool_resize(rig->pool, 2));
    UNTIL(job(c)->outcomes);
    rig_close();
}

static void test_restart(void **state)
{
    (void)state;
    enum pool_kind kinds[] = {POOL_PREFORK, POOL_THREADS};
    for (int i = 0; i < 2; i++) {
        rig_open((struct pool_options){.kind = kinds[i], .concurrency = 2});
        struct record *r = run(DO_RETURN, "");
        pid_t before = r->pid;
        uint64_t a = submit(DO_SLEEP, "200");
        UNTIL(job(a)->starts);
        pool_restart(rig->pool);
        assert_true(run(DO_RETURN, "")->pid != before);
        UNTIL(job(a)->outcomes);
        assert_true(pool_resize(rig->pool, 3));
        UNTIL(pool_room(rig->pool) == 3);
        rig_close();
    }
}

static void test_threads(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_THREADS, .concurrency = 4});
    for (int i = 0; i < 4; i++)
        submit(DO_SLEEP, "90000");
    UNTIL(job(1)->starts && job(2)->starts && job(3)->starts && job(4)->starts);
    assert_true(job(1)->pid == job(4)->pid);
    for (uint64_t j = 1; j <= 4; j++)
        pool_stop(rig->pool, j, CW_REVOKED);
    UNTIL(rig->ended == 4);

    uint64_t a = submit(DO_SLEEP, "90000"), b = submit(DO_SLEEP, "90000");
    UNTIL(job(a)->starts && job(b)->starts);
    uint64_t guilty = submit(DO_CRASH, "");
    UNTIL(pool_running(rig->pool) == 0);
    assert_int_equal(job(guilty)->why, POOL_CRASHED);
    assert_true(job(a)->why == POOL_ORPHANED && job(b)->why == POOL_ORPHANED);

    a = submit(DO_SLEEP, "90000");
    UNTIL(job(a)->starts);
    guilty = submit_limited(DO_SPIN, "", 0, 1);
    uint64_t stopped = submit(DO_SLEEP, "90000");
    UNTIL(job(stopped)->starts);
    pool_stop(rig->pool, stopped, CW_REVOKED);
    UNTIL(pool_running(rig->pool) == 0);
    assert_int_equal(job(guilty)->why, POOL_HARD_LIMIT);
    assert_int_equal(job(a)->why, POOL_ORPHANED);
    assert_int_equal(job(stopped)->kind, RESULT_FAILURE);
    assert_int_equal(run(DO_BIG, "")->size, BIG);
    rig_close();
}

static void test_threads_retire(void **state)
{
    (void)state;
    rig_open(
        (struct pool_options){.kind = POOL_THREADS, .concurrency = 3, .max_tasks_per_child = 5});
    rig->resubmit = true;
    for (int i = 0; i < 200; i++) {
        UNTIL(pool_room(rig->pool) > 0);
        submit(i % 2 ? DO_RETURN : DO_SLEEP, "3");
    }
    UNTIL(pool_running(rig->pool) == 0);
    assert_int_equal(expect_once_each(1, rig->last), 0);
    rig_close();
}

static void test_solo(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_SOLO, .concurrency = 4});
    assert_int_equal(pool_room(rig->pool), 1);
    uint64_t j = submit(DO_STATE, "solo");
    assert_int_equal(pool_room(rig->pool), 0);
    UNTIL(job(j)->outcomes);
    assert_string_equal(job(j)->text, "solo");
    assert_true(job(j)->pid == getpid() && job(j)->starts == 1 && job(j)->states == 1);
    assert_true(rig->rooms > 0);
    assert_false(pool_terminate(rig->pool, j, SIGTERM));
    for (int i = 0; i < 300; i++)
        assert_string_equal(run(i % 2 ? DO_STATE : DO_RETURN, "again")->text, "again");
    assert_int_equal(run(DO_BIG, "")->size, BIG);
    rig_close();
}

/* The loop turns while the task runs, may ask it to end, and cannot do more. */
static void test_solo_runs_beside_the_loop(void **state)
{
    (void)state;
    pid_t pid;
    int64_t started;
    rig_open((struct pool_options){.kind = POOL_SOLO, .concurrency = 1});
    uint64_t j = submit(DO_SLEEP, "90000");
    UNTIL(job(j)->starts);
    assert_true(pool_job_runs(rig->pool, j, &pid, &started) && pid == getpid());
    assert_false(pool_job_runs(rig->pool, j + 1, &pid, &started));
    assert_false(pool_terminate(rig->pool, j, SIGTERM));
    pool_recall(rig->pool);
    turn();
    assert_int_equal(job(j)->losses, 0);
    pool_stop(rig->pool, j + 1, CW_REVOKED);
    turn();
    assert_int_equal(pool_running(rig->pool), 1);
    pool_stop(rig->pool, j, CW_REVOKED);
    UNTIL(job(j)->outcomes);
    assert_int_equal(job(j)->kind, RESULT_FAILURE);
    assert_int_equal(run(DO_SLEEP, "1")->kind, RESULT_SUCCESS); /* that stop was not for it */

    j = submit(DO_SLEEP, "90000");
    UNTIL(job(j)->starts);
    pool_shut(rig->pool, true);
    UNTIL(job(j)->outcomes);
    rig_close();

    rig_open((struct pool_options){.kind = POOL_SOLO, .concurrency = 1});
    j = submit(DO_SLEEP, "90000");
    UNTIL(job(j)->starts);
    rig_close(); /* asks it to end, and tells nobody of it */
}

static void test_solo_begins_with_the_lease_only(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_SOLO, .concurrency = 1});
    pool_begin_until(rig->pool, 0);
    uint64_t j = submit(DO_RETURN, "late");
    turn();
    assert_int_equal(job(j)->starts, 0);
    pool_begin_until(rig->pool, INT64_MAX);
    UNTIL(job(j)->outcomes);

    pool_begin_until(rig->pool, 0);
    j = submit(DO_RETURN, "comes back");
    pool_recall(rig->pool);
    UNTIL(job(j)->losses);
    assert_int_equal(job(j)->why, POOL_UNSTARTED);
    j = submit(DO_RETURN, "is revoked");
    assert_true(pool_terminate(rig->pool, j, SIGTERM));
    UNTIL(job(j)->losses);
    assert_int_equal(job(j)->why, POOL_UNSTARTED);
    j = submit(DO_RETURN, "waits");
    pool_shut(rig->pool, true);
    assert_int_equal(job(j)->why, POOL_UNSTARTED);
    assert_int_equal(atomic_load(&seen->runs[j]), 0);
    rig_close();
}

/* --- ends --- */

static void test_shut(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    uint64_t a = submit(DO_FORK, "spin"), b = submit(DO_SPIN, ""), c = submit(DO_RETURN, "");
    UNTIL(job(a)->starts && job(b)->starts && seen->tool);
    pool_shut(rig->pool, true);
    assert_true(job(a)->why == POOL_TERMINATED && job(b)->why == POOL_TERMINATED);
    assert_true(job(c)->why == POOL_UNSTARTED);
    assert_int_equal(rig->ended, 3);
    rig_close();
    assert_true(is_gone(seen->tool));

    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    a = submit(DO_SLEEP, "100");
    UNTIL(job(a)->starts);
    pool_shut(rig->pool, false);
    assert_int_equal(pool_room(rig->pool), 0);
    UNTIL(job(a)->outcomes);
    rig_end(false);
    assert_int_equal(seen->closed, 2);
}

static void test_zygote_dies(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
    uint64_t a = submit(DO_FORK, "spin"), b = submit(DO_SLEEP, "90000"), c = submit(DO_RETURN, "");
    UNTIL(job(a)->starts && job(b)->starts && seen->tool);
    kill(rig->zygote->pid, SIGKILL);
    UNTIL(rig->broken);
    assert_true(job(a)->why == POOL_ORPHANED && job(b)->why == POOL_ORPHANED);
    assert_int_equal(job(c)->why, POOL_UNSTARTED);
    assert_int_equal(pool_room(rig->pool), 0);
    UNTIL(is_gone(seen->tool) && is_gone(job(a)->pid) && is_gone(job(b)->pid));
    rig_close();
}

/* Here no signal ends the child of a zygote that is killed, nor does main, which does not look: what
 * it holds and has not begun stays so all the same. */
static void test_zygotes_orphans_begin_nothing(void **state)
{
    (void)state;
    enum { HELD = 20 };
    for (enum pool_kind kind = POOL_PREFORK; kind <= POOL_THREADS; kind++) {
        rig_open((struct pool_options){.kind = kind, .concurrency = 1});
        learn_tiny();
        uint64_t first = submit(DO_TINY, "outlive");
        for (int i = 1; i < HELD; i++)
            submit(DO_TINY, "0");
        UNTIL(seen->tool);
        kill(rig->zygote->pid, SIGKILL);
        for (double end = now() + PATIENCE; !is_gone(rig->zygote->pid) && now() < end;)
            msleep(2);
        msleep(100); /* the first one ends, and the others could begin */
        assert_int_equal(seen->runs[first], 1);
        for (uint64_t i = first + 1; i <= rig->last; i++)
            assert_int_equal(seen->runs[i], 0);
        UNTIL(rig->broken);
        for (uint64_t i = first + 1; i <= rig->last; i++)
            assert_int_equal(job(i)->why, POOL_UNSTARTED);
        UNTIL(is_gone(seen->tool));
        rig_close();
    }
}

/* A process of its own plays main and is killed. */
static void test_main_dies(void **state)
{
    (void)state;
    pid_t *pids = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t main_pid = fork();
    if (main_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2});
        uint64_t a = submit(DO_DAEMON, "spin"), b = submit(DO_SPIN, "");
        UNTIL(job(a)->starts && job(b)->starts && seen->tool);
        pids[0] = job(a)->pid;
        pids[1] = job(b)->pid;
        pids[2] = rig->zygote->pid;
        if (fork() == 0) /* holds all of main's descriptors open */
            msleep(3000), _exit(0);
        pids[3] = seen->tool;
        for (;;)
            turn();
    }
    for (int i = 0; i < 5000 && pids[3] == 0; i++)
        msleep(2);
    assert_true(pids[3] > 0);
    kill(main_pid, SIGKILL);
    waitpid(main_pid, NULL, 0);
    double end = now() + PATIENCE;
    for (int i = 0; i < 4; i++)
        while (!is_gone(pids[i])) {
            assert_true(now() < end);
            msleep(2);
        }
    munmap(pids, 4096);
}

/* With the zygote stopped nobody ends the children of a main that is killed: what they hold and have
 * not begun stays so all the same. */
static void test_orphans_begin_nothing(void **state)
{
    (void)state;
    enum { HELD = 20 };
    struct {
        pid_t zygote;
        uint64_t first;
        _Atomic bool ready;
    } *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t main_pid = fork();
    if (main_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1});
        learn_tiny();
        told->zygote = rig->zygote->pid;
        told->first = rig->last + 1;
        submit(DO_TINY, "1000000");
        for (int i = 1; i < HELD; i++)
            submit(DO_TINY, "0");
        while (!seen->runs[told->first])
            turn();
        kill(told->zygote, SIGSTOP);
        told->ready = true;
        for (;;)
            pause();
    }
    for (double end = now() + PATIENCE; !told->ready && now() < end;)
        msleep(2);
    assert_true(told->ready);
    kill(main_pid, SIGKILL);
    waitpid(main_pid, NULL, 0);
    msleep(1300); /* the first one ends, and the others could begin */
    kill(told->zygote, SIGCONT);
    for (double end = now() + PATIENCE; !is_gone(told->zygote);) {
        assert_true(now() < end);
        msleep(2);
    }
    assert_int_equal(seen->runs[told->first], 1);
    for (int i = 1; i < HELD; i++)
        assert_int_equal(seen->runs[told->first + (uint64_t)i], 0);
    munmap(told, 4096);
}

/* Behind a lease that has lapsed nothing begins but what is acked; what waits can be taken back, and the
 * rest begins with the next lease. */
static void test_fence(void **state)
{
    (void)state;
    for (enum pool_kind kind = POOL_PREFORK; kind <= POOL_THREADS; kind++) {
        rig_open((struct pool_options){.kind = kind, .concurrency = 2});
        run(DO_RETURN, "");
        pool_begin_until(rig->pool, 0);
        uint64_t a = submit(DO_RETURN, "");
        struct task_frame acked = rig->frames[a];
        acked.job = ++rig->last;
        acked.flags |= TASK_ACKED;
        pool_submit(rig->pool, &acked);
        UNTIL(job(acked.job)->outcomes);
        assert_int_equal(seen->runs[a], 0);
        pool_stop(rig->pool, a, CW_REVOKED);
        UNTIL(job(a)->losses);
        assert_int_equal(job(a)->why, POOL_UNSTARTED);
        uint64_t b = submit(DO_RETURN, ""), c = submit(DO_RETURN, "");
        for (int i = 0; i < 30; i++)
            turn();
        assert_int_equal(seen->runs[a] + seen->runs[b] + seen->runs[c], 0);
        pool_begin_until(rig->pool, INT64_MAX);
        UNTIL(job(b)->outcomes && job(c)->outcomes);
        pool_begin_until(rig->pool, 0);
        uint64_t d = submit(DO_RETURN, ""), e = submit(DO_RETURN, "");
        pool_recall(rig->pool);
        UNTIL(job(d)->losses && job(e)->losses);
        assert_true(job(d)->why == POOL_UNSTARTED && job(e)->why == POOL_UNSTARTED);
        assert_int_equal(seen->runs[a] + seen->runs[d] + seen->runs[e], 0);
        rig_close();
    }
}

static void test_idle(void **state)
{
    (void)state;
    rig_open((struct pool_options){.kind = POOL_PREFORK, .concurrency = 4});
    learn_tiny();
    run(DO_RETURN, "");
    submit_limited(DO_RETURN, "", 0, 0.05);
    UNTIL(pool_running(rig->pool) == 0);
    double end = now() + 0.1;
    while (now() < end)
        turn();
    struct timeval second = {1, 0};
    int turns = 0;
    event_add(rig->tick, &second);
    for (end = now() + 0.9; now() < end; turns++)
        event_base_loop(rig->base, EVLOOP_ONCE);
    assert_int_equal(turns, 1);
    rig_close();
}

/* A test that failed leaves its rig behind. */
static int clean_up(void **state)
{
    (void)state;
    if (rig)
        rig_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_frames, clean_up),
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
        cmocka_unit_test_teardown(test_resize, clean_up),
        cmocka_unit_test_teardown(test_restart, clean_up),
        cmocka_unit_test_teardown(test_threads, clean_up),
        cmocka_unit_test_teardown(test_threads_retire, clean_up),
        cmocka_unit_test_teardown(test_solo, clean_up),
        cmocka_unit_test_teardown(test_solo_runs_beside_the_loop, clean_up),
        cmocka_unit_test_teardown(test_solo_begins_with_the_lease_only, clean_up),
        cmocka_unit_test_teardown(test_shut, clean_up),
        cmocka_unit_test_teardown(test_zygote_dies, clean_up),
        cmocka_unit_test_teardown(test_zygotes_orphans_begin_nothing, clean_up),
        cmocka_unit_test_teardown(test_main_dies, clean_up),
        cmocka_unit_test_teardown(test_orphans_begin_nothing, clean_up),
        cmocka_unit_test_teardown(test_fence, clean_up),
        cmocka_unit_test_teardown(test_idle, clean_up),
    };
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    log_open("/dev/null", LOG_WARNING, false, "false");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
