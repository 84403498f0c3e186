/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/redis.h"

#include "proto/base/mem.h"
#include "worker/command/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The worker's connection with a loop of its own, which runs only while something is awaited. The
 * first failure ends it: a person waits at the terminal, and the text says what to look at. */

enum { PATIENCE = 30 }; /* seconds for one answer */

static int fail(struct command_redis *c, const char *why)
{
    if (!c->failed)
        snprintf(c->why, sizeof c->why, "%s", why);
    c->failed = true;
    event_base_loopbreak(c->base);
    return EXIT_UNAVAILABLE;
}

static void on_up(struct redis *r, void *arg)
{
    struct command_redis *c = arg;
    (void)r;
    c->up = true;
    event_base_loopbreak(c->base);
}

static void on_down(struct redis *r, const char *reason, void *arg)
{
    (void)r;
    fail(arg, reason);
}

static void on_patience_out(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    fail(arg, "no answer within 30 s");
}

/* Until up or answered, whichever is awaited. */
static int wait_for(struct command_redis *c, const bool *flag)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    struct event *timer = evtimer_new(c->base, on_patience_out, c);
    evtimer_add(timer, &patience);
    while (!*flag && !c->failed)
        if (event_base_dispatch(c->base) != 0)
            break;
    event_free(timer);
    if (*flag)
        return 0;
    if (!c->told) /* what tidies up behind a failure fails as well */
        fprintf(stderr, "cworker %s: %s: %s\n", c->command, c->url, c->why);
    c->told = true;
    return EXIT_UNAVAILABLE;
}

int command_redis_open(struct command_redis *c, const struct options *o)
{
    *c = (struct command_redis){.command = o->command};
    struct error err = {0};
    struct redis_url url;
    if (settings_broker(&o->settings, &url, &err) != 0) {
        fprintf(stderr, "cworker %s: broker_url: %s\n", c->command, err.text);
        return EXIT_USAGE;
    }
    struct redis_options options = {.client_name = "cworker-command"};
    struct redis_handlers handlers = {.on_up = on_up, .on_down = on_down, .arg = c};
    c->url = url_mask(o->settings.broker_url);
    c->base = event_base_new();
    c->redis = redis_open(c->base, &url, &options, &handlers);
    redis_url_done(&url);
    return wait_for(c, &c->up);
}

void command_redis_close(struct command_redis *c)
{
    if (c->redis)
        redis_close(c->redis);
    if (c->base)
        event_base_free(c->base);
    free(c->url);
    *c = (struct command_redis){0};
}

static void on_reply(const redisReply *reply, void *arg)
{
    struct command_redis *c = arg;
    if (!reply) {
        fail(c, "the connection went before the answer came");
    } else if (c->reader && reply->type != REDIS_REPLY_ERROR) {
        c->reader(reply, c->reader_arg);
        c->answered = true;
        event_base_loopbreak(c->base);
    } else if (reply->type == REDIS_REPLY_INTEGER) {
        c->number = reply->integer;
        c->answered = true;
        event_base_loopbreak(c->base);
    } else {
        fail(c, reply->type == REDIS_REPLY_ERROR ? reply->str : "an answer of an unexpected kind");
    }
}

static int wait_for_number(struct command_redis *c, int sent, int64_t *ret_number)
{
    c->answered = false;
    if (sent != 0)
        fail(c, "the connection went");
    int status = wait_for(c, &c->answered);
    *ret_number = status == 0 ? c->number : 0;
    return status;
}

int command_redis_ask(struct command_redis *c, int64_t *ret_number, int argc,
                      const struct slice *argv)
{
    return wait_for_number(c, redis_send(c->redis, on_reply, c, argc, argv), ret_number);
}

int command_redis_ask_script(struct command_redis *c, int64_t *ret_number,
                             struct redis_script *script, int n_keys, int argc,
                             const struct slice *argv)
{
    return wait_for_number(c, redis_run(c->redis, script, on_reply, c, n_keys, argc, argv),
                           ret_number);
}

int command_redis_read(struct command_redis *c, redis_reply_fn *fn, void *arg, int argc,
                       const struct slice *argv)
{
    int64_t none;
    c->reader = fn;
    c->reader_arg = arg;
    int status = command_redis_ask(c, &none, argc, argv);
    c->reader = NULL;
    return status;
}

/* --- keys --- */

struct scan {
    char **keys, cursor[32];
    size_t n, prefix;
};

static void scan_read(const redisReply *reply, void *arg)
{
    struct scan *scan = arg;
    snprintf(scan->cursor, sizeof scan->cursor, "0");
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2)
        return;
    const redisReply *found = reply->element[1];
    snprintf(scan->cursor, sizeof scan->cursor, "%s", reply->element[0]->str);
    scan->keys = mem_realloc(scan->keys, (scan->n + found->elements + 1) * sizeof *scan->keys);
    for (size_t i = 0; i < found->elements; i++)
        scan->keys[scan->n++] = mem_dup(found->element[i]->str + scan->prefix);
}

static int key_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* SCAN may name a key more than once. */
static void scan_sort(struct scan *scan)
{
    size_t n = 0;
    qsort(scan->keys, scan->n, sizeof *scan->keys, key_order);
    for (size_t i = 0; i < scan->n; i++)
        if (n && strcmp(scan->keys[n - 1], scan->keys[i]) == 0)
            free(scan->keys[i]);
        else
            scan->keys[n++] = scan->keys[i];
    scan->keys[n] = NULL;
}

int command_redis_keys(struct command_redis *c, const struct settings *s, const char *pattern,
                       char ***ret_keys)
{
    const char *prefix = s->global_keyprefix ? s->global_keyprefix : "";
    struct scan scan = {
        .cursor = "0", .prefix = strlen(prefix), .keys = mem_zalloc(sizeof(char *))};
    struct buf match = BUF_INIT(1 << 20);
    for (const char *at = prefix; *at; at++) {
        if (strchr("*?[]\\", *at))
            buf_char(&match, '\\');
        buf_char(&match, *at);
    }
    buf_str(&match, pattern);
    int status;
    do {
        status = command_redis_read(c, scan_read, &scan, 6,
                                    (struct slice[]){slice_of("SCAN"), slice_of(scan.cursor),
                                                     slice_of("MATCH"), {match.data, match.size},
                                                     slice_of("COUNT"), slice_of("1000")});
    } while (status == 0 && strcmp(scan.cursor, "0") != 0);
    buf_done(&match);
    scan_sort(&scan);
    *ret_keys = scan.keys;
    return status;
}

void command_keys_free(char **keys)
{
    for (char **at = keys; at && *at; at++)
        free(*at);
    free(keys);
}

char *command_queue_key(const struct settings *s, const char *queue, int step)
{
    const char *prefix = s->global_keyprefix ? s->global_keyprefix : "";
    const char *name = s->priority_steps ? s->priority_steps[step] : "0";
    if (strcmp(name, "0") == 0)
        return mem_printf("%s%s", prefix, queue);
    return mem_printf("%s%s\x06\x16%s", prefix, queue, name);
}

int command_queue_step(const struct settings *s, int priority)
{
    int step = 0;
    for (int i = 0; s->priority_steps && s->priority_steps[i]; i++)
        if (strtol(s->priority_steps[i], NULL, 10) <= priority)
            step = i;
    return step;
}
