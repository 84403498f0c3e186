/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* What a task will cause, kept beside its queue from before its result is stored until its ack. The
 * one idea: a record belongs to one delivery (task id and delivery tag), is written only by who
 * holds that delivery, and is removed by the script that acks it (EFFECT_FORGET).
 *
 * A kill -9 before the script that writes leaves no record; after it, a record that the next run of
 * the same delivery replaces, publishes or removes. */

struct reading {
    struct channel *c;
    channel_outbox_fn *fn;
    void *arg;
};

char *outbox_key(const struct channel *c, const char *queue)
{
    return mem_printf("%s{%s}.cworker.outbox", c->prefix, queue);
}

char *outbox_field(const char *id, const char *tag)
{
    return mem_printf("%s/%s", id ? id : "", tag ? tag : "");
}

/* The version leads, so that a later format can be told without reading it. What has none is handed
 * over as it is: its reader says that it is unreadable. */
static void outbox_answered(const redisReply *reply, void *arg)
{
    struct reading reading = *(struct reading *)arg;
    free(arg);
    struct slice text = {0};
    int code = 0, version = 0, from = 0;
    if (reply)
        note_error(reading.c, "reading what a task will cause, in its queue's cworker.outbox", reply);
    if (!reply || reply->type == REDIS_REPLY_ERROR)
        code = ERROR_UNAVAILABLE;
    else if (reply->type == REDIS_REPLY_STRING && sscanf(reply->str, "%9d %n", &version, &from) == 1)
        code = version <= OUTBOX_VERSION ? 0 : ERROR_UNSUPPORTED;
    if (code == 0 && reply->type == REDIS_REPLY_STRING)
        text = (struct slice){reply->str + from, reply->len - (size_t)from};
    reading.fn(code, text, reading.arg);
}

int channel_outbox_read(struct channel *c, const char *queue, const char *id, const char *tag,
                        channel_outbox_fn *fn, void *arg)
{
    struct reading *reading = mem_alloc(sizeof *reading);
    *reading = (struct reading){c, fn, arg};
    char *key = outbox_key(c, queue);
    char *field = outbox_field(id, tag);
    int code = c->ready
                   ? redis_send(c->redis, outbox_answered, reading, 3,
                                (struct slice[]){slice_of("HGET"), slice_of(key), slice_of(field)})
                   : ERROR_UNAVAILABLE;
    free(key);
    free(field);
    if (code != 0)
        free(reading);
    return code;
}

void channel_outbox_write(struct channel *c, struct delivery *d, const char *id, const char *tag,
                          struct slice text, channel_settled_fn *fn, void *arg)
{
    struct effect record = {.kind = EFFECT_RECORD, .queue = d->queue, .id = id, .tag = tag,
                            .text = text};
    settle_beside(c, d, &record, fn, arg);
}
