/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/clock.h"
#include "worker/task/task_private.h"
#include "worker/task/rlimits.h"

#include "proto/base/mem.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* One run: the frame becomes a cw_task, the handler gives its verdict, the verdict becomes an
 * outcome. The one idea: whatever the handler does or forgets, exactly one well-formed outcome
 * comes out. */

struct task_process task_process;

/* Tables that were opened in this process, by their address. */
struct opened {
    struct opened *next;
    const struct cw_table *table;
    void *data;
};
static struct opened *opened_tables;
static pthread_mutex_t tables_lock = PTHREAD_MUTEX_INITIALIZER;

void task_process_init(const struct task_process *p)
{
    task_process = *p;
}

struct footprint {
    int64_t resident_kb, peak_kb, read_us;
};

/* Asking the kernel costs more than a tiny task, so what it said is good for 10 ms. */
static const struct footprint *footprint_read(int64_t now_us)
{
    static _Thread_local struct footprint last;
    if (last.resident_kb && now_us - last.read_us < 10000)
        return &last;
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    last.peak_kb = usage.ru_maxrss;
    last.read_us = now_us;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    char text[128];
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[size > 0 ? size : 0] = '\0';
    const char *second = strchr(text, ' ');
    last.resident_kb = second ? strtoll(second, NULL, 10) * (sysconf(_SC_PAGESIZE) / 1024) : 0;
    return &last;
}

static void opened_add(const struct cw_table *table, void *data)
{
    struct opened *o = mem_alloc(sizeof *o);
    *o = (struct opened){opened_tables, table, data};
    opened_tables = o;
}

void *table_data(struct cw_task *t, bool *ret_ok)
{
    const struct cw_table *table = t->entry->table;
    *ret_ok = true;
    if (!table->open)
        return NULL;
    void *data = NULL;
    pthread_mutex_lock(&tables_lock);
    struct opened *o = opened_tables;
    while (o && o->table != table)
        o = o->next;
    if (o) {
        data = o->data;
    } else if (table->open(&data) == 0) {
        opened_add(table, data);
    } else {
        *ret_ok = false;
    }
    pthread_mutex_unlock(&tables_lock);
    return data;
}

static void tables_close(void)
{
    pthread_mutex_lock(&tables_lock);
    while (opened_tables) {
        struct opened *o = opened_tables;
        opened_tables = o->next;
        if (o->table->close)
            o->table->close(o->data);
        free(o);
    }
    pthread_mutex_unlock(&tables_lock);
}

void task_process_done(void)
{
    tables_close();
    http_close();
    mongo_close();
}

static void run_deferred(struct cw_task *t)
{
    while (t->deferred) {
        struct deferred *d = t->deferred;
        t->deferred = d->next;
        d->fn(d->arg);
    }
}

void task_misuse(struct cw_task *t, const char *type, const char *fmt, ...)
{
    if (t->misuse)
        return;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    t->misuse_type = type;
    t->misuse = task_text(t, text, strlen(text));
}

static void handle(struct cw_task *t)
{
    bool opened;
    if (!task_bind(t))
        return;
    table_data(t, &opened);
    if (!opened) {
        cw_retry(t, -1, "RuntimeError", "the table of %s could not be opened", t->entry->def->name);
        return;
    }
    bool limited = t->port->alone && rlimits_wanted(t->entry->table);
    if (limited)
        rlimits_set(t->entry->table);
    cw_outcome outcome = t->entry->def->run(t);
    if (limited)
        rlimits_lift(t->entry->table);
    if (t->misuse)
        task_error(t, t->misuse_type, t->misuse);
    else if (outcome.kind == RESULT_NONE || outcome.kind != t->verdict)
        task_error(t, "RuntimeError",
                   cw_printf(t, "%s returned without a verdict", t->entry->def->name));
}

static struct slice slice_over(const struct buf *b)
{
    return (struct slice){b->size ? b->data : NULL, b->size};
}

static struct slice sends_text(struct cw_task *t)
{
    if (!t->sends ||
        (t->verdict != RESULT_SUCCESS && !(t->replaced && t->verdict == RESULT_IGNORE)))
        return (struct slice){0};
    char *text = json_text(t->sends);
    cw_defer(t, free, text);
    return (struct slice){text, strlen(text)};
}

static void bill(const struct cw_task *t, int64_t cpu_before, struct outcome_frame *o)
{
    int64_t now = clock_us(CLOCK_MONOTONIC);
    const struct footprint *memory = footprint_read(now);
    o->run_us = now - t->started_us;
    o->cpu_us = clock_us(CLOCK_THREAD_CPUTIME_ID) - cpu_before + t->tools_cpu_us;
    o->peak_kb = memory->peak_kb;
    o->resident_kb = memory->resident_kb;
}

void *task_run(const struct task_frame *f, struct slot *slot, const struct task_port *port,
               struct outcome_frame *ret_outcome)
{
    struct cw_task *t = mem_zalloc(sizeof *t);
    int64_t cpu_before = clock_us(CLOCK_THREAD_CPUTIME_ID);
    t->frame = f;
    t->entry = &registry[f->def];
    t->slot = slot;
    t->port = port;
    t->started_us = clock_us(CLOCK_MONOTONIC);
    t->result = BUF_INIT(TASK_RESULT_MAX);
    t->traceback = BUF_INIT(1 << 20);
    t->repr = BUF_INIT(1 << 20);
    handle(t);
    run_deferred(t);
    *ret_outcome = (struct outcome_frame){
        .job = f->job,
        .kind = t->verdict,
        .requeue = t->requeue,
        .countdown = t->countdown,
        .result = slice_over(&t->result),
        .traceback = slice_over(&t->traceback),
        .repr = slice_over(&t->repr),
        .sends = sends_text(t),
    };
    bill(t, cpu_before, ret_outcome);
    return t;
}

void task_run_done(void *token)
{
    struct cw_task *t = token;
    run_deferred(t);
    cJSON_Delete(t->body);
    cJSON_Delete(t->headers);
    cJSON_Delete(t->properties);
    cJSON_Delete(t->sends);
    buf_done(&t->result);
    buf_done(&t->traceback);
    buf_done(&t->repr);
    while (t->memory) {
        struct memory *m = t->memory;
        t->memory = m->next;
        free(m);
    }
    free(t);
}
