/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_UNIT_API_HARNESS_H
#define TEST_UNIT_API_HARNESS_H

/* Made-up frames in, outcomes out: how the tests of the task API call a handler as main would. */

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "worker/registry.h"
#include "worker/task/task_private.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not every test needs all of it. */
#pragma GCC diagnostic ignored "-Wunused-function"

static struct slot slot;
static char seen_states[512];

struct run {
    struct outcome_frame o;
    void *token;
    char *result, *traceback, *repr, *sends; /* NUL-terminated copies, "" when absent */
};

static void on_state(const struct state_frame *f, void *arg)
{
    (void)arg;
    size_t used = strlen(seen_states);
    snprintf(seen_states + used, sizeof seen_states - used, "%.*s=%.*s;", (int)f->state.size,
             f->state.at, (int)f->meta.size, f->meta.at);
}

static struct slice slice(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static struct run *run_frame(struct task_frame f)
{
    struct run *r = test_calloc(1, sizeof *r);
    struct task_port port = {on_state, NULL};
    r->token = task_run(&f, &slot, &port, &r->o);
    r->result = mem_ndup(r->o.result.at ? r->o.result.at : "", r->o.result.size);
    r->traceback = mem_ndup(r->o.traceback.at ? r->o.traceback.at : "", r->o.traceback.size);
    r->repr = mem_ndup(r->o.repr.at ? r->o.repr.at : "", r->o.repr.size);
    r->sends = mem_ndup(r->o.sends.at ? r->o.sends.at : "", r->o.sends.size);
    task_run_done(r->token);
    return r;
}

static struct run *run_retried(const char *name, const char *args, int64_t retries)
{
    char body[65536];
    int def = registry_find(name);
    assert_true(def >= 0);
    snprintf(body, sizeof body, "[%s, {\"callbacks\": null}]", args);
    return run_frame((struct task_frame){.job = 7,
                                         .def = (uint32_t)def,
                                         .flags = TASK_WANT_REPR,
                                         .retries = retries,
                                         .id = slice("id-1"),
                                         .name = slice(name),
                                         .queue = slice("q"),
                                         .headers = slice("{\"h\": 1}"),
                                         .body = slice(body)});
}

static struct run *run_task(const char *name, const char *args)
{
    return run_retried(name, args, 0);
}

static void end(struct run *r)
{
    free(r->result);
    free(r->traceback);
    free(r->repr);
    free(r->sends);
    test_free(r);
}

static void expect(const char *name, const char *args, const char *result, const char *repr)
{
    struct run *r = run_task(name, args);
    assert_string_equal(r->result, result);
    assert_int_equal(r->o.kind, RESULT_SUCCESS);
    if (repr)
        assert_string_equal(r->repr, repr);
    end(r);
}

static void expect_failure(const char *name, const char *args, const char *type,
                           const char *message)
{
    struct run *r = run_task(name, args);
    cJSON *error = cJSON_Parse(r->result);
    assert_int_equal(r->o.kind, RESULT_FAILURE);
    assert_string_equal(json_get_string(error, "exc_type"), type);
    assert_string_equal(json_get(error, "exc_message")->child->valuestring, message);
    cJSON_Delete(error);
    end(r);
}

static void *stop_soon(void *arg)
{
    usleep(50000);
    atomic_store(&slot.stop_job, 7);
    atomic_store(&slot.stop, *(unsigned *)arg);
    syscall(SYS_futex, &slot.stop, FUTEX_WAKE, 1, NULL, NULL, 0);
    return NULL;
}

static struct run *run_stopped(const char *name, const char *args, unsigned stop)
{
    pthread_t thread;
    atomic_store(&slot.stop, 0);
    pthread_create(&thread, NULL, stop_soon, &stop);
    int64_t before = clock_us(CLOCK_MONOTONIC);
    struct run *r = run_task(name, args);
    pthread_join(thread, NULL);
    assert_true(clock_us(CLOCK_MONOTONIC) - before < 4000000);
    atomic_store(&slot.stop, 0);
    return r;
}

/* Beside the built-in ones. */
static int add_own_tables(const struct cw_table *const *tables)
{
    struct error err = {0};
    task_process_init(&(struct task_process){.hostname = "celery@test", .default_queue = "celery"});
    if (registry_add_builtin() < 0)
        return -1;
    for (; *tables; tables++)
        if (registry_add_table(*tables, &err) < 0)
            return -1;
    return 0;
}

/* Each of the files that include this one has a table of its own. */
static const struct cw_table table;

static inline int add_table(void **state)
{
    (void)state;
    return add_own_tables((const struct cw_table *const[]){&table, NULL});
}

#endif
