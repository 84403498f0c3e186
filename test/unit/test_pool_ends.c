/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/pool_rig.h"

/* The ends of main, of the zygote and of the lease: what ran is ended with them, and what had not
 * begun never begins. */

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
    for (double end = now() + PATIENCE; pids[3] == 0 && now() < end;)
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
    UNTIL(pool_running(rig->pool) == 0 && pool_pids(rig->pool, (pid_t[8]){0}, 8) == 4);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_shut, clean_up),
        cmocka_unit_test_teardown(test_zygote_dies, clean_up),
        cmocka_unit_test_teardown(test_zygotes_orphans_begin_nothing, clean_up),
        cmocka_unit_test_teardown(test_main_dies, clean_up),
        cmocka_unit_test_teardown(test_orphans_begin_nothing, clean_up),
        cmocka_unit_test_teardown(test_fence, clean_up),
        cmocka_unit_test_teardown(test_idle, clean_up),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
