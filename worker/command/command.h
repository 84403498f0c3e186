/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_COMMAND_H
#define WORKER_COMMAND_H

/* The commands beside `worker`. One row here, its options in options_table.c and its text in help.c
 * are all that a new command needs. */

#include "worker/config/options.h"

/* name, one line of help */
#define COMMANDS(X)                                                                                \
    X(call, "publish one task")                                                                    \
    X(result, "print the result of a task")                                                        \
    X(status, "workers that are online")                                                           \
    X(inspect, "ask workers: active, reserved, scheduled, stats, ...")                             \
    X(control, "tell workers: revoke, rate_limit, pool_grow, shutdown, ...")                       \
    X(events, "events of workers and tasks as they happen")                                        \
    X(queues, "queues: lengths, ages, what is held, who consumes")                                 \
    X(purge, "empty queues")                                                                       \
    X(dead, "look at messages that were set aside; put them back, or throw them away")             \
    X(recover, "give everything back to Kombu's own keys, for a fleet without cworkers")           \
    X(tasks, "tasks this worker can run, and the indexes they need")                               \
    X(report, "versions, settings and tasks, for a bug report")

/* Each returns the exit status. */
#define COMMAND_DECLARE(name, help) int command_##name(struct options *o);
COMMANDS(COMMAND_DECLARE)
#undef COMMAND_DECLARE

/* Empties o->queues without asking, for `worker --purge`; 0, or an exit status having said why. */
int command_purge_now(struct options *o);

/* Exit statuses, as Celery has them. */
enum { EXIT_USAGE = 2, EXIT_UNAVAILABLE = 69, EXIT_PIDFILE = 73 };

/* A command's own part of the command line, from options.rest: `--name=value` and `--name` for its
 * options, then `--`, then its words. */
const char *command_value(const struct options *o, const char *name); /* NULL: not given */
bool command_flag(const struct options *o, const char *name);
const char *command_word(const struct options *o, int index); /* NULL: there are fewer */
/* --timeout, by default 1; 0, or EXIT_USAGE having said why. */
int command_timeout(const struct options *o, double *ret_timeout);
/* What strangers wrote, for a terminal that it must not steer: control characters but tabs, and line
 * ends unless `one_line`, as spaces. Caller frees. */
char *command_clean(const char *text, bool one_line);
/* "cworker call: …" on stderr; returns EXIT_USAGE. */
int command_usage(const struct options *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
