/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "worker/log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/futex.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What a task can ask and say while it runs. Everything that it allocates hangs on the delivery and
 * goes with it: clean-up functions in reverse order first, then the memory. */

/* --- memory --- */

void *cw_alloc(cw_task *t, size_t size)
{
    struct memory *m = mem_zalloc(sizeof *m + size);
    m->next = t->memory;
    t->memory = m;
    return m->bytes;
}

char *task_text(struct cw_task *t, const char *text, size_t size)
{
    char *copy = cw_alloc(t, size + 1);
    memcpy(copy, text, size);
    return copy;
}

char *cw_printf(cw_task *t, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = cw_alloc(t, (size_t)(size < 0 ? 0 : size) + 1);
    if (size > 0)
        vsnprintf(text, (size_t)size + 1, fmt, again);
    va_end(again);
    return text;
}

void cw_defer(cw_task *t, void (*fn)(void *), void *arg)
{
    struct deferred *d = cw_alloc(t, sizeof *d);
    *d = (struct deferred){t->deferred, fn, arg};
    t->deferred = d;
}

/* --- the request --- */

static const char *slice_text(struct cw_task *t, struct slice s)
{
    return s.at ? task_text(t, s.at, s.size) : NULL;
}

/* The headers are parsed for whoever asks for info: few tasks do, and most of these for the id. */
const struct cw_info *cw_info(cw_task *t)
{
    const struct task_frame *f = t->frame;
    if (t->has_info)
        return &t->info;
    t->has_info = true;
    if (f->headers.at)
        t->headers = json_parse(f->headers.at, f->headers.size, NULL);
    t->info = (struct cw_info){
        .id = f->id.at ? slice_text(t, f->id) : "",
        .name = f->name.at ? slice_text(t, f->name) : t->entry->def->name,
        .queue = slice_text(t, f->queue),
        .root_id = slice_text(t, f->root_id),
        .parent_id = slice_text(t, f->parent_id),
        .group_id = slice_text(t, f->group_id),
        .retries = f->retries,
        .max_retries = task_max_retries(t),
        .redelivered = f->flags & TASK_REDELIVERED,
        .hostname = task_process.hostname,
        .soft_limit = f->soft_limit,
        .hard_limit = f->hard_limit,
        .headers = t->headers,
    };
    return &t->info;
}

const cJSON *cw_properties(cw_task *t)
{
    struct slice text = t->frame->properties;
    if (!t->properties && text.at)
        t->properties = json_parse(text.at, text.size, NULL);
    return t->properties;
}

void *cw_data(cw_task *t)
{
    bool ok;
    return table_data(t, &ok);
}

/* --- states --- */

/* States that end a task in the eyes of a client must come from its verdict. */
static bool is_final(const char *state)
{
    static const char *const final[] = {"SUCCESS", "FAILURE", "REVOKED", "RETRY"};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (strcmp(final[i], state) == 0)
            return true;
    return false;
}

/* Takes meta. */
static int tell_main(cw_task *t, const char *what, cJSON *meta, bool is_event)
{
    struct buf text = BUF_INIT(16 << 20);
    json_print(meta, &text);
    cJSON_Delete(meta);
    if (text.failed) {
        buf_done(&text);
        return helper_failed(t, false, "EncodeError", "what comes with %s is larger than 16 MiB",
                             what);
    }
    struct state_frame f = {.job = t->frame->job, .is_event = is_event,
                            .state = {what, strlen(what)}, .meta = {text.data, text.size}};
    if (t->port && t->port->on_state)
        t->port->on_state(&f, t->port->arg);
    buf_done(&text);
    return 0;
}

int cw_state(cw_task *t, const char *state, cJSON *meta)
{
    if (!is_final(state))
        return tell_main(t, state, meta, false);
    cJSON_Delete(meta);
    return helper_failed(t, false, "ValueError", "state %s is given by the verdict", state);
}

int cw_event(cw_task *t, const char *type, cJSON *fields)
{
    if (!fields || cJSON_IsObject(fields))
        return tell_main(t, type, fields ? fields : cJSON_CreateObject(), true);
    cJSON_Delete(fields);
    return helper_failed(t, false, "TypeError", "the fields of event %s must be an object", type);
}

int cw_progress(cw_task *t, cJSON *meta)
{
    return cw_state(t, "PROGRESS", meta);
}

void cw_log(cw_task *t, enum cw_level level, const char *fmt, ...)
{
    if ((int)level < (int)log_threshold)
        return;
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    secrets_blot(t, text);
    const struct task_frame *f = t->frame;
    char id[128];
    snprintf(id, sizeof id, "%.*s", (int)f->id.size, f->id.at ? f->id.at : "");
    log_task((enum log_level)level, t->entry->def->name, id, "%s", text);
}

/* --- stopping and time --- */

/* `stop` may still hold what was meant for an earlier job, hence the second look when it is set. */
enum cw_stop cw_stopping(const cw_task *t)
{
    if (!t->slot)
        return CW_GO;
    uint32_t stop = atomic_load_explicit(&t->slot->stop, memory_order_acquire);
    if (__builtin_expect(stop == CW_GO, 1))
        return CW_GO;
    return atomic_load(&t->slot->stop_job) == t->frame->job ? (enum cw_stop)stop : CW_GO;
}

double cw_time_left(const cw_task *t)
{
    double soft = t->frame->soft_limit, hard = t->frame->hard_limit;
    if (soft <= 0 && hard <= 0)
        return HUGE_VAL;
    double limit = soft > 0 && (hard <= 0 || soft < hard) ? soft : hard;
    double left = limit - (double)(clock_us(CLOCK_MONOTONIC) - t->started_us) / 1e6;
    return left > 0 ? left : 0;
}

static void nap(struct slot *slot, uint32_t seen, double seconds)
{
    struct timespec wait = {.tv_sec = (time_t)seconds};
    wait.tv_nsec = (long)((seconds - (double)wait.tv_sec) * 1e9);
    if (slot)
        syscall(SYS_futex, &slot->stop, FUTEX_WAIT, seen, &wait, NULL, 0);
    else
        nanosleep(&wait, NULL);
}

/* With a left-over `stop` of another job in the word a new one may not change it, so that such
 * sleeps are cut in short pieces. */
int cw_sleep(cw_task *t, double seconds)
{
    double end = (double)clock_us(CLOCK_MONOTONIC) / 1e6 + (seconds > 0 ? fmin(seconds, 1e9) : 0);
    for (;;) {
        uint32_t seen = t->slot ? atomic_load(&t->slot->stop) : 0;
        if (cw_stopping(t) != CW_GO)
            return helper_stopped(t);
        double left = end - (double)clock_us(CLOCK_MONOTONIC) / 1e6;
        if (left <= 0)
            return 0;
        nap(t->slot, seen, seen ? fmin(left, 0.1) : fmin(left, 60));
    }
}

/* --- the surroundings --- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    remove(path);
    return 0;
}

static void remove_tree(void *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *cw_tmpdir(cw_task *t)
{
    if (t->tmpdir)
        return t->tmpdir;
    const char *base = getenv("TMPDIR");
    char *path = cw_printf(t, "%s/cworker-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(path)) {
        helper_failed(t, true, "OSError", "no temporary folder %s: %s", path, strerror(errno));
        return NULL;
    }
    cw_defer(t, remove_tree, path);
    return t->tmpdir = path;
}

const char *cw_setting(cw_task *t, const char *name)
{
    char *variable = cw_printf(t, "CWORKER_%s", name);
    for (char *at = variable; *at; at++)
        *at = (char)toupper((unsigned char)*at);
    return getenv(variable);
}

static void wipe(void *text)
{
    explicit_bzero(text, strlen(text));
}

static const char *secret_of_file(cw_task *t, const char *path)
{
    char text[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (size < 0) {
        helper_failed(t, false, "OSError", "the secret's file %s: %s", path, strerror(error));
        return NULL;
    }
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == '\r'))
        size--;
    char *secret = task_text(t, text, (size_t)size);
    explicit_bzero(text, sizeof text);
    cw_defer(t, wipe, secret);
    return secret;
}

const char *cw_secret(cw_task *t, const char *name)
{
    const char *value = getenv(name);
    const char *path = value ? NULL : getenv(cw_printf(t, "%s_FILE", name));
    value = path ? secret_of_file(t, path) : value;
    if (value)
        secret_keep(t, name, value);
    return value;
}
