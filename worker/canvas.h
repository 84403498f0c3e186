/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CANVAS_H
#define WORKER_CANVAS_H

/* Signatures to messages, as Celery's apply_async makes them: a plain signature, a group, a chain,
 * a chord, nested to any depth. A signature is the JSON object that Celery sends: {"task", "args",
 * "kwargs", "options", "subtask_type", "immutable"}. Nothing is sent here: the messages, and what
 * the result store must know before they leave, are handed back as rows. Source: celery.canvas,
 * celery.app.amqp. */

#include "proto/message.h"

/* Where new ids come from: a delivery's, so that what is sent again has the ids that it had. */
struct canvas_ids {
    const char *task, *delivery, *purpose;
    uint64_t n; /* made so far */
};

/* Of all that a task sends. It leaves as one command, of which Redis takes a gigabyte, and is
 * recorded as one text, of which it takes half as much, each quote of a message escaped. */
enum { CANVAS_MIB_MOST = 256 };

struct canvas {
    struct canvas_ids *ids; /* NULL: random ones */
    const char *root_id, *parent_id; /* of what is sent, unless its options say otherwise */
    const char *reply_to;   /* may be NULL */
    const char *default_queue; /* for signatures that name none */
    const char *origin;     /* may be NULL */
    int priority;           /* inherited; < 0: none */
    bool counts_chords;     /* the store counts a chord's parts; else celery.chord_unlock polls */
    int64_t now;
    cJSON *sends;    /* rows {"queue","priority","due","id","text"} are appended here */
    cJSON *prepares; /* rows {"group", "size" or "result", "keep"}: durable before sends leave */
    size_t *sent;    /* bytes of the texts in `sends`, counted here; NULL: not counted */
    cJSON *children; /* result tuples of what was sent; NULL: not wanted */
};

/* Applies `signature` (borrowed) with `args` (a list, or NULL) before its own arguments and
 * `options` (an object, or NULL) over its own. */
int canvas_apply(const struct canvas *c, const cJSON *signature, const cJSON *args,
                 const cJSON *options, struct error *err);

/* The same with a signature that is not needed any more: it is used up, but still the caller's to
 * free. */
int canvas_apply_last(const struct canvas *c, cJSON *signature, struct error *err);

/* Several at once as one group, as callbacks and errbacks are sent. */
int canvas_apply_group(const struct canvas *c, const cJSON *signatures, const cJSON *args,
                       const cJSON *options, struct error *err);

/* `first | second`; takes both. */
cJSON *canvas_or(cJSON *first, cJSON *second);

/* Fixes the ids of a signature, the last result's being `id` (NULL: as it has, or new). Returns its
 * result tuple, which the caller frees. */
cJSON *canvas_freeze(cJSON *signature, const char *id, const char *root_id, struct canvas_ids *ids);

/* A list of callbacks, or of errbacks, for what does not have them yet. NULL: none. */
void canvas_link(cJSON *signature, const cJSON *callbacks);
void canvas_link_error(cJSON *signature, const cJSON *errbacks);
/* Copies of those of `list` that are not in `known`; with `once` each of them once. */
cJSON *canvas_others(const cJSON *list, const cJSON *known, bool once);

/* Sets an option; takes value. */
void canvas_set(cJSON *signature, const char *name, cJSON *value);
bool canvas_is(const cJSON *signature, const char *type); /* "chain", "group", "chord" */
/* Is it a signature, with all that it holds? Applying asks; all else here takes it for one. */
bool canvas_is_sound(const cJSON *signature);
bool canvas_are_sound(const cJSON *list); /* all of them; NULL: there are none */
/* TOO_BIG: the messages of a sound signature, or of a list of them, with what is given to it, would
 * take too much memory, or nest too deeply. Applying asks. */
int canvas_fits(const cJSON *signatures, const cJSON *args, const cJSON *options,
                struct error *err);
/* The same of a list of steps that canvas_or() is to nest. */
int canvas_or_fits(const cJSON *steps, struct error *err);
/* A list of rows, as a task's child tells what the task sends; and of such as are messages alone. */
bool canvas_rows_are_sound(const cJSON *rows);
bool canvas_are_messages(const cJSON *rows);
/* The signatures of a chain, a group, or a chord's header. */
cJSON *canvas_tasks(const cJSON *signature);

/* [[id, null], null] */
cJSON *canvas_tuple(const char *id);

#endif
