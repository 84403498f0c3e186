/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/pool_rig.h"

/* The pool's lanes: more and fewer of them while it works, those of threads, the one of solo. */

/* --- another number of lanes --- */

static int pids(void)
{
    pid_t all[16];
    return pool_pids(rig->pool, all, 16);
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

/* --- threads and solo --- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_resize, clean_up),
        cmocka_unit_test_teardown(test_restart, clean_up),
        cmocka_unit_test_teardown(test_threads, clean_up),
        cmocka_unit_test_teardown(test_threads_retire, clean_up),
        cmocka_unit_test_teardown(test_solo, clean_up),
        cmocka_unit_test_teardown(test_solo_runs_beside_the_loop, clean_up),
        cmocka_unit_test_teardown(test_solo_begins_with_the_lease_only, clean_up),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
