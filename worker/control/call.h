/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CONTROL_CALL_H
#define WORKER_CONTROL_CALL_H

/* One command under way: its arguments, and the ways to answer it. What a command returns is its
 * reply; one that has to ask Redis first sets `later` and answers by call_answer. */

#include "worker/control/control.h"
#include "worker/worker.h"

struct call {
    struct call *next; /* of those that wait */
    struct control *control;
    struct worker *worker;
    const struct control_command *command;
    cJSON *body;            /* owned: the message */
    const cJSON *arguments; /* an object, or NULL */
    bool later;
    bool silent;            /* no reply at all */
};

/* Sends the reply, where one is wanted, and frees the call. Takes reply; NULL answers null. */
void call_answer(struct call *call, cJSON *reply);

/* Replies in Celery's shapes: {"ok": text}, {"error": text}, {"error": "ValueError('text')"}. */
cJSON *call_ok(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
cJSON *call_nok(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
cJSON *call_raise(const char *type, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const cJSON *call_argument(const struct call *call, const char *name); /* NULL: absent or null */
/* As Celery's maybe_list: a list's items, or the one text. Borrowed texts; caller frees the
 * array. */
const char **call_texts(const struct call *call, const char *name, size_t *ret_n);
bool call_flag(const struct call *call, const char *name);
bool call_is_false(const cJSON *value); /* to Python; so is what is absent */
/* The reply where an id, or one in a list of them, is of a type that no set takes; NULL: none is. */
cJSON *call_unhashable(const cJSON *ids);
const char *call_type(const cJSON *value); /* Python's name of its type */
/* Python's repr of a JSON value. Caller frees. */
char *call_repr(const cJSON *value);

/* Are the arguments those of the command? If not, the reply that Python's TypeError makes. */
cJSON *call_check(const struct call *call);

/* --- pattern.c --- */
/* Does the node's name match? `matcher` is glob or pcre. INVALID: another, or a broken pattern. */
int pattern_match(const char *name, const char *pattern, const char *matcher, bool *ret_match,
                  struct error *err);

/* --- request_info.c: a task as Celery's Request.info() shows it --- */
cJSON *request_info(const struct request *r, bool safe);
/* Calls fn with each request, the newest first, that is `active` (started, and not yet acked) or
 * `reserved` (received, to be started). */
enum request_place { REQUEST_PLACE_NONE, REQUEST_PLACE_ACTIVE, REQUEST_PLACE_RESERVED };
typedef void request_fn(const struct request *r, enum request_place place, void *arg);
void requests_each(struct worker *w, request_fn *fn, void *arg);

/* --- the commands, one for each row of the table in commands.c --- */
#define CALLS(X)                                                                                   \
    X(ping) X(clock) X(stats) X(memsample) X(memdump) X(objgraph) X(report) X(conf)                \
    X(active) X(reserved) X(scheduled) X(revoked) X(registered) X(query_task) X(active_queues)     \
    X(hello)                                                                                       \
    X(revoke) X(revoke_by_stamped_headers) X(revoked_stamps_clear) X(terminate)                    \
    X(rate_limit) X(time_limit)                                                                    \
    X(pool_grow) X(pool_shrink) X(pool_restart) X(autoscale) X(shutdown)                           \
    X(add_consumer) X(cancel_consumer) X(pause) X(resume)                                          \
    X(enable_events) X(disable_events) X(heartbeat) X(election)
#define CALL_DECLARE(name) cJSON *call_##name(struct call *call);
CALLS(CALL_DECLARE)
#undef CALL_DECLARE

#endif
