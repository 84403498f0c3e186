/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks of the fault kit. Each run writes when it began and when it ended into a file outside the
 * worker (environment FAULT_LEDGER), by single appending writes, so that a kill at any instant leaves the
 * truth: test/fault/storm.py reads it. */

#include "tasks/cworker.h"

#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum event { BEGUN = 1, ENDED = 2 };

struct entry { /* little-endian, 32 bytes */
    uint64_t number, at_ns;
    uint32_t pid, event;
    uint32_t attempt, life; /* of the worker: environment FAULT_LIFE */
};

static uint32_t number_of(const char *text)
{
    return text ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

static void note(cw_task *t, enum event event)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct entry e = {(uint64_t)cw_int(t, "number"),
                      (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
                      (uint32_t)getpid(), event, (uint32_t)cw_info(t)->retries,
                      number_of(getenv("FAULT_LIFE"))};
    const char *path = getenv("FAULT_LEDGER");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || write(fd, &e, sizeof e) != sizeof e)
        abort();
    close(fd);
}

/* fault.run(number, seconds, failures): takes its time, is retried `failures` times, returns its number. */
static cw_outcome run(cw_task *t)
{
    note(t, BEGUN);
    cw_sleep(t, cw_num(t, "seconds"));
    if (cw_stopping(t) != CW_GO)
        return cw_stopped(t);
    note(t, ENDED);
    if (cw_info(t)->retries < cw_int(t, "failures"))
        return cw_retry(t, 0.05, "ValueError", "not yet");
    return cw_return_int(t, cw_int(t, "number"));
}

/* fault.sum(numbers, number): the body of a chord. */
static cw_outcome sum(cw_task *t)
{
    int64_t total = 0;
    note(t, BEGUN);
    for (const cJSON *v = cw_json(t, "numbers")->child; v; v = v->next)
        total += (int64_t)v->valuedouble;
    note(t, ENDED);
    return cw_return_int(t, total);
}

static const struct cw_arg run_args[] = {
    {"number", CW_INT}, {"seconds", CW_NUM, "0"}, {"failures", CW_INT, "0"}, {0}};
static const struct cw_arg sum_args[] = {{"numbers", CW_LIST}, {"number", CW_INT}, {0}};

static const struct cw_def defs[] = {
    {.name = "fault.run", .run = run, .args = run_args, .flags = CW_REJECT_ON_LOST,
     .max_retries = CW_FOREVER},
    {.name = "fault.sum", .run = sum, .args = sum_args, .flags = CW_REJECT_ON_LOST},
    {0},
};
static const struct cw_table table = {.api = CW_API, .queue = "celery", .defs = defs};
const struct cw_table *const cworker_tables[] = {&table, NULL};
