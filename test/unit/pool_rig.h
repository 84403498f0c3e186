/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_UNIT_POOL_RIG_H
#define TEST_UNIT_POOL_RIG_H

/* What the pool's tests stand on: a task_run whose tasks behave as their index says and count their
 * runs in memory that all processes share, and a rig that keeps what the pool reports of each job.
 */

#include "proto/base/mem.h"
#include "worker/pool/lane.h"
#include "worker/log.h"
#include "worker/pool/pool.h"
#include "worker/task/task_run.h"
#include "worker/pool/zygote.h"

#include "tasks/cworker.h"

#include <event2/thread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum behaviour {
    DO_RETURN, /* the body */
    DO_SLEEP,  /* body: milliseconds; ends early when stopped */
    DO_SPIN,   /* for ever */
    DO_CRASH,
    DO_EXIT,
    DO_BIG,    /* 5 MB */
    DO_FORK,   /* body: what to do after a program was started: "return", "crash" or "spin" */
    DO_DAEMON, /* the same with a program in a session of its own, whose parent is gone */
    DO_IGNORE, /* SIGTERM, says so in seen->tool, and sleeps */
    DO_STATE,
    DO_FAT,     /* says that the process has grown large */
    DO_TINY,    /* body: microseconds to sleep, deaf, or "crash", or "outlive" its parent */
    DO_RUBBISH, /* writes what is no frame to every open socket */
};

enum { JOBS = 1 << 16, BIG = 5 << 20 };

static const double PATIENCE = 60;

/* --- the task_run of this test: runs in the children --- */

struct seen {
    _Atomic int runs[JOBS];
    _Atomic int tool;
    _Atomic int closed;
};
static struct seen *seen;

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void msleep(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static inline int start_tool(bool daemon)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (daemon && (setsid(), fork() > 0))
            _exit(0);
        atomic_store(&seen->tool, getpid());
        for (;;)
            pause();
    }
    while (atomic_load(&seen->tool) == 0)
        msleep(1);
    return pid;
}

static inline bool told_to_stop(const struct task_frame *f, struct slot *slot)
{
    return atomic_load(&slot->stop) != CW_GO && atomic_load(&slot->stop_job) == f->job;
}

/* Returns when the parent has died, with whose death no signal comes. */
static inline void outlive(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, 0);
    seen->tool = getpid();
    while (getppid() == parent)
        msleep(1);
}

static inline void write_rubbish(void)
{
    for (int fd = 3; fd < 64; fd++)
        if (write(fd, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12) < 0)
            continue;
    msleep(10000);
}

static inline void behave(const struct task_frame *f, struct slot *slot, const char *body)
{
    volatile uint64_t spin = 0;
    switch (f->def) {
    case DO_SLEEP:
        for (double end = now() + atof(body) / 1000; now() < end && !told_to_stop(f, slot);)
            msleep(2);
        break;
    case DO_FORK:
    case DO_DAEMON:
        start_tool(f->def == DO_DAEMON);
        if (strcmp(body, "crash") == 0)
            kill(getpid(), SIGKILL);
        while (strcmp(body, "spin") == 0)
            spin++;
        break;
    case DO_SPIN:
        for (;;)
            spin++;
    case DO_CRASH:
        raise(SIGSEGV);
        break;
    case DO_EXIT:
        exit(0);
    case DO_IGNORE:
        signal(SIGTERM, SIG_IGN);
        atomic_store(&seen->tool, getpid());
        for (;;)
            msleep(1000);
    case DO_TINY:
        if (strcmp(body, "crash") == 0)
            raise(SIGKILL);
        if (strcmp(body, "outlive") == 0)
            outlive(getppid());
        if (atol(body) > 0)
            usleep((useconds_t)atol(body));
        break;
    case DO_RUBBISH:
        write_rubbish();
        break;
    default:
        break;
    }
}

void *task_run(const struct task_frame *f, struct slot *slot, const struct task_port *port,
               struct outcome_frame *ret)
{
    struct timespec begin, end;
    char *body =
        f->def == DO_BIG ? mem_zalloc(BIG) : mem_ndup(f->body.at ? f->body.at : "", f->body.size);
    atomic_fetch_add(&seen->runs[f->job % JOBS], 1);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (f->def == DO_STATE) {
        struct state_frame state = {.job = f->job, .state = {"PROGRESS", 8}, .meta = {"{\"n\": 1}", 8}};
        port->on_state(&state, port->arg);
    }
    behave(f, slot, body);
    clock_gettime(CLOCK_MONOTONIC, &end);
    *ret = (struct outcome_frame){
        .job = f->job,
        .kind = told_to_stop(f, slot) ? RESULT_FAILURE : RESULT_SUCCESS,
        .run_us = (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000,
        .resident_kb = f->def == DO_FAT ? 1 << 30 : 1000,
        .result = {body, f->def == DO_BIG ? BIG : f->body.size},
    };
    return body;
}

void task_run_done(void *token)
{
    free(token);
}

void task_process_init(const struct task_process *p)
{
    (void)p;
}

void task_process_done(void)
{
    atomic_fetch_add(&seen->closed, 1);
}

/* --- harness --- */

struct record {
    int outcomes, losses, starts, states, softs;
    enum result_kind kind;
    enum pool_loss why;
    int status;
    pid_t pid;
    size_t size;
    char text[24];
    double at;
};

struct rig {
    struct event_base *base;
    struct zygote *zygote;
    struct pool *pool;
    struct event *tick;
    struct pool_options options;
    uint64_t last;
    int ended, broken, rooms;
    bool resubmit; /* what came back unstarted */
    struct task_frame frames[JOBS];
    struct record jobs[JOBS];
};
static struct rig *rig;

static inline void on_started(uint64_t job, pid_t pid, void *arg)
{
    (void)arg;
    rig->jobs[job].starts++;
    rig->jobs[job].pid = pid;
}

static inline void on_state(const struct state_frame *f, void *arg)
{
    (void)arg;
    assert_memory_equal(f->state.at, "PROGRESS", 8);
    assert_int_equal(f->meta.size, 8);
    rig->jobs[f->job].states++;
}

static inline void on_outcome(const struct outcome_frame *f, pid_t pid, void *arg)
{
    (void)arg;
    struct record *r = &rig->jobs[f->job];
    r->outcomes++;
    r->kind = f->kind;
    r->pid = pid;
    r->size = f->result.size;
    r->at = now();
    snprintf(r->text, sizeof r->text, "%.*s", f->result.size < 20 ? (int)f->result.size : 20,
             f->result.at);
    rig->ended++;
}

static inline void on_lost(uint64_t job, enum pool_loss why, pid_t pid, int status, void *arg)
{
    (void)arg;
    struct record *r = &rig->jobs[job];
    if (why == POOL_UNSTARTED && rig->resubmit) {
        pool_submit(rig->pool, &rig->frames[job]);
        return;
    }
    r->losses++;
    r->why = why;
    r->pid = pid;
    r->status = status;
    r->at = now();
    rig->ended++;
}

static inline void on_soft_limit(uint64_t job, double limit, void *arg)
{
    (void)arg, (void)limit;
    rig->jobs[job].softs++;
}

static inline void on_room(void *arg)
{
    (void)arg;
    rig->rooms++;
}

static inline void on_broken(void *arg)
{
    (void)arg;
    rig->broken++;
}

static inline void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
}

static inline void rig_open(struct pool_options options)
{
    static const struct pool_handlers handlers = {on_started,    on_state, on_outcome, on_lost,
                                                  on_soft_limit, on_room,  on_broken,  NULL};
    memset(seen, 0, sizeof *seen);
    rig = mem_zalloc(sizeof *rig);
    rig->options = options;
    rig->zygote = zygote_start(&options);
    assert_non_null(rig->zygote);
    evthread_use_pthreads(); /* -P solo tells the loop from a thread */
    rig->base = event_base_new();
    rig->tick = event_new(rig->base, -1, EV_PERSIST, on_tick, NULL);
    rig->pool = pool_open(rig->base, rig->zygote, &options, &handlers);
}

static inline void rig_end(bool kill)
{
    pool_shut(rig->pool, kill);
    pool_close(rig->pool);
    event_free(rig->tick);
    event_base_free(rig->base);
    free(rig);
    rig = NULL;
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static inline void rig_close(void)
{
    rig_end(true);
}

/* One turn of the loop, of 2 ms at most. */
static inline void turn(void)
{
    struct timeval t = {0, 2000};
    event_add(rig->tick, &t);
    event_base_loop(rig->base, EVLOOP_ONCE);
    event_del(rig->tick);
}

#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        double until_end = now() + PATIENCE;                                                       \
        while (!(condition)) {                                                                     \
            if (now() > until_end)                                                                 \
                fail_msg("in vain: %s", #condition);                                               \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

static inline uint64_t submit_limited(enum behaviour def, const char *body, double soft,
                                      double hard)
{
    struct task_frame f = {.job = ++rig->last,
                           .def = def,
                           .flags = def >= DO_TINY ? 0 : TASK_ANNOUNCE,
                           .soft_limit = soft,
                           .hard_limit = hard,
                           .id = {"an id", 5},
                           .body = {body, strlen(body)}};
    rig->frames[f.job] = f;
    pool_submit(rig->pool, &f);
    return f.job;
}

static inline uint64_t submit(enum behaviour def, const char *body)
{
    return submit_limited(def, body, 0, 0);
}

static inline struct record *job(uint64_t number)
{
    return &rig->jobs[number];
}

static inline struct record *run(enum behaviour def, const char *body)
{
    uint64_t j = submit(def, body);
    UNTIL(job(j)->outcomes + job(j)->losses > 0);
    return job(j);
}

static inline void learn_tiny(void)
{
    for (int i = 0; i < 20; i++)
        assert_int_equal(run(DO_TINY, "0")->outcomes, 1);
}

static inline bool is_gone(pid_t pid)
{
    char path[40], text[200] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return true;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    const char *end = n ? strrchr(text, ')') : NULL;
    return !end || end[2] == 'Z';
}

static inline int expect_once_each(uint64_t from, uint64_t to)
{
    int lost = 0;
    for (uint64_t j = from; j <= to; j++) {
        assert_int_equal(job(j)->outcomes + job(j)->losses, 1);
        /* One that was shot may have got no further than its claim. */
        assert_in_range(atomic_load(&seen->runs[j]), job(j)->outcomes, 1);
        lost += job(j)->losses;
    }
    return lost;
}

static inline int group_setup(void **state)
{
    (void)state;
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    log_open("/dev/null", LOG_WARNING, false, "false");
    return seen == MAP_FAILED;
}

/* A test that failed leaves its rig behind. */
static inline int clean_up(void **state)
{
    (void)state;
    if (rig)
        rig_close();
    return 0;
}

#endif
