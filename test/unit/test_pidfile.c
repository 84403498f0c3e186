/* SPDX-License-Identifier: Apache-2.0 */
/* Who gets the pid file, of several that want it at once. */

#include "worker/command/command.h"
#include "worker/pidfile.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { WORKERS = 4, RUNS = 100 };

static struct shared {
    _Atomic int ready, go, claimed, refused, end;
} *shared;

static char folder[] = "/tmp/cworker-XXXXXX", path[64];

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

static void worker_live(void)
{
    alarm(60); /* where the test has failed meanwhile */
    atomic_fetch_add(&shared->ready, 1);
    while (!atomic_load(&shared->go))
        sched_yield();
    int status = pidfile_claim(path);
    atomic_fetch_add(status == 0 ? &shared->claimed : &shared->refused, 1);
    while (!atomic_load(&shared->end))
        usleep(1000);
    _exit(status == 0 || status == EXIT_PIDFILE ? 0 : 1);
}

static void one_gets_a_stale_file(void **state)
{
    (void)state;
    for (int run = 0; run < RUNS; run++) {
        *shared = (struct shared){0};
        write_file("2147483646\n");
        for (int i = 0; i < WORKERS; i++)
            if (fork() == 0)
                worker_live();
        while (atomic_load(&shared->ready) < WORKERS)
            sched_yield();
        atomic_store(&shared->go, 1);
        while (atomic_load(&shared->claimed) + atomic_load(&shared->refused) < WORKERS)
            usleep(100);
        assert_int_equal(atomic_load(&shared->claimed), 1);
        assert_true(pidfile_owner(path) > 0);
        atomic_store(&shared->end, 1);
        int status;
        while (wait(&status) > 0)
            assert_int_equal(status, 0);
        unlink(path);
    }
}

static void what_is_nobodys_is_taken(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "text", "-1\n", "0", "99999999999999999999\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_file(texts[i]);
        assert_int_equal(pidfile_claim(path), 0);
        pidfile_release(path);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    char parent[24];
    snprintf(parent, sizeof parent, "%d\n", (int)getppid());
    write_file(parent);
    assert_int_equal(pidfile_claim(path), EXIT_PIDFILE);
    pidfile_release(path);
    assert_int_equal(unlink(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_gets_a_stale_file),
        cmocka_unit_test(what_is_nobodys_is_taken),
    };
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/pid", folder);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return rmdir(folder) < 0 || failed;
}
