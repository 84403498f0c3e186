/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Which queues are consumed. The one idea: a queue is added and never taken out again; a flag says
 * whether it may be fetched from. So the addresses of its name and lanes hold for whatever is under
 * way.
 *
 * A queue that is added while the channel runs is registered before the first LMOVE from it: a kill
 * -9 before the registration leaves nothing of it; after it, a rescuer knows its in-flight
 * lists. */

struct lane *lane_first(struct channel *c)
{
    return c->n_queues ? &c->queues[0]->lanes[0] : NULL;
}

struct lane *lane_after(struct lane *lane)
{
    struct channel *c = lane->c;
    if (lane->step + 1 < c->n_steps)
        return lane + 1;
    int next = lane->queue->index + 1;
    return next < c->n_queues ? &c->queues[next]->lanes[0] : NULL;
}

static struct queue *queue_find(const struct channel *c, const char *name)
{
    for (int i = 0; i < c->n_queues; i++)
        if (c->queues[i]->name == name || strcmp(c->queues[i]->name, name) == 0)
            return c->queues[i];
    return NULL;
}

struct lane *lane_find(struct channel *c, const char *queue, int step)
{
    struct queue *q = queue_find(c, queue);
    return q && step >= 0 && step < c->n_steps ? &q->lanes[step] : NULL;
}

void queue_append(struct channel *c, const char *name)
{
    struct queue *queue = mem_zalloc(sizeof *queue + (size_t)c->n_steps * sizeof *queue->lanes);
    queue->name = mem_dup(name);
    queue->exchange = mem_dup(name);
    queue->exchange_type = mem_dup("direct");
    queue->routing_key = mem_dup(name);
    queue->index = c->n_queues;
    queue->consumed = true;
    queue->delayed_at = INT64_MAX;
    for (int step = 0; step < c->n_steps; step++) {
        char suffix[16] = "";
        if (c->steps[step])
            snprintf(suffix, sizeof suffix, ".%d", c->steps[step]);
        queue->lanes[step] = (struct lane){
            .c = c, .queue = queue, .step = step, .key = slice_of(queue_key(c, name, step)),
            .inflight = slice_of(mem_printf("%s{%s}.cworker.inflight.%s%s", c->prefix, name,
                                            c->incarnation, suffix))};
    }
    size_t n = (size_t)c->n_queues + 1;
    c->queues = mem_realloc(c->queues, n * sizeof *c->queues);
    c->order = mem_realloc(c->order, n * sizeof *c->order);
    c->queues[n - 1] = queue;
    size_t place = n - 1;
    for (; c->by_name && place && strcmp(c->queues[c->order[place - 1]]->name, name) > 0; place--)
        c->order[place] = c->order[place - 1];
    c->order[place] = (int)n - 1;
    c->n_queues = (int)n;
}

void queue_update(struct channel *c, struct queue *queue)
{
    bool open = queue->consumed && queue->registered && !queue->paused;
    if (open == queue->open)
        return;
    queue->open = open;
    for (int step = 0; step < c->n_steps; step++) {
        queue->lanes[step].waiting = 0;
        fetch_ask(&queue->lanes[step]);
    }
}

/* --- registration --- */

static void declared(const redisReply *reply, void *arg)
{
    note_error(arg, "declaring queues", reply);
}

/* As Kombu's escape_regex: all but letters and digits; wildcards within a word stay, too. */
static void put_escaped(struct slice word, struct buf *out)
{
    for (size_t i = 0; i < word.size; i++) {
        unsigned char c = (unsigned char)word.at[i];
        if (c < 0x80 && !isalnum(c) && c != '#' && c != '*')
            buf_char(out, '\\');
        buf_char(out, (char)c);
    }
}

/* The regular expression by which Kombu finds the queues of a topic: the words of the routing key,
 * where * is one word and # any number of them. */
static void put_pattern(const char *routing_key, struct buf *out)
{
    buf_char(out, '^');
    for (const char *word = routing_key;; word++) {
        size_t size = strcspn(word, ".");
        if (size == 1 && *word == '*')
            buf_str(out, "[^\\.]+");
        else if (size == 1 && *word == '#')
            buf_str(out, ".*?");
        else
            put_escaped((struct slice){word, size}, out);
        word += size;
        if (!*word)
            break;
        buf_str(out, "\\.");
    }
    buf_char(out, '$');
}

/* Both sets, as Kombu 5.7 writes them: its sweep deletes a table whose permanent twin is
 * missing. */
void queue_declare(struct channel *c, const struct queue *queue)
{
    static const char *const sets[] = {"_kombu.binding.", "_kombu.binding_permanent."};
    struct buf member = BUF_INIT(SIZE_MAX / 4);
    buf_printf(&member, "%s" KEY_SEPARATOR, queue->routing_key);
    if (strcmp(queue->exchange_type, "topic") == 0)
        put_pattern(queue->routing_key, &member);
    buf_printf(&member, KEY_SEPARATOR "%s", queue->name);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char *key = mem_printf("%s%s%s", c->prefix, sets[i], queue->exchange);
        redis_send(c->redis, declared, c, 3,
                   (struct slice[]){slice_of("SADD"), slice_of(key), {member.data, member.size}});
        free(key);
    }
    buf_done(&member);
}

/* Without an answer the next recovery registers them. */
static void registered(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    int n = c->n_registering;
    c->n_registering = 0;
    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        note_error(c, "registering a queue", reply);
        timer_arm(c->retry_timer, 1);
        return;
    }
    for (int i = 0; i < n; i++) {
        c->queues[i]->registered = true;
        queue_update(c, c->queues[i]);
    }
    queues_register(c);
}

/* The registration names all queues, so that one is under way at a time: those that come meanwhile
 * share the next. */
void queues_register(struct channel *c)
{
    bool any = false;
    if (!c->ready || c->n_registering)
        return;
    for (int i = 0; i < c->n_queues; i++) {
        if (c->queues[i]->registered)
            continue;
        queue_declare(c, c->queues[i]);
        any = true;
    }
    if (!any)
        return;
    lease_describe(c);
    if (redis_run(c->redis, &script_register, registered, c, 1, 3,
                  (struct slice[]){slice_of(c->registry_key), slice_of(c->incarnation),
                                   slice_of(c->description)}) == 0)
        c->n_registering = c->n_queues;
}

int channel_add_queue(struct channel *c, const char *name)
{
    return channel_add_bound_queue(c, name, &(struct queue_binding){0});
}

static void bind_to(struct queue *queue, const struct queue_binding *binding)
{
    char **const members[] = {&queue->exchange, &queue->exchange_type, &queue->routing_key};
    const char *const texts[] = {binding->exchange, binding->type, binding->routing_key};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!texts[i])
            continue;
        free(*members[i]);
        *members[i] = mem_dup(texts[i]);
    }
}

struct queue_binding channel_binding(const struct channel *c, const char *name)
{
    const struct queue *queue = queue_find(c, name);
    return queue ? (struct queue_binding){queue->exchange, queue->exchange_type, queue->routing_key}
                 : (struct queue_binding){name, "direct", name};
}

int channel_add_bound_queue(struct channel *c, const char *name,
                            const struct queue_binding *binding)
{
    if (!name || !*name)
        return ERROR_INVALID;
    struct queue *queue = queue_find(c, name);
    if (queue) {
        queue->consumed = true;
        if (c->ready)
            queue_declare(c, queue);
    } else {
        queue_append(c, name);
        queue = c->queues[c->n_queues - 1];
        bind_to(queue, binding);
        queue->paused = channel_paused(c, name);
        queues_register(c);
    }
    queue_update(c, queue);
    return 0;
}

int channel_cancel_queue(struct channel *c, const char *name)
{
    struct queue *queue = name && *name ? queue_find(c, name) : NULL;
    if (!name || !*name)
        return ERROR_INVALID;
    if (queue) {
        queue->consumed = false;
        queue_update(c, queue);
    }
    return 0;
}

bool channel_promotes(const struct channel *c, const char *name)
{
    const struct queue *queue = c->passive ? NULL : queue_find(c, name);
    return queue && queue->consumed;
}

const char **channel_queues(const struct channel *c)
{
    const char **names = mem_alloc(((size_t)c->n_queues + 1) * sizeof *names);
    int n = 0;
    for (int i = 0; i < c->n_queues; i++)
        if (c->queues[i]->consumed)
            names[n++] = c->queues[i]->name;
    names[n] = NULL;
    return names;
}
