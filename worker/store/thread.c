/* SPDX-License-Identifier: Apache-2.0 */
/* The writer thread: takes what has gathered while the last batch was being written, coalesces it,
 * has it written, and puts what must wait back at the head of the queue. The one idea: batches form
 * by themselves, as large as the store is slow, so that nothing lingers and nothing is tuned. */
#include "worker/store/thread.h"

#include "proto/base/mem.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static const double HANGS = 1; /* seconds that a batch takes only when something is wrong */

struct reading {
    struct reading *next;
    store_read_fn *fn;
    void *arg;
    uint64_t after; /* the last record put before it: the answer knows that */
    int code;
    char *json;
    char id[];
};

struct note {
    struct note *next;
    bool warning;
    char text[];
};

/* What the thread hands to the loop. */
struct outbox {
    struct store_list done;
    struct reading *readings, **readings_end;
    struct note *notes, **notes_end;
};

struct store_thread {
    const struct store_writer *ops;
    void *state; /* the thread's own */
    char *name;
    struct store_handlers handlers;
    pthread_t thread;
    int event_fd;
    struct event *event;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake;
    struct store_list queue;
    uint64_t n_put;
    struct reading *questions, **questions_end;
    struct outbox outbox;
    bool cleanup_asked;
    bool stopping, abandoned, ended;

    _Atomic bool down;             /* for the loop */
    _Atomic double writing_since;  /* 0: not now */

    /* the thread's own */
    double retry_at, tidy_at, down_since;
    unsigned n_attempts;
};

/* --- what both sides do ----------------------------------------------------------------------- */

static void append_reading(struct reading **first, struct reading ***end, struct reading *q)
{
    q->next = NULL;
    if (!*first)
        *end = first;
    **end = q;
    *end = &q->next;
}

/* The caller holds the lock. */
static void ring(struct store_thread *t)
{
    uint64_t one = 1;
    if (write(t->event_fd, &one, sizeof one) < 0)
        return; /* full: it rings already */
}

void store_thread_note(struct store_thread *t, bool warning, const char *fmt, ...)
{
    if (!t)
        return;
    struct error line;
    va_list args;
    va_start(args, fmt);
    vsnprintf(line.text, sizeof line.text, fmt, args);
    va_end(args);
    struct buf text = BUF_INIT(4096);
    buf_printf(&text, "result store %s: %s", t->name, line.text);
    struct note *note = mem_alloc(sizeof *note + text.size + 1);
    *note = (struct note){.warning = warning};
    memcpy(note->text, text.data, text.size + 1);
    buf_done(&text);

    pthread_mutex_lock(&t->lock);
    if (!t->outbox.notes)
        t->outbox.notes_end = &t->outbox.notes;
    *t->outbox.notes_end = note;
    t->outbox.notes_end = &note->next;
    ring(t);
    pthread_mutex_unlock(&t->lock);
}

static void thread_free(struct store_thread *t)
{
    struct store_list *lists[] = {&t->queue, &t->outbox.done};
    for (size_t i = 0; i < 2; i++)
        for (struct store_entry *e; (e = list_pop(lists[i]));)
            entry_free(e);
    struct reading *readings[] = {t->questions, t->outbox.readings};
    for (size_t i = 0; i < 2; i++) {
        for (struct reading *q = readings[i], *next; q; q = next) {
            next = q->next;
            free(q->json);
            free(q);
        }
    }
    for (struct note *n = t->outbox.notes, *next; n; n = next) {
        next = n->next;
        free(n);
    }
    close(t->event_fd);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t->name);
    free(t);
}

/* --- the thread ------------------------------------------------------------------------------- */

static size_t take_batch(struct store_thread *t, struct store_entry **batch)
{
    size_t n = 0, bytes = 0;
    while (t->queue.first && n < STORE_BATCH && bytes < STORE_BATCH_BYTES) {
        batch[n] = list_pop(&t->queue);
        bytes += batch[n++]->size;
    }
    return n;
}

static void note_outage(struct store_thread *t, int code, const struct error *err)
{
    double now = store_clock();
    atomic_store(&t->down, code != 0);
    if (code == 0) {
        if (t->down_since > 0)
            store_thread_note(t, false, "works again after %.1f s", now - t->down_since);
        t->down_since = 0;
        t->n_attempts = 0;
        t->retry_at = 0;
        return;
    }
    if (t->down_since <= 0) {
        t->down_since = now;
        store_thread_note(t, true, "%s; results wait in memory until it answers", err->text);
    }
    t->retry_at = now + store_backoff(t->n_attempts++);
}

/* Those that were merged into one that can never be stored have their own turn after all. */
static void give_back_merged(struct store_thread *t, struct store_entry *e)
{
    for (struct store_entry *m = e->merged, *next; m; m = next) {
        next = m->merged;
        m->merged = NULL;
        list_push_front(&t->queue, m);
    }
    e->merged = NULL;
}

static void settle_batch(struct store_thread *t, struct store_entry **batch, size_t n)
{
    for (size_t i = n; i-- > 0;) {
        if (batch[i]->code == STORE_WAITING)
            list_push_front(&t->queue, batch[i]);
        else if (batch[i]->code < 0)
            give_back_merged(t, batch[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (batch[i]->code != STORE_WAITING)
            list_push(&t->outbox.done, batch[i]);
    ring(t);
}

/* Called and left with the lock held. */
static void write_batch(struct store_thread *t)
{
    struct store_entry *batch[STORE_BATCH];
    size_t n = take_batch(t, batch);
    pthread_mutex_unlock(&t->lock);
    struct error err = {0};
    n = store_coalesce(batch, n);
    atomic_store(&t->writing_since, store_clock());
    int code = t->ops->write(t->state, t, batch, n, &err);
    atomic_store(&t->writing_since, 0);
    note_outage(t, code, &err);
    pthread_mutex_lock(&t->lock);
    settle_batch(t, batch, n);
}

/* While the store is down the answer is that, and need not wait for what waits. */
static bool may_answer(const struct store_thread *t)
{
    const struct reading *q = t->questions;
    return q && (!t->queue.first || t->queue.first->number > q->after || store_clock() < t->retry_at);
}

static void answer(struct store_thread *t)
{
    struct reading *q = t->questions;
    t->questions = q->next;
    pthread_mutex_unlock(&t->lock);
    struct error err = {0};
    /* Each try may take as long as a connection takes to fail, and more may be asking. */
    if (store_clock() < t->retry_at) {
        q->code = ERROR_UNAVAILABLE;
    } else {
        q->json = t->ops->read(t->state, q->id, &err);
        q->code = q->json ? 0 : err.code;
        if (q->code == ERROR_UNAVAILABLE)
            note_outage(t, q->code, &err);
    }
    pthread_mutex_lock(&t->lock);
    append_reading(&t->outbox.readings, &t->outbox.readings_end, q);
    ring(t);
}

static void tidy(struct store_thread *t)
{
    pthread_mutex_unlock(&t->lock);
    t->tidy_at = store_clock() + t->ops->tidy(t->state, t);
    pthread_mutex_lock(&t->lock);
}

static void clean_up(struct store_thread *t)
{
    t->cleanup_asked = false;
    pthread_mutex_unlock(&t->lock);
    t->ops->cleanup(t->state, t);
    pthread_mutex_lock(&t->lock);
}

static void wait_until(struct store_thread *t, double when)
{
    struct timespec at = {(time_t)when, (long)((when - (double)(time_t)when) * 1e9)};
    pthread_cond_timedwait(&t->wake, &t->lock, &at);
}

static double next_turn(const struct store_thread *t)
{
    bool retry_first = t->queue.first && (t->stopping || t->retry_at < t->tidy_at);
    return retry_first ? t->retry_at : t->tidy_at;
}

static void *thread_main(void *arg)
{
    struct store_thread *t = arg;
    pthread_mutex_lock(&t->lock);
    while (!t->abandoned && !(t->stopping && !t->queue.first)) {
        double now = store_clock();
        if (may_answer(t))
            answer(t);
        else if (t->queue.first && now >= t->retry_at)
            write_batch(t);
        else if (now >= t->tidy_at && !t->stopping)
            tidy(t);
        else if (t->cleanup_asked && !t->stopping)
            clean_up(t);
        else
            wait_until(t, next_turn(t));
    }
    t->ended = true;
    bool abandoned = t->abandoned;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    t->ops->close(t->state);
    if (abandoned)
        thread_free(t);
    return NULL;
}

/* --- the loop's side -------------------------------------------------------------------------- */

static void settle_with_merged(struct store_entry *e)
{
    for (struct store_entry *m = e->merged, *next; m; m = next) {
        next = m->merged;
        entry_settle(m, 0, NULL);
    }
    entry_settle(e, e->code, e->why);
}

static void deliver(struct store_thread *t)
{
    struct outbox out;
    pthread_mutex_lock(&t->lock);
    out = t->outbox;
    t->outbox = (struct outbox){0};
    pthread_mutex_unlock(&t->lock);
    for (struct note *n = out.notes, *next; n; n = next) {
        next = n->next;
        if (t->handlers.on_note)
            t->handlers.on_note(n->text, n->warning, t->handlers.arg);
        free(n);
    }
    for (struct store_entry *e; (e = list_pop(&out.done));)
        settle_with_merged(e);
    for (struct reading *q = out.readings, *next; q; q = next) {
        next = q->next;
        q->fn(q->code, q->json, q->arg);
        free(q->json);
        free(q);
    }
}

static void on_ring(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;
    (void)what;
    if (read(fd, &count, sizeof count) > 0)
        deliver(arg);
}

void store_thread_put(void *thread, struct store_entry *e)
{
    struct store_thread *t = thread;
    pthread_mutex_lock(&t->lock);
    if (!t->queue.first)
        pthread_cond_signal(&t->wake);
    e->number = ++t->n_put;
    list_push(&t->queue, e);
    pthread_mutex_unlock(&t->lock);
}

bool store_thread_is_down(void *thread)
{
    const struct store_thread *t = thread;
    double since = atomic_load(&t->writing_since);
    return atomic_load(&t->down) || (since > 0 && store_clock() > since + HANGS);
}

void store_thread_cleanup(void *thread)
{
    struct store_thread *t = thread;
    pthread_mutex_lock(&t->lock);
    t->cleanup_asked = t->ops->cleanup != NULL;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void store_thread_get(void *thread, const char *id, store_read_fn *fn, void *arg)
{
    struct store_thread *t = thread;
    size_t size = strlen(id) + 1;
    struct reading *q = mem_zalloc(sizeof *q + size);
    memcpy(q->id, id, size);
    q->fn = fn;
    q->arg = arg;
    pthread_mutex_lock(&t->lock);
    q->after = t->n_put;
    append_reading(&t->questions, &t->questions_end, q);
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

/* Signals are main's: the thread is born with all of them blocked. */
static int start(struct store_thread *t)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&t->thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

struct store_thread *store_thread_open(const struct store_setup *setup,
                                       const struct store_writer *ops, void *state,
                                       struct error *err)
{
    struct store_thread *t = mem_zalloc(sizeof *t);
    pthread_condattr_t clock;
    t->ops = ops;
    t->state = state;
    t->name = mem_dup(setup->name);
    t->handlers = setup->handlers;
    t->tidy_at = store_clock();
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &clock);
    pthread_condattr_destroy(&clock);
    t->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    t->event = t->event_fd < 0
                   ? NULL
                   : event_new(setup->base, t->event_fd, EV_READ | EV_PERSIST, on_ring, t);
    if (!t->event || event_add(t->event, NULL) != 0 || start(t) != 0) {
        error_set(err, ERROR_SYSTEM, "result store: cannot start its thread");
        if (t->event)
            event_free(t->event);
        ops->close(state);
        thread_free(t);
        return NULL;
    }
    return t;
}

void store_thread_close(void *thread, double patience)
{
    struct store_thread *t = thread;
    double deadline = store_clock() + patience;
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_broadcast(&t->wake);
    while (!t->ended && store_clock() < deadline)
        wait_until(t, deadline);
    pthread_mutex_unlock(&t->lock);
    event_free(t->event);
    deliver(t);

    pthread_mutex_lock(&t->lock);
    bool ended = t->ended;
    pthread_t worker = t->thread; /* an abandoned one frees all this as soon as it gets the lock */
    t->abandoned = !ended;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    if (ended) {
        pthread_join(worker, NULL);
        thread_free(t);
    } else {
        /* It may sit in a read of the driver for half a minute more: the last one out frees. */
        pthread_detach(worker);
    }
}
