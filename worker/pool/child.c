/* SPDX-License-Identifier: Apache-2.0 */

/* The life of a pool child: take a frame, win its claim, run the task, send its outcome. A prefork
 * child reads its socket in the one thread that it has; in a threads child the main thread reads
 * and hands each frame to the thread of the lane that main chose. Outcomes are gathered in shared
 * memory and sent when nothing more waits, so that a row of tiny tasks costs one write, and none is
 * lost with the child. */

#include "worker/pool/child.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "worker/task/task_run.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    READ_SIZE = 64 << 10,
    KEEP_SIZE = 1 << 20,    /* a buffer that grew beyond this is given back when it is empty */
    OUTCOMES_TOGETHER = 32, /* half of a full batch: main refills while the other half runs */
    OUTCOME_MAX_AGE = 1000, /* µs that an outcome may wait for the next one */
    SIGNAL_STACK = 64 << 10,
    FENCE_POLL_MS = 20,
};

struct child {
    int fd;
    const struct fence *fence;
    bool threads;
    pthread_mutex_t write_lock;
};

/* One lane, as the thread that works in it sees it. */
struct hand {
    struct child *child;
    struct lane *lane;
    struct buf in, scratch;
    size_t at;         /* how far `in` is worked off */
    int gathered;      /* outcomes in lane->out */
    int64_t oldest_us; /* when the first of them ended */
    /* With threads: what the reader left for this lane. */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct buf inbox;
    bool ended;
};

static _Thread_local struct lane *own_lane;

/* --- sending --- */

/* main is gone when this fails, and nobody is left to report to. */
static void send_all(struct child *c, const char *data, size_t size)
{
    pthread_mutex_lock(&c->write_lock);
    while (size > 0) {
        ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            _exit(EXIT_FAILURE);
        data += n;
        size -= (size_t)n;
    }
    pthread_mutex_unlock(&c->write_lock);
}

static void hand_flush(struct hand *h)
{
    struct lane *lane = h->lane;
    uint32_t size = atomic_load_explicit(&lane->out_size, memory_order_relaxed);
    if (size > 0) {
        send_all(h->child, lane->out, size);
        atomic_fetch_add(&lane->generation, 1);
        atomic_store(&lane->out_size, 0);
    }
    h->gathered = 0;
}

/* Appends what is in `scratch` to the shared buffer, or sends it by itself when it is too big for
 * it. */
static void hand_emit(struct hand *h)
{
    struct lane *lane = h->lane;
    uint32_t size = atomic_load_explicit(&lane->out_size, memory_order_relaxed);
    if (h->scratch.size > LANE_OUT - size) {
        hand_flush(h);
        size = 0;
    }
    if (h->scratch.size > LANE_OUT) {
        send_all(h->child, h->scratch.data, h->scratch.size);
    } else {
        memcpy(lane->out + size, h->scratch.data, h->scratch.size);
        atomic_store_explicit(&lane->out_size, size + (uint32_t)h->scratch.size,
                              memory_order_release);
    }
    if (h->scratch.capacity > KEEP_SIZE)
        buf_done(&h->scratch);
    buf_reset(&h->scratch);
}

static void report_state(const struct state_frame *f, void *arg)
{
    struct hand *h = arg;
    frame_put_state(&h->scratch, f);
    if (h->scratch.failed) {
        buf_reset(&h->scratch);
        return;
    }
    hand_emit(h);
    hand_flush(h);
}

static void report_started(struct hand *h, uint64_t job)
{
    struct started_frame f = {.job = job, .pid = getpid()};
    frame_put_started(&h->scratch, &f);
    hand_emit(h);
    hand_flush(h);
}

static void report_outcome(struct hand *h, const struct outcome_frame *f)
{
    static const char too_big[] = "{\"exc_type\": \"MemoryError\", \"exc_message\": "
                                  "[\"the outcome is too big\"], \"exc_module\": \"builtins\"}";
    frame_put_outcome(&h->scratch, f);
    if (h->scratch.failed) {
        struct outcome_frame failure = {.job = f->job,
                                        .kind = RESULT_FAILURE,
                                        .run_us = f->run_us,
                                        .cpu_us = f->cpu_us,
                                        .peak_kb = f->peak_kb,
                                        .resident_kb = f->resident_kb,
                                        .result = {too_big, sizeof too_big - 1}};
        buf_reset(&h->scratch);
        frame_put_outcome(&h->scratch, &failure);
    }
    hand_emit(h);
}

/* --- running --- */

/* Tools whose own parent died are handed to this process (it is their subreaper) and would stay
 * zombies. Only between tasks, and only where no other thread may be waiting for a tool of its own.
 */
static void reap_strays(const struct child *c)
{
    while (!c->threads && waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

/* Waits until this task may begin, or is not here to be begun. Once main or the zygote is dead
 * nothing is: this process is about to be ended. */
static void hand_await_fence(struct hand *h, const struct task_frame *f)
{
    const struct fence *fence = h->child->fence;
    const _Atomic uint64_t *claim = &h->lane->claims[f->place % LANE_PLACES];
    for (;;) {
        while (!fence_stands(fence))
            pause();
        if (f->flags & TASK_ACKED || fence_is_open(fence) || atomic_load(claim) != f->job)
            return;
        hand_flush(h);
        poll(NULL, 0, FENCE_POLL_MS);
    }
}

static void hand_run(struct hand *h, const struct task_frame *f)
{
    struct lane *lane = h->lane;
    uint64_t job = f->job;
    hand_await_fence(h, f);
    if (!atomic_compare_exchange_strong(&lane->claims[f->place % LANE_PLACES], &job, 0))
        return;
    int64_t started_us = clock_us(CLOCK_MONOTONIC);
    atomic_store(&lane->slot.started_us, started_us);
    atomic_store(&lane->slot.job, f->job);
    if (f->flags & TASK_ANNOUNCE)
        report_started(h, f->job);

    struct task_port port = {.on_state = report_state, .arg = h, .alone = !h->child->threads};
    struct outcome_frame outcome = {0};
    void *token = task_run(f, &lane->slot, &port, &outcome);
    outcome.job = f->job;
    report_outcome(h, &outcome);
    atomic_store(&lane->slot.job, 0);
    task_run_done(token);
    reap_strays(h->child);

    int64_t ended_us = clock_us(CLOCK_MONOTONIC);
    if (h->gathered++ == 0)
        h->oldest_us = ended_us;
    if (h->gathered >= OUTCOMES_TOGETHER || ended_us - h->oldest_us > OUTCOME_MAX_AGE)
        hand_flush(h);
}

/* Runs every whole frame that is here, then sends what is left to send. */
static void hand_work_off(struct hand *h)
{
    for (;;) {
        struct task_frame f;
        const char *data = h->in.data + h->at;
        int64_t size = frame_complete(data, h->in.size - h->at);
        if (size == 0)
            break;
        if (size < 0 || frame_get_task(data, (size_t)size, &f) != 0)
            _exit(EXIT_FAILURE);
        hand_run(h, &f);
        h->at += (size_t)size;
    }
    if (h->at > 0)
        buf_drop(&h->in, h->at);
    h->at = 0;
    if (h->in.size == 0 && h->in.capacity > KEEP_SIZE)
        buf_done(&h->in);
    hand_flush(h);
}

/* Waits for more of main's stream; false when main wants no more of this child. */
static bool child_read(struct child *c, struct buf *in)
{
    size_t want = READ_SIZE;
    struct frame_head head;
    if (in->size >= sizeof head) {
        memcpy(&head, in->data, sizeof head);
        if (head.size + sizeof head > in->size + want)
            want = head.size + sizeof head - in->size;
    }
    char *at = buf_reserve(in, want);
    if (!at)
        _exit(EXIT_FAILURE);
    ssize_t n;
    do
        n = read(c->fd, at, want);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    in->size += (size_t)n;
    return true;
}

static void hand_begin(struct hand *h)
{
    own_lane = h->lane;
    atomic_store(&h->lane->tid, (int32_t)syscall(SYS_gettid));
    atomic_store(&h->lane->pid, getpid());
}

/* --- threads --- */

/* The memory says which lane brought the process down, so that the tasks of the others are not
 * blamed. */
static void blame_signal(int signal_number)
{
    if (own_lane)
        atomic_store(&own_lane->guilty, 1);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void blame_exit(void)
{
    if (own_lane)
        atomic_store(&own_lane->guilty, 1);
}

static void watch_for_blame(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
    struct sigaction act = {.sa_handler = blame_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        sigaction(fatal[i], &act, NULL);
    atexit(blame_exit);
}

static bool hand_fetch(struct hand *h)
{
    pthread_mutex_lock(&h->lock);
    while (h->inbox.size == 0 && !h->ended)
        pthread_cond_wait(&h->wake, &h->lock);
    struct buf fresh = h->inbox;
    h->inbox = h->in;
    h->in = fresh;
    pthread_mutex_unlock(&h->lock);
    return fresh.size > 0;
}

static void *hand_main(void *arg)
{
    struct hand *h = arg;
    stack_t stack = {.ss_sp = mem_alloc(SIGNAL_STACK), .ss_size = SIGNAL_STACK};
    sigaltstack(&stack, NULL);
    hand_begin(h);
    while (hand_fetch(h))
        hand_work_off(h);
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    free(stack.ss_sp);
    return NULL;
}

static size_t hand_out(struct hand *hands, int count, struct buf *in)
{
    size_t at = 0;
    for (;;) {
        struct task_frame f;
        int64_t size = frame_complete(in->data + at, in->size - at);
        if (size == 0)
            return at;
        if (size < 0 || frame_get_task(in->data + at, (size_t)size, &f) != 0 ||
            f.lane >= (uint32_t)count)
            _exit(EXIT_FAILURE);
        struct hand *h = &hands[f.lane];
        pthread_mutex_lock(&h->lock);
        buf_add(&h->inbox, in->data + at, (size_t)size);
        pthread_cond_signal(&h->wake);
        pthread_mutex_unlock(&h->lock);
        at += (size_t)size;
    }
}

static void serve_by_threads(struct child *c, struct hand *hands, int count)
{
    struct buf in = BUF_INIT(FRAME_MAX);
    watch_for_blame();
    for (int i = 0; i < count; i++) {
        pthread_mutex_init(&hands[i].lock, NULL);
        pthread_cond_init(&hands[i].wake, NULL);
        if (pthread_create(&hands[i].thread, NULL, hand_main, &hands[i]) != 0)
            _exit(EXIT_FAILURE);
    }
    while (child_read(c, &in)) {
        size_t used = hand_out(hands, count, &in);
        if (used > 0)
            buf_drop(&in, used);
        if (in.size == 0 && in.capacity > KEEP_SIZE)
            buf_done(&in);
    }
    for (int i = 0; i < count; i++) {
        pthread_mutex_lock(&hands[i].lock);
        hands[i].ended = true;
        pthread_cond_signal(&hands[i].wake);
        pthread_mutex_unlock(&hands[i].lock);
    }
    for (int i = 0; i < count; i++)
        pthread_join(hands[i].thread, NULL);
    buf_done(&in);
}

void child_serve(const struct child_options *o)
{
    struct child c = {.fd = o->fd,
                      .fence = o->fence,
                      .threads = o->threads,
                      .write_lock = PTHREAD_MUTEX_INITIALIZER};
    struct hand *hands = mem_zalloc((size_t)o->count * sizeof *hands);
    for (int i = 0; i < o->count; i++) {
        hands[i].child = &c;
        hands[i].lane = &o->lanes[i];
        hands[i].in = hands[i].inbox = hands[i].scratch = BUF_INIT(FRAME_MAX);
    }
    if (o->threads) {
        serve_by_threads(&c, hands, o->count);
    } else {
        hand_begin(&hands[0]);
        while (child_read(&c, &hands[0].in))
            hand_work_off(&hands[0]);
    }
    task_process_done();
    _exit(EXIT_SUCCESS);
}
