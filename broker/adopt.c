/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Taking over what a dead worker held, for `cworker recover`. The one idea: one script moves
 * elements from its in-flight list into ours, which our registration names since before; from there
 * on they are settled like anything that was fetched.
 *
 * A kill -9 before the script leaves them where they were; after it, in our list, with which the
 * next recover (or any worker, as our lease lapses) does the same. */

struct adopting {
    struct lane *lane;
    channel_adopted_fn *fn;
    void *arg;
};

static void adopted(const redisReply *reply, void *arg)
{
    struct adopting a = *(struct adopting *)arg;
    free(arg);
    bool moved = reply && reply->type == REDIS_REPLY_ARRAY;
    if (!moved) {
        note_error(a.lane->c, "taking over messages of a dead worker", reply);
        bool lives = reply && reply->type == REDIS_REPLY_INTEGER;
        a.fn(lives ? ERROR_LOST : ERROR_UNAVAILABLE, 0, a.arg);
        return;
    }
    for (size_t i = 0; i < reply->elements; i++)
        fetch_arrived(a.lane, reply->element[i]->str, reply->element[i]->len);
    a.fn(0, reply->elements, a.arg);
}

static struct lane *lane_of_step(struct channel *c, const char *queue, int step)
{
    for (int i = 0; i < c->n_steps; i++)
        if (c->steps[i] == step)
            return lane_find(c, queue, i);
    return NULL;
}

int channel_adopt(struct channel *c, const struct adoption *what, size_t most,
                  channel_adopted_fn *fn, void *arg)
{
    struct lane *lane = lane_of_step(c, what->queue, what->step);
    if (!lane)
        return ERROR_INVALID;
    if (!c->ready)
        return ERROR_UNAVAILABLE;
    struct adopting *a = mem_alloc(sizeof *a);
    *a = (struct adopting){lane, fn, arg};
    char number[24];
    snprintf(number, sizeof number, "%zu", most);
    char *outbox = outbox_key(c, what->queue);
    const char *tag = what->record ? strrchr(what->record, '/') + 1 : NULL;
    struct slice all[] = {slice_of(what->list), lane->inflight, slice_of(what->lease),
                          slice_of(number)};
    struct slice one[] = {slice_of(what->list), lane->inflight, slice_of(what->lease),
                          slice_of(outbox),     slice_of("1"),  slice_of(what->record),
                          slice_of(tag)};
    int code =
        redis_run(c->redis, &script_adopt, adopted, a, tag ? 4 : 3, tag ? 7 : 4, tag ? one : all);
    free(outbox);
    if (code != 0)
        free(a);
    return code;
}
