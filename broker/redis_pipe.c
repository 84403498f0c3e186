/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/redis_private.h"

#include "proto/base/mem.h"

#include <event2/buffer.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Commands out and replies in. The one idea: Redis answers in order, so the callbacks of all
 * commands under way wait in one ring, and the nth reply belongs to the nth of them. */

enum {
    FEED_SIZE =
        16 * 1024, /* hiredis moves the rest of its buffer after each reply: keep it small */
    SMALL_COMMAND = 8 * 1024 /* formatted in one piece */
};

/* --- commands out --- */

static void pending_push(struct redis *r, redis_reply_fn *fn, void *arg)
{
    if (r->n_pending == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 64;
        struct redis_pending *ring = mem_alloc(capacity * sizeof *ring);
        for (size_t i = 0; i < r->n_pending; i++)
            ring[i] = r->ring[(r->head + i) & (r->capacity - 1)];
        free(r->ring);
        r->ring = ring;
        r->head = 0;
        r->capacity = capacity;
    }
    r->ring[(r->head + r->n_pending++) & (r->capacity - 1)] =
        (struct redis_pending){fn, arg, redis_clock()};
    if (!r->watching && r->state == STATE_UP) {
        redis_watch(r);
    }
}

static char *number_put(char *at, char kind, size_t number)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    *at++ = kind;
    while (n)
        *at++ = digits[--n];
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static void command_add(struct evbuffer *out, int argc, const struct slice *argv)
{
    size_t bound = 32;
    for (int i = 0; i < argc; i++)
        bound += argv[i].size + 32;
    struct evbuffer_iovec room;
    if (bound <= SMALL_COMMAND && evbuffer_reserve_space(out, (ev_ssize_t)bound, &room, 1) == 1) {
        char *at = number_put(room.iov_base, '*', (size_t)argc);
        for (int i = 0; i < argc; i++) {
            at = number_put(at, '$', argv[i].size);
            if (argv[i].size)
                at = mempcpy(at, argv[i].at, argv[i].size);
            at = mempcpy(at, "\r\n", 2);
        }
        room.iov_len = (size_t)(at - (char *)room.iov_base);
        evbuffer_commit_space(out, &room, 1);
        return;
    }
    char head[32];
    evbuffer_add(out, head, (size_t)(number_put(head, '*', (size_t)argc) - head));
    for (int i = 0; i < argc; i++) {
        evbuffer_add(out, head, (size_t)(number_put(head, '$', argv[i].size) - head));
        evbuffer_add(out, argv[i].at, argv[i].size);
        evbuffer_add(out, "\r\n", 2);
    }
}

/* A (P)SUBSCRIBE is answered once for each channel. */
static int reply_count(struct redis *r, struct slice name, int argc)
{
    bool subscribes = (name.size == 9 && !strncasecmp(name.at, "SUBSCRIBE", 9)) ||
                      (name.size == 10 && !strncasecmp(name.at, "PSUBSCRIBE", 10));
    bool leaves = (name.size == 11 && !strncasecmp(name.at, "UNSUBSCRIBE", 11)) ||
                  (name.size == 12 && !strncasecmp(name.at, "PUNSUBSCRIBE", 12));
    if (subscribes)
        r->subscribed = true;
    return (subscribes || leaves) && argc > 2 ? argc - 1 : 1;
}

void redis_command(struct redis *r, redis_reply_fn *fn, void *arg, int argc,
                   const struct slice *argv)
{
    command_add(bufferevent_get_output(r->bev), argc, argv);
    for (int n = reply_count(r, argv[0], argc); n > 0; n--)
        pending_push(r, fn, arg);
}

int redis_send(struct redis *r, redis_reply_fn *fn, void *arg, int argc, const struct slice *argv)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    redis_command(r, fn, arg, argc, argv);
    return 0;
}

int redis_sendf(struct redis *r, redis_reply_fn *fn, void *arg, const char *fmt, ...)
{
    if (r->state != STATE_UP)
        return ERROR_UNAVAILABLE;
    char *command = NULL;
    va_list args;
    va_start(args, fmt);
    int size = redisvFormatCommand(&command, fmt, args);
    va_end(args);
    if (size < 0)
        return ERROR_INVALID;
    evbuffer_add(bufferevent_get_output(r->bev), command, (size_t)size);
    int argc = (int)strtol(command + 1, NULL, 10);
    struct slice name = {fmt, strcspn(fmt, " ")};
    for (int n = reply_count(r, name, argc); n > 0; n--)
        pending_push(r, fn, arg);
    redisFreeCommand(command);
    return 0;
}

/* --- replies in --- */

static bool reply_is_push(const struct redis *r, const redisReply *reply)
{
    if (!r->subscribed || reply->type != REDIS_REPLY_ARRAY || reply->elements < 3)
        return false;
    const redisReply *kind = reply->element[0];
    return kind->type == REDIS_REPLY_STRING &&
           (!strcmp(kind->str, "message") || !strcmp(kind->str, "pmessage"));
}

static void reply_hand_out(struct redis *r, redisReply *reply)
{
    if (reply_is_push(r, reply)) {
        if (r->handlers.on_push)
            r->handlers.on_push(reply, r->handlers.arg);
        return;
    }
    if (!r->n_pending) {
        /* Redis says why before it hangs up (too many clients, for one). */
        char reason[200];
        snprintf(reason, sizeof reason, "unexpected answer: %.150s",
                 reply->type == REDIS_REPLY_ERROR ? reply->str : "");
        redis_drop(r, reason);
        return;
    }
    struct redis_pending p = r->ring[r->head];
    r->head = (r->head + 1) & (r->capacity - 1);
    r->n_pending--;
    bool replica = reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "READONLY", 8) == 0;
    unsigned life = r->life;
    if (p.fn)
        p.fn(reply, p.arg);
    if (replica && life == r->life)
        redis_drop(r, "the server is a read-only replica");
}

static void replies_take(struct redis *r)
{
    unsigned life = r->life;
    void *reply = NULL;
    while (life == r->life) {
        if (redisReaderGetReply(r->reader, &reply) != REDIS_OK) {
            char reason[160];
            snprintf(reason, sizeof reason, "bad answer: %.120s", r->reader->errstr);
            redis_drop(r, reason);
            return;
        }
        if (!reply)
            return;
        reply_hand_out(r, reply);
        freeReplyObject(reply);
    }
}

void redis_read(struct bufferevent *bev, void *arg)
{
    struct redis *r = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    unsigned life = r->life;
    redis_hold(r);
    r->last_read = redis_clock();
    while (life == r->life && evbuffer_get_length(in)) {
        struct evbuffer_iovec piece;
        if (evbuffer_peek(in, FEED_SIZE, NULL, &piece, 1) < 1)
            break;
        size_t size = piece.iov_len < FEED_SIZE ? piece.iov_len : FEED_SIZE;
        redisReaderFeed(r->reader, piece.iov_base, size);
        evbuffer_drain(in, size);
        replies_take(r);
    }
    redis_release(r);
}
