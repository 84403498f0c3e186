/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CONTINUATION_H
#define WORKER_CONTINUATION_H

/* What a producer asked to happen after a task: the next step of its chain, its callbacks (link)
 * and errbacks (link_error), the chord it is a part of, as they travel in the embed of the
 * message's body. They become messages here (canvas.h), which leave with the task's ack. Sources:
 * celery.app.trace, celery.backends.base. */

#include "worker/canvas.h"

struct continuation {
    const struct message *message; /* of the task that ended */
    struct canvas canvas;
    /* Does this errback take (request, exc, traceback), not only the id? NULL: none does. */
    bool (*takes_error)(const char *task);
};

/* The canvas that a task's continuation is sent by; c->canvas' rows stay the caller's to set. */
void continuation_init(struct continuation *c, const struct message *m);

/* True when the message asks for nothing: the common case, told without parsing. */
bool continuation_is_empty(const struct message *m);

/* Are callbacks, errbacks and chain lists of signatures, where there are any? */
int continuation_check(const struct message *m, struct error *err);

/* Callbacks, then the next step of the chain, each with `result` (JSON text) before its own
 * arguments. */
int continuation_succeeded(const struct continuation *c, struct slice result, struct error *err);

/* Errbacks, each with the task's id before its own arguments, or with (request, exc, traceback). */
int continuation_failed(const struct continuation *c, struct slice exception, const char *traceback,
                        struct error *err);
/* The same for errbacks of something else: a list or one signature, of task `id`. */
int continuation_call_errbacks(const struct continuation *c, const cJSON *errbacks, const char *id,
                               struct slice exception, const char *traceback, struct error *err);

/* What a task's message says when `signature` takes its place: the same id, callbacks, errbacks,
 * place in group and chord, and the rest of its chain behind it. Source:
 * celery.app.task.Task.replace. */
int continuation_replace(const struct continuation *c, const cJSON *signature, struct error *err);

/* `signature` becomes one more part of the task's own chord, which is told so before it leaves. */
int continuation_add_to_chord(const struct continuation *c, const cJSON *signature,
                              struct error *err);

/* The ends that fail with a task: the remaining steps of its chain. A list of
 * {"id","group","index", "chord"} (absent where they do not apply), or NULL for none. */
cJSON *continuation_abandoned(const struct message *m);
/* The chord that the task itself is a part of, in the same form; NULL: none. */
cJSON *continuation_part(const struct message *m);
/* The ends of any signature, appended to `ends`. */
void continuation_ends(const cJSON *signature, cJSON *ends);

#endif
