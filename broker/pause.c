/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"
#include "proto/time.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Queues that are paused for the whole fleet. The one idea: the hash in Redis is the truth and is
 * read whole, before the first fetch of a connection, at each note that it has changed, and once a
 * second; a worker that missed the announcement, or starts next week, obeys all the same.
 *
 * A kill -9 before the HSET or HDEL leaves things as they were; after it every worker knows. */

struct pause_request {
    struct channel *c;
    channel_settled_fn *fn;
    void *arg;
};

static char *pause_key(const struct channel *c)
{
    return mem_printf("%scworker.paused", c->prefix);
}

bool pause_key_is(const struct channel *c, const redisReply *key)
{
    size_t n = strlen(c->prefix);
    return key->len >= n && memcmp(key->str, c->prefix, n) == 0 &&
           strcmp(key->str + n, "cworker.paused") == 0;
}

void pause_forget(struct channel *c)
{
    for (int i = 0; i < c->n_paused; i++)
        free(c->paused[i]);
    free(c->paused);
    c->paused = NULL;
    c->n_paused = 0;
}

bool channel_paused(const struct channel *c, const char *queue)
{
    for (int i = 0; i < c->n_paused; i++)
        if (strcmp(c->paused[i], queue) == 0)
            return true;
    return false;
}

static void pause_tell(struct channel *c, struct queue *queue)
{
    bool paused = channel_paused(c, queue->name);
    if (paused == queue->paused)
        return;
    queue->paused = paused;
    note(c, false,
         paused ? "queue %s is paused: nothing is fetched from it" : "queue %s is resumed",
         queue->name);
    queue_update(c, queue);
}

static void names_read(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        note_error(c, "reading which queues are paused, in cworker.paused", reply);
        return;
    }
    pause_forget(c);
    c->paused = mem_alloc((reply->elements + 1) * sizeof *c->paused);
    for (size_t i = 0; i < reply->elements; i++)
        c->paused[c->n_paused++] = mem_dup(reply->element[i]->str);
    for (int i = 0; i < c->n_queues; i++)
        pause_tell(c, c->queues[i]);
}

void pause_ask(struct channel *c)
{
    char *key = pause_key(c);
    redis_send(c->redis, names_read, c, 2, (struct slice[]){slice_of("HKEYS"), slice_of(key)});
    free(key);
}

static void written(const redisReply *reply, void *arg)
{
    struct pause_request *request = arg;
    bool done = reply && reply->type == REDIS_REPLY_INTEGER;
    note_error(request->c, "pausing a queue", reply);
    if (request->fn)
        request->fn(done ? 0 : ERROR_UNAVAILABLE, request->arg);
    free(request);
}

static int pause_write(struct channel *c, const char *queue, bool paused, channel_settled_fn *fn,
                       void *arg)
{
    struct pause_request *request = mem_alloc(sizeof *request);
    *request = (struct pause_request){c, fn, arg};
    char *key = pause_key(c), since[40];
    time_print((int64_t)time(NULL) * 1000000, since);
    int code = redis_send(c->redis, written, request, paused ? 4 : 3,
                          (struct slice[]){slice_of(paused ? "HSET" : "HDEL"), slice_of(key),
                                           slice_of(queue), slice_of(since)});
    free(key);
    if (code)
        free(request);
    else
        pause_ask(c);
    return code;
}

int channel_pause(struct channel *c, const char *queue, channel_settled_fn *fn, void *arg)
{
    return pause_write(c, queue, true, fn, arg);
}

int channel_resume(struct channel *c, const char *queue, channel_settled_fn *fn, void *arg)
{
    return pause_write(c, queue, false, fn, arg);
}
