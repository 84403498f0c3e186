/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/events_screen.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Two tables of a fixed size, workers and the latest tasks, drawn anew as a whole: a terminal takes
 * that as well as differences, and nothing grows however long it runs. */

enum { WORKERS_MOST = 256, TASKS_MOST = 128, FREQ_TIMES_DEAD = 2 };

struct seen_worker {
    char name[128], load[32];
    long long active, processed;
    double freq, heard;
    bool online;
};

struct seen_task {
    char id[64], name[128], worker[128], state[16], what[160];
    double at, runtime;
};

struct screen {
    struct seen_worker workers[WORKERS_MOST];
    struct seen_task tasks[TASKS_MOST]; /* a ring, the newest at `next` - 1 */
    int n_workers, n_tasks, next;
    long long n_events;
    struct termios before; /* as the terminal was */
    bool quiet;            /* keys are not echoed, and come at once */
};

struct screen *screen_new(void)
{
    return mem_zalloc(sizeof(struct screen));
}

void screen_free(struct screen *s)
{
    free(s);
}

/* The other screen, without a cursor; what is typed is not seen. */
void screen_enter(struct screen *s)
{
    s->quiet = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &s->before) == 0;
    struct termios quiet = s->before;
    quiet.c_lflag &= ~(tcflag_t)(ECHO | ICANON);
    if (s->quiet)
        tcsetattr(STDIN_FILENO, TCSANOW, &quiet);
    printf("\x1b[?1049h\x1b[?25l");
    fflush(stdout);
}

void screen_leave(struct screen *s)
{
    printf("\x1b[?7h\x1b[?25h\x1b[?1049l");
    fflush(stdout);
    if (s->quiet)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &s->before);
}

static double number(const cJSON *event, const char *name)
{
    const cJSON *value = json_get(event, name);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

/* What strangers wrote must not steer the terminal. */
static void copy(char *to, size_t size, const char *from)
{
    size_t n = 0;
    for (; from && *from && n + 1 < size; from++)
        to[n++] = (unsigned char)*from < ' ' || *from == 127 ? ' ' : *from;
    to[n] = '\0';
}

static double now(void)
{
    return (double)clock_us(CLOCK_MONOTONIC) / 1e6;
}

static struct seen_worker *worker_of(struct screen *s, const char *name)
{
    for (int i = 0; i < s->n_workers; i++)
        if (strncmp(s->workers[i].name, name, sizeof s->workers[i].name - 1) == 0)
            return &s->workers[i];
    if (s->n_workers == WORKERS_MOST)
        return NULL;
    struct seen_worker *w = &s->workers[s->n_workers++];
    copy(w->name, sizeof w->name, name);
    return w;
}

static void see_worker(struct screen *s, const char *type, const char *host, const cJSON *event)
{
    struct seen_worker *w = worker_of(s, host);
    const cJSON *load = json_get(event, "loadavg");
    if (!w || strncmp(type, "worker-elect", 12) == 0)
        return;
    w->online = strcmp(type, "worker-offline") != 0;
    w->heard = now();
    w->freq = number(event, "freq");
    if (!cJSON_IsArray(load))
        return;
    w->active = (long long)number(event, "active");
    w->processed = (long long)number(event, "processed");
    snprintf(w->load, sizeof w->load, "%.2f %.2f %.2f",
             cJSON_GetNumberValue(cJSON_GetArrayItem(load, 0)),
             cJSON_GetNumberValue(cJSON_GetArrayItem(load, 1)),
             cJSON_GetNumberValue(cJSON_GetArrayItem(load, 2)));
}

static struct seen_task *task_of(struct screen *s, const char *id)
{
    for (int i = 0; i < s->n_tasks; i++)
        if (strncmp(s->tasks[i].id, id, sizeof s->tasks[i].id - 1) == 0)
            return &s->tasks[i];
    struct seen_task *t = &s->tasks[s->next];
    s->next = (s->next + 1) % TASKS_MOST;
    s->n_tasks += s->n_tasks < TASKS_MOST;
    *t = (struct seen_task){0};
    copy(t->id, sizeof t->id, id);
    return t;
}

static void see_task(struct screen *s, const char *type, const char *host, const cJSON *event)
{
    const char *id = json_get_string(event, "uuid");
    struct seen_task *t = id ? task_of(s, id) : NULL;
    if (!t)
        return;
    const char *name = json_get_string(event, "name"), *result = json_get_string(event, "result");
    if (name)
        copy(t->name, sizeof t->name, name);
    if (strcmp(type, "task-sent") != 0)
        copy(t->worker, sizeof t->worker, host);
    copy(t->state, sizeof t->state, type + strlen("task-"));
    copy(t->what, sizeof t->what, result ? result : json_get_string(event, "exception"));
    t->at = number(event, "timestamp");
    t->runtime = number(event, "runtime");
}

void screen_event(struct screen *s, const cJSON *event)
{
    const char *type = json_get_string(event, "type"), *host = json_get_string(event, "hostname");
    s->n_events++;
    if (!type || !host)
        return;
    if (strncmp(type, "worker-", 7) == 0)
        see_worker(s, type, host, event);
    else if (strncmp(type, "task-", 5) == 0)
        see_task(s, type, host, event);
}

/* --- drawing ---------------------------------------------------------------------------------- */

#define LINE_END "\x1b[K\n"

static void draw_workers(const struct screen *s, int rows, FILE *out)
{
    fprintf(out, "\x1b[7m %-30s %-8s %7s %10s  %-18s %6s" LINE_END "\x1b[0m", "WORKER", "STATE",
            "ACTIVE", "PROCESSED", "LOAD", "HEARD");
    for (int i = 0; i < s->n_workers && i < rows; i++) {
        const struct seen_worker *w = &s->workers[i];
        double silent = now() - w->heard;
        bool alive = w->online && silent < (w->freq > 0 ? w->freq : 2) * FREQ_TIMES_DEAD + 1;
        fprintf(out, " %-30.30s %-8s %7lld %10lld  %-18s %5.0fs" LINE_END, w->name,
               alive       ? "online"
               : w->online ? "silent"
                           : "offline",
               w->active, w->processed, w->load, silent);
    }
}

static void draw_task(const struct seen_task *t, FILE *out)
{
    time_t seconds = (time_t)t->at;
    struct tm tm = {0};
    char clock[16] = "", runtime[16] = "";
    localtime_r(&seconds, &tm);
    strftime(clock, sizeof clock, "%H:%M:%S", &tm);
    if (t->runtime > 0)
        snprintf(runtime, sizeof runtime, "%.3fs", t->runtime);
    fprintf(out, " %-8s %-36.36s %-28.28s %-10s %9s %-20.20s %.60s" LINE_END, clock, t->id, t->name,
           t->state, runtime, t->worker, t->what);
}

static void draw_frame(const struct screen *s, int rows, bool connected, FILE *out)
{
    int workers = s->n_workers < rows / 2 ? s->n_workers : rows / 2;
    fprintf(out, " cworker events: %d workers, %lld events%s (q ends)" LINE_END LINE_END,
            s->n_workers, s->n_events, connected ? "" : ", no connection to Redis");
    draw_workers(s, workers, out);
    fprintf(out, LINE_END "\x1b[7m %-8s %-36s %-28s %-10s %9s %-20s %s" LINE_END "\x1b[0m", "TIME",
            "UUID", "TASK", "STATE", "RUNTIME", "WORKER", "RESULT");
    for (int i = 0; i < s->n_tasks && i < rows; i++)
        draw_task(&s->tasks[(s->next - 1 - i + 2 * TASKS_MOST) % TASKS_MOST], out);
}

/* What is beyond the last row but one is cut off, so that nothing ever scrolls. */
void screen_draw(const struct screen *s, bool connected)
{
    struct winsize size = {0};
    char *frame = NULL, *end;
    size_t length = 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0)
        size.ws_row = 24;
    FILE *out = open_memstream(&frame, &length);
    if (!out)
        return;
    draw_frame(s, size.ws_row, connected, out);
    fclose(out);
    end = frame;
    for (int row = 1; row < size.ws_row && *end; row++) {
        end += strcspn(end, "\n");
        end += *end == '\n';
    }
    printf("\x1b[?7l\x1b[H%.*s\x1b[0m\x1b[J\x1b[?7h", (int)(end - frame), frame);
    fflush(stdout);
    free(frame);
}
