/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_COMMAND_REDIS_H
#define WORKER_COMMAND_REDIS_H

/* Redis for a command that does one thing and ends: ask, wait, go on. Failures are printed here. */

#include "broker/redis.h"
#include "worker/config/options.h"

struct command_redis {
    struct event_base *base;
    struct redis *redis;
    const char *command;
    char *url; /* masked */
    bool up, answered, failed, told;
    int64_t number;
    redis_reply_fn *reader; /* of the answer that is awaited; NULL: a number is */
    void *reader_arg;
    char why[240];
};

/* Connects to o->settings.broker_url; 0, or an exit status. command_redis_close is due in every
 * case. */
int command_redis_open(struct command_redis *c, const struct options *o);
void command_redis_close(struct command_redis *c);

/* Sends one command (or script) and waits for its whole number; 0, or an exit status. */
int command_redis_ask(struct command_redis *c, int64_t *ret_number, int argc,
                      const struct slice *argv);
int command_redis_ask_script(struct command_redis *c, int64_t *ret_number,
                             struct redis_script *script, int n_keys, int argc,
                             const struct slice *argv);

/* The same for an answer of any kind but an error: `fn` reads it before this returns. */
int command_redis_read(struct command_redis *c, redis_reply_fn *fn, void *arg, int argc,
                       const struct slice *argv);
/* Names of all keys `{global_keyprefix}pattern`, without the prefix, sorted, each once. NULL-ended;
 * the caller frees with command_keys_free. */
int command_redis_keys(struct command_redis *c, const struct settings *s, const char *pattern,
                       char ***ret_keys);
void command_keys_free(char **keys);

/* The list in which messages of this queue and priority wait, global_keyprefix included; `step`
 * counts the members of priority_steps. Caller frees. */
char *command_queue_key(const struct settings *s, const char *queue, int step);
int command_queue_step(const struct settings *s,
                       int priority); /* where Kombu files this priority */

#endif
