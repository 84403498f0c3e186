/* SPDX-License-Identifier: Apache-2.0 */
/* One list of calls that have no answer yet. A call is sent when the connection is up; one whose
 * answer was lost with its connection, or refused for now, is sent again. */

#include "worker/store/redis_calls.h"

#include "broker/timer.h"
#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

struct call {
    struct call *next, *prev;
    struct redis_calls *calls;
    struct redis_script *script;
    redis_reply_fn *fn;
    void *arg;
    bool sent;
    int n_keys, argc;
    struct slice argv[]; /* the texts lie behind it */
};

struct redis_calls {
    struct redis *redis;
    struct event *again;
    struct call *first, *last;
    unsigned n_attempts;
};

bool redis_error_passes(const char *error)
{
    static const char *const starts[] = {
        "OOM ",    "LOADING ",  "READONLY ",   "BUSY ",     "MASTERDOWN ",  "NOREPLICAS ",
        "NOAUTH ", "NOPERM ",   "MISCONF ",    "TRYAGAIN ", "CLUSTERDOWN ", "MOVED ",
        "ASK ",    "NOSCRIPT ", "UNKILLABLE ", "WRONGPASS "};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (!strncmp(error, starts[i], strlen(starts[i])))
            return true;
    /* NOPERM to a script, in the words of Redis 7 and of later ones. */
    return strstr(error, "The user executing the script can't") ||
           strstr(error, "ACL failure in script");
}

static void call_free(struct call *call)
{
    struct redis_calls *c = call->calls;
    *(call->prev ? &call->prev->next : &c->first) = call->next;
    *(call->next ? &call->next->prev : &c->last) = call->prev;
    free(call);
}

static void try_later(struct redis_calls *c)
{
    if (evtimer_pending(c->again, NULL))
        return;
    timer_arm(c->again, store_backoff(c->n_attempts++));
}

static void on_answer(const redisReply *reply, void *arg)
{
    struct call *call = arg;
    struct redis_calls *c = call->calls;
    if (!reply || (reply->type == REDIS_REPLY_ERROR && redis_error_passes(reply->str))) {
        call->sent = false;
        if (reply)
            try_later(c);
        return;
    }
    c->n_attempts = 0;
    redis_reply_fn *fn = call->fn;
    void *of_fn = call->arg;
    call_free(call);
    fn(reply, of_fn);
}

static void send_call(struct call *call)
{
    struct redis *redis = call->calls->redis;
    int code = call->script ? redis_run(redis, call->script, on_answer, call, call->n_keys,
                                        call->argc, call->argv)
                            : redis_send(redis, on_answer, call, call->argc, call->argv);
    call->sent = code == 0;
}

void redis_calls_up(struct redis_calls *c)
{
    for (struct call *call = c->first, *next; call && redis_is_up(c->redis); call = next) {
        next = call->next;
        if (!call->sent)
            send_call(call);
    }
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    redis_calls_up(arg);
}

void redis_call(struct redis_calls *c, struct redis_script *script, int n_keys, int argc,
                const struct slice *argv, redis_reply_fn *fn, void *arg)
{
    size_t size = sizeof(struct call) + (size_t)argc * sizeof *argv;
    for (int i = 0; i < argc; i++)
        size += argv[i].size;
    struct call *call = mem_alloc(size);
    *call = (struct call){.prev = c->last, .calls = c, .script = script, .fn = fn, .arg = arg,
                          .n_keys = n_keys, .argc = argc};
    char *at = (char *)(call->argv + argc);
    for (int i = 0; i < argc; i++) {
        if (argv[i].size)
            memcpy(at, argv[i].at, argv[i].size);
        call->argv[i] = (struct slice){at, argv[i].size};
        at += argv[i].size;
    }
    *(c->last ? &c->last->next : &c->first) = call;
    c->last = call;
    if (redis_is_up(c->redis))
        send_call(call);
}

struct redis_calls *redis_calls_open(struct event_base *base, struct redis *redis)
{
    struct redis_calls *c = mem_zalloc(sizeof *c);
    c->redis = redis;
    c->again = evtimer_new(base, on_again, c);
    return c;
}

void redis_calls_close(struct redis_calls *c)
{
    while (c->first) {
        struct call *call = c->first;
        redis_reply_fn *fn = call->fn;
        void *arg = call->arg;
        call_free(call);
        fn(NULL, arg);
    }
    event_free(c->again);
    free(c);
}
