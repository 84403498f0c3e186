/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_STORE_REDIS_CALLS_H
#define WORKER_STORE_REDIS_CALLS_H

/* Commands and scripts of a Redis store that must happen, however often the connection goes: each
 * may be repeated, so each must be idempotent. */

#include "worker/store/backend.h"

#include "broker/redis.h"

struct redis_calls;

/* `redis` is borrowed. */
struct redis_calls *redis_calls_open(struct event_base *base, struct redis *redis);
void redis_calls_up(struct redis_calls *c); /* the connection is there: what waits is sent */
/* What was not answered hears NULL. After the connection is closed. */
void redis_calls_close(struct redis_calls *c);

/* `script` NULL: argv is a command. fn hears one reply (an error that will not pass may be among
 * them). */
void redis_call(struct redis_calls *c, struct redis_script *script, int n_keys, int argc,
                const struct slice *argv, redis_reply_fn *fn, void *arg);

/* Errors that the server's state explains; anything else is about what was sent. */
bool redis_error_passes(const char *error);

/* Celery's chords in Redis (redis_chord.c). `prefix` ends where Celery's own key begins. */
struct redis_chords {
    struct redis_calls *calls;
    char *prefix;  /* global_keyprefix */
    char expires[24];
    bool ordered;  /* result_chord_ordered */
};
void redis_chord_prepare(struct redis_chords *c, const struct store_header *h, store_done_fn *fn,
                         void *arg);
void redis_chord_add(struct redis_chords *c, const struct store_part *p, store_chord_fn *fn,
                     void *arg);
void redis_chord_forget(struct redis_chords *c, const char *group);

#endif
