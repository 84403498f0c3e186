/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/fanout.h"
#include "broker/timer.h"
#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "proto/repr.h"
#include "proto/time.h"
#include "worker/command/command.h"
#include "worker/command/events_screen.h"
#include "worker/command/mailbox.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Listens to the events' exchange and shows what comes: as a screen, as Celery's dump, or as JSON,
 * one event a line. An event is shown once and forgotten; only the names of the latest tasks are
 * kept, since most events give but the id. */

enum { NAMES = 4096 }; /* a power of two */

struct watch {
    const struct options *o;
    struct screen *screen; /* NULL: lines */
    bool json, ended;
    struct event_base *base;
    struct mailbox *mailbox;
    struct event *key; /* the screen's */
    struct name {
        char *id, *text;
    } names[NAMES];
};

/* --- lines ------------------------------------------------------------------------------------ */

static struct name *name_place(struct watch *w, const char *id)
{
    uint32_t hash = 2166136261u;
    for (const char *c = id; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    return &w->names[hash & (NAMES - 1)];
}

/* name(uuid) args=… kwargs=…, from the event that tells, else as it was told before. */
static const char *task_text(struct watch *w, const char *type, const cJSON *event)
{
    const char *id = json_get_string(event, "uuid");
    if (!id)
        return "";
    struct name *n = name_place(w, id);
    if (strcmp(type, "task-received") == 0 || strcmp(type, "task-sent") == 0) {
        const char *name = json_get_string(event, "name"), *args = json_get_string(event, "args"),
                   *kwargs = json_get_string(event, "kwargs");
        free(n->id);
        free(n->text);
        n->id = mem_dup(id);
        n->text = mem_printf("%s(%s) args=%s kwargs=%s", name ? name : "None", id,
                             args ? args : "None", kwargs ? kwargs : "None");
    }
    return n->id && strcmp(n->id, id) == 0 ? n->text : "";
}

static bool is_told_already(const char *name, bool of_task, bool tells)
{
    static const char *const always[] = {"timestamp", "type", "hostname"};
    static const char *const told[] = {"name", "args", "kwargs"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, always[i]) == 0 || (tells && strcmp(name, told[i]) == 0))
            return true;
    return of_task && strcmp(name, "uuid") == 0;
}

static int by_name(const void *a, const void *b)
{
    const cJSON *const *left = a, *const *right = b;
    return strcmp((*left)->string, (*right)->string);
}

static void add_fields(const cJSON *event, bool of_task, bool tells, struct buf *out)
{
    size_t n = 0;
    const cJSON **fields = mem_alloc((size_t)cJSON_GetArraySize(event) * sizeof *fields);
    for (const cJSON *field = event->child; field; field = field->next)
        if (!is_told_already(field->string, of_task, tells))
            fields[n++] = field;
    qsort(fields, n, sizeof *fields, by_name);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s%s=", i ? ", " : "", fields[i]->string);
        if (cJSON_IsString(fields[i]))
            buf_str(out, fields[i]->valuestring);
        else
            repr_print(fields[i], false, 65536, out);
    }
    free(fields);
}

/* "worker-heartbeat" is "heartbeat", "task-received" is "task received". */
static void add_type(const char *type, struct buf *out)
{
    static const char *const human[][2] = {{"worker-offline", "shutdown"},
                                           {"worker-online", "started"},
                                           {"worker-heartbeat", "heartbeat"}};
    for (size_t i = 0; i < sizeof human / sizeof *human; i++)
        if (strcmp(type, human[i][0]) == 0)
            type = human[i][1];
    for (; *type; type++)
        buf_char(out, *type == '-' ? ' ' : *type);
}

static void dump(struct watch *w, const char *type, const char *hostname, const cJSON *event)
{
    struct buf out = BUF_INIT(1 << 24);
    char time[40];
    bool of_task = strncmp(type, "task-", 5) == 0;
    bool tells = strcmp(type, "task-received") == 0 || strcmp(type, "task-sent") == 0;
    const cJSON *stamp = json_get(event, "timestamp");
    time_print(cJSON_IsNumber(stamp) ? (int64_t)(stamp->valuedouble * 1e6) : 0, time);
    time[10] = ' ';
    buf_printf(&out, "%s [%s] ", hostname, time);
    add_type(type, &out);
    buf_str(&out, ": ");
    if (of_task) {
        buf_str(&out, task_text(w, type, event));
        buf_char(&out, ' ');
    }
    add_fields(event, of_task, tells, &out);
    char *text = command_clean(out.data, false);
    puts(text);
    free(text);
    buf_done(&out);
}

static void show(struct watch *w, const cJSON *event)
{
    const char *type = json_get_string(event, "type"), *host = json_get_string(event, "hostname");
    if (!cJSON_IsObject(event) || !type || !host)
        return;
    if (w->screen) {
        screen_event(w->screen, event);
    } else if (w->json) {
        char *text = json_text(event);
        puts(text);
        free(text);
    } else {
        dump(w, type, host, event);
    }
}

/* --- listening -------------------------------------------------------------------------------- */

static void on_text(struct slice text, void *arg)
{
    cJSON *headers = NULL, *body = NULL;
    if (envelope_decode(text, &headers, &body, NULL) != 0)
        return;
    if (cJSON_IsArray(body))
        for (const cJSON *event = body->child; event; event = event->next)
            show(arg, event);
    else
        show(arg, body);
    cJSON_Delete(headers);
    cJSON_Delete(body);
    fflush(stdout);
}

static void watch_end(struct watch *w)
{
    w->ended = true;
    event_base_loopbreak(w->base);
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    watch_end(arg);
}

/* Both connections come back by themselves; the loop just has to be entered again. */
static void listen_until_told(struct watch *w, struct mailbox *m)
{
    bool lines = !w->screen && !w->json;
    if (lines && !w->o->quiet)
        puts("-> evdump: starting capture...");
    fflush(stdout);
    while (!w->ended && event_base_dispatch(m->redis.base) == 0) {
        if (m->redis.failed && lines)
            puts("-> Connection lost, attempting reconnect");
        fflush(stdout);
        m->redis.failed = false;
    }
}

/* --- the screen ------------------------------------------------------------------------------- */

static void draw(const struct watch *w)
{
    screen_draw(w->screen, fanout_is_listening(w->mailbox->fanout));
}

/* Time to draw, or another size. */
static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    draw(arg);
}

static void on_key(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct watch *w = arg;
    char keys[64];
    ssize_t n = read(fd, keys, sizeof keys);
    if (n <= 0)
        event_del(w->key); /* the terminal is gone */
    else if (memchr(keys, 'q', (size_t)n))
        watch_end(w);
}

/* Ctrl-Z: the shell gets the terminal as it was, and fg brings the screen back. */
static void on_stop(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct watch *w = arg;
    screen_leave(w->screen);
    kill(getpid(), SIGSTOP);
    screen_enter(w->screen);
    draw(w);
}

static void watch_screen(struct watch *w, struct mailbox *m, double period)
{
    struct timeval often = timer_seconds(period);
    struct event *tick = event_new(w->base, -1, EV_PERSIST, on_tick, w);
    struct event *size = evsignal_new(w->base, SIGWINCH, on_tick, w);
    struct event *stop = evsignal_new(w->base, SIGTSTP, on_stop, w);
    w->key = event_new(w->base, STDIN_FILENO, EV_READ | EV_PERSIST, on_key, w);
    event_add(tick, &often);
    event_add(size, NULL);
    event_add(stop, NULL);
    if (isatty(STDIN_FILENO))
        event_add(w->key, NULL);
    screen_enter(w->screen);
    draw(w);
    listen_until_told(w, m);
    screen_leave(w->screen);
    event_free(tick);
    event_free(size);
    event_free(stop);
    event_free(w->key);
}

/* --- the command ------------------------------------------------------------------------------ */

static int watch_run(struct watch *w, double period)
{
    struct mailbox m;
    int status = mailbox_open(&m, w->o);
    if (status == 0) {
        w->base = m.redis.base;
        w->mailbox = &m;
        struct event *ends[] = {evsignal_new(w->base, SIGINT, on_signal, w),
                                evsignal_new(w->base, SIGTERM, on_signal, w)};
        event_add(ends[0], NULL);
        event_add(ends[1], NULL);
        fanout_listen(m.fanout, w->o->settings.event_exchange, "#", NULL, on_text, w);
        mailbox_tell(&m, "heartbeat");
        if (w->screen)
            watch_screen(w, &m, period);
        else
            listen_until_told(w, &m);
        event_free(ends[0]);
        event_free(ends[1]);
    }
    mailbox_close(&m);
    return status;
}

int command_events(struct options *o)
{
    const char *frequency = command_value(o, "frequency");
    char *end = NULL;
    double period = frequency ? strtod(frequency, &end) : 1;
    if (command_word(o, 0))
        return command_usage(o, "unexpected argument \"%.60s\"", command_word(o, 0));
    if (frequency && (*end || end == frequency || !(period >= 0.1 && period <= 3600)))
        return command_usage(o, "--frequency: \"%.40s\" is not a number of seconds from 0.1 on",
                             frequency);
    struct watch *w = mem_zalloc(sizeof *w);
    w->o = o;
    w->json = command_flag(o, "json");
    if (!w->json && !command_flag(o, "dump") && isatty(STDOUT_FILENO))
        w->screen = screen_new();
    int status = watch_run(w, period);
    for (int i = 0; i < NAMES; i++) {
        free(w->names[i].id);
        free(w->names[i].text);
    }
    screen_free(w->screen);
    free(w);
    return status;
}
