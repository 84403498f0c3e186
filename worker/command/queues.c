/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/message.h"
#include "worker/command/command.h"
#include "worker/command/mailbox.h"
#include "worker/config/text_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Queues as Redis holds them, and who consumes them as the workers say. Everything is gathered into
 * one JSON object, queue name → figures; the table prints from it. Reads only, and nothing that
 * takes long on a busy Redis: lengths, one element of each list, and of Kombu's unacked hash at
 * most UNACKED_MOST. */

enum { UNACKED_MOST = 10000 };

struct gather {
    const struct options *o;
    struct mailbox mailbox;
    cJSON *queues;
    bool all;          /* no -Q: whatever is found counts */
    int64_t unacked_unknown; /* too many to look at each */
};

static const char *prefix(const struct gather *g)
{
    const char *text = g->o->settings.global_keyprefix;
    return text ? text : "";
}

/* --- which queues, and who consumes them ------------------------------------------------------ */

static cJSON *queue_of(struct gather *g, const char *name, bool may_add)
{
    cJSON *queue = cJSON_GetObjectItemCaseSensitive(g->queues, name);
    if (!queue && may_add && !text_list_has(g->o->excluded, name)) {
        queue = cJSON_AddObjectToObject(g->queues, name);
        json_set(queue, "waiting", json_int(0));
        json_set(queue, "priorities", cJSON_CreateObject());
        json_set(queue, "oldest_age", cJSON_CreateNull());
        static const char *const counts[] = {"in_flight", "unacked", "delayed", "dead"};
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            json_set(queue, counts[i], json_int(0));
        json_set(queue, "paused", cJSON_CreateFalse());
        json_set(queue, "workers", cJSON_CreateArray());
    }
    return queue;
}

static void add(cJSON *queue, const char *what, int64_t n)
{
    int64_t before = 0;
    json_as_int(json_get(queue, what), &before);
    json_set(queue, what, json_int(before + n));
}

static void on_active_queues(const char *node, const cJSON *reply, void *arg)
{
    struct gather *g = arg;
    for (const cJSON *item = cJSON_IsArray(reply) ? reply->child : NULL; item; item = item->next) {
        const char *name = json_get_string(item, "name");
        cJSON *queue = name ? queue_of(g, name, g->all) : NULL;
        if (queue)
            cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(queue, "workers"),
                                 cJSON_CreateString(node));
    }
}

/* --- what Redis says -------------------------------------------------------------------------- */

static int length_of(struct gather *g, const char *command, const char *key, int64_t *ret_n)
{
    return command_redis_ask(&g->mailbox.redis, ret_n, 2,
                             (struct slice[]){slice_of(command), slice_of(key)});
}

/* The name of the queue that a key like prefix + celery + \x06\x16 + 3 belongs to. */
static char *queue_of_key(const struct gather *g, const char *key)
{
    size_t skip = strlen(prefix(g));
    const char *name = strncmp(key, prefix(g), skip) == 0 ? key + skip : key;
    const char *end = strstr(name, "\x06\x16");
    return mem_ndup(name, end ? (size_t)(end - name) : strlen(name));
}

struct copied {
    char **texts;
    size_t n;
};

static void on_texts(const redisReply *reply, void *arg)
{
    struct copied *c = arg;
    if (reply->type == REDIS_REPLY_STRING) {
        c->texts = mem_alloc(sizeof *c->texts);
        c->texts[c->n++] = mem_ndup(reply->str, reply->len);
    } else if (reply->type == REDIS_REPLY_ARRAY) {
        c->texts = mem_alloc((reply->elements + 1) * sizeof *c->texts);
        for (size_t i = 0; i < reply->elements; i++)
            if (reply->element[i]->type == REDIS_REPLY_STRING)
                c->texts[c->n++] = mem_ndup(reply->element[i]->str, reply->element[i]->len);
    }
}

static void copied_done(struct copied *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->texts[i]);
    free(c->texts);
}

/* What cworkers hold, dead ones too: their registration tells which lists there are. */
static int add_in_flight(struct gather *g)
{
    struct copied found = {0};
    char *key = mem_printf("%scworker.incarnations", prefix(g));
    int status = command_redis_read(&g->mailbox.redis, on_texts, &found, 2,
                                   (struct slice[]){slice_of("HVALS"), slice_of(key)});
    for (size_t i = 0; i < found.n && status == 0; i++) {
        cJSON *about = json_parse(found.texts[i], strlen(found.texts[i]), NULL);
        const cJSON *lists = json_get(about, "lists");
        for (const cJSON *l = lists ? lists->child : NULL; l && status == 0; l = l->next) {
            const char *list = cJSON_GetStringValue(cJSON_GetArrayItem(l, 0));
            const char *of = cJSON_GetStringValue(cJSON_GetArrayItem(l, 1));
            char *name = of ? queue_of_key(g, of) : NULL;
            cJSON *queue = list && name ? queue_of(g, name, g->all) : NULL;
            int64_t n = 0;
            if (queue && (status = length_of(g, "LLEN", list, &n)) == 0)
                add(queue, "in_flight", n);
            free(name);
        }
        cJSON_Delete(about);
    }
    copied_done(&found);
    free(key);
    return status;
}

/* Kombu keeps those of all queues in one hash: [envelope, exchange, routing key]. */
static int add_unacked(struct gather *g)
{
    struct copied found = {0};
    int64_t n = 0;
    char *key = mem_printf("%s%s", prefix(g), g->o->settings.unacked_key);
    int status = length_of(g, "HLEN", key, &n);
    if (status == 0 && n > UNACKED_MOST)
        g->unacked_unknown = n;
    else if (status == 0 && n > 0)
        status = command_redis_read(&g->mailbox.redis, on_texts, &found, 2,
                                   (struct slice[]){slice_of("HVALS"), slice_of(key)});
    for (size_t i = 0; i < found.n; i++) {
        cJSON *entry = json_parse(found.texts[i], strlen(found.texts[i]), NULL);
        const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(entry, 2));
        cJSON *queue = name ? queue_of(g, name, g->all) : NULL;
        if (queue)
            add(queue, "unacked", 1);
        cJSON_Delete(entry);
    }
    copied_done(&found);
    free(key);
    return status;
}

/* Messages carry no time of their making; one with an ETA or a `timestamp` tells all the same. */
static double age_of(const char *text)
{
    struct message m = {0};
    struct message_limits limits = {0};
    double age = -1;
    int64_t since = TIME_NONE;
    double seconds = (double)clock_us(CLOCK_REALTIME) / 1e6;
    if (message_decode(mem_dup(text), strlen(text), &limits, &m, NULL) == 0)
        since = m.eta;
    cJSON *properties =
        m.properties.at ? json_parse(m.properties.at, m.properties.size, NULL) : NULL;
    const cJSON *stamp = json_get(properties, "timestamp");
    if (cJSON_IsNumber(stamp))
        age = seconds - stamp->valuedouble;
    else if (since != TIME_NONE)
        age = seconds - (double)since / 1e6;
    cJSON_Delete(properties);
    message_done(&m);
    return age;
}

static int add_oldest(struct gather *g, cJSON *queue, const char *key)
{
    struct copied found = {0};
    int status = command_redis_read(
        &g->mailbox.redis, on_texts, &found, 3,
        (struct slice[]){slice_of("LINDEX"), slice_of(key), slice_of("-1")});
    const cJSON *known = json_get(queue, "oldest_age");
    double age = found.n ? age_of(found.texts[0]) : -1;
    if (age >= 0 && (!cJSON_IsNumber(known) || age > known->valuedouble))
        json_set(queue, "oldest_age", cJSON_CreateNumber((double)(int64_t)(age * 1000) / 1000));
    copied_done(&found);
    return status;
}

static int add_waiting(struct gather *g, cJSON *queue)
{
    const struct settings *s = &g->o->settings;
    int status = 0;
    for (int step = 0; s->priority_steps && s->priority_steps[step] && status == 0; step++) {
        int64_t n = 0;
        char *key = command_queue_key(s, queue->string, step);
        status = length_of(g, "LLEN", key, &n);
        add(queue, "waiting", n);
        json_set(cJSON_GetObjectItemCaseSensitive(queue, "priorities"), s->priority_steps[step],
                 json_int(n));
        if (status == 0 && n > 0)
            status = add_oldest(g, queue, key);
        free(key);
    }
    return status;
}

static int add_ours(struct gather *g, cJSON *queue)
{
    int64_t delayed = 0, dead = 0;
    char *delayed_key = mem_printf("%s{%s}.cworker.delayed", prefix(g), queue->string);
    char *dead_key = mem_printf("%s{%s}.cworker.dead", prefix(g), queue->string);
    int status = length_of(g, "ZCARD", delayed_key, &delayed);
    if (status == 0)
        status = length_of(g, "LLEN", dead_key, &dead);
    json_set(queue, "delayed", json_int(delayed));
    json_set(queue, "dead", json_int(dead));
    free(delayed_key);
    free(dead_key);
    return status;
}

static int add_paused(struct gather *g, cJSON *queue)
{
    int64_t paused = 0;
    char *key = mem_printf("%scworker.paused", prefix(g));
    int status = command_redis_ask(
        &g->mailbox.redis, &paused, 3,
        (struct slice[]){slice_of("HEXISTS"), slice_of(key), slice_of(queue->string)});
    json_set(queue, "paused", cJSON_CreateBool(paused));
    free(key);
    return status;
}

static int gather_all(struct gather *g, double timeout)
{
    struct mailbox_question q = {.method = "active_queues", .timeout = timeout};
    int status = mailbox_ask(&g->mailbox, &q, on_active_queues, g);
    if (status == 0)
        status = add_in_flight(g);
    if (status == 0)
        status = add_unacked(g);
    for (cJSON *queue = g->queues->child; queue && status == 0; queue = queue->next) {
        status = add_waiting(g, queue);
        if (status == 0)
            status = add_ours(g, queue);
        if (status == 0)
            status = add_paused(g, queue);
    }
    return status;
}

/* --- output ----------------------------------------------------------------------------------- */

static long long figure(const cJSON *queue, const char *name)
{
    int64_t n = 0;
    json_as_int(json_get(queue, name), &n);
    return n;
}

static void print_row(const cJSON *queue)
{
    char age[32] = "-";
    const cJSON *oldest = json_get(queue, "oldest_age");
    if (cJSON_IsNumber(oldest))
        snprintf(age, sizeof age, "%.0fs", oldest->valuedouble);
    char *name = command_clean(queue->string, true);
    printf("%-24s %9lld %8s %9lld %8lld %8lld %6lld  ", name, figure(queue, "waiting"), age,
           figure(queue, "in_flight"), figure(queue, "unacked"), figure(queue, "delayed"),
           figure(queue, "dead"));
    free(name);
    const char *separator = "";
    for (const cJSON *w = json_get(queue, "workers")->child; w; w = w->next, separator = ", ")
        printf("%s%s", separator, w->valuestring);
    puts(cJSON_IsTrue(json_get(queue, "paused")) ? " (paused)" : "");
    for (const cJSON *p = json_get(queue, "priorities")->child; p; p = p->next)
        if (strcmp(p->string, "0") != 0 && p->valuedouble > 0)
            printf("  priority %-13s %9lld\n", p->string, (long long)p->valuedouble);
}

static void print_table(const struct gather *g)
{
    printf("%-24s %9s %8s %9s %8s %8s %6s  %s\n", "QUEUE", "WAITING", "OLDEST", "IN-FLIGHT",
           "UNACKED", "DELAYED", "DEAD", "WORKERS");
    for (const cJSON *queue = g->queues->child; queue; queue = queue->next)
        print_row(queue);
    if (g->unacked_unknown)
        printf("\n%lld messages are unacked in all; too many to say of which queues.\n",
               (long long)g->unacked_unknown);
}

int command_queues(struct options *o)
{
    struct gather g = {.o = o, .queues = cJSON_CreateObject(), .all = !o->settings.task_queues};
    double timeout = 1;
    int status =
        command_word(o, 0)
            ? command_usage(o, "unexpected argument \"%.60s\"; queues are given as -Q NAME",
                            command_word(o, 0))
            : command_timeout(o, &timeout);
    for (char **queue = o->queues; *queue; queue++)
        queue_of(&g, *queue, true);
    if (status == 0) {
        status = mailbox_open(&g.mailbox, o);
        if (status == 0)
            status = gather_all(&g, timeout);
        mailbox_close(&g.mailbox);
    }
    if (status == 0 && command_flag(o, "json")) {
        char *text = json_text(g.queues);
        puts(text);
        free(text);
    } else if (status == 0) {
        print_table(&g);
    }
    cJSON_Delete(g.queues);
    return status;
}
