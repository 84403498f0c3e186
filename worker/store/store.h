/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_STORE_H
#define WORKER_STORE_H

/* Where results go: one interface, three backends (MongoDB, Redis, files), documents
 * byte-compatible with Celery's own. A record is copied when it is put, written in batches, and its
 * callback says on the loop thread that it is durable. A store that is down keeps records and tries
 * again with backoff; only what can never be stored (too big, not encodable) fails. A stored
 * SUCCESS is never overwritten. Sources: celery.backends.{base,mongodb,redis,filesystem}. */

#include "proto/json.h"
#include "proto/time.h"

#include <event2/event.h>

struct settings;
struct store;

struct store_record {
    const char *id, *state;    /* STARTED, RETRY, SUCCESS, FAILURE, REVOKED or the task's own */
    struct slice result;       /* JSON text: value, or {"exc_type", "exc_message", …}; {0}: null */
    const char *traceback;     /* NULL: null */
    const char *children;      /* JSON array text; NULL: [] */
    int64_t date_done;         /* µs; TIME_NONE for states that are not final */
    const char *group_id, *parent_id; /* NULL: field absent */
    bool extended;             /* the six fields below are written */
    const char *name, *worker, *queue; /* NULL: null */
    const char *args, *kwargs; /* JSON text; NULL: null */
    int64_t retries;
    const char *stamps, *stamped_headers;    /* JSON text; NULL: absent */
};

/* 0: durable (or superseded by a later record of its id or a stored SUCCESS). LOST: the spool file
 * gave it not back. Any other code: this record can never be stored. Never called from within
 * store_put. */
typedef void store_done_fn(int code, const char *why, void *arg);

struct store_handlers {
    void (*on_note)(const char *text, bool warning, void *arg); /* outage, recovery: once each */
    void *arg;
};

/* `url`: mongodb://…, mongodb+srv://…, redis://…, rediss://…, redis+socket://…, file:///path; NULL,
 * "" or disabled://: a store that takes everything and writes nothing. Does not wait for the
 * server. */
struct store *store_open(struct event_base *base, const char *url, const struct settings *settings,
                         const struct store_handlers *handlers, struct error *err);
/* Waits for what was put, at most 5 s; the callbacks of what is not durable by then are never
 * called. Not from within a callback of the loop: a Redis store needs the loop to run while it
 * waits. */
void store_close(struct store *s);

void store_put(struct store *s, const struct store_record *record, store_done_fn *fn, void *arg);
bool store_keeps(const struct store *s);      /* false: the store that writes nothing */
/* What waits fills memory and spool file (result_spool_size): take no further tasks. */
bool store_is_full(const struct store *s);
bool store_is_down(const struct store *s); /* its last attempt failed */
bool store_is_spooling(const struct store *s);
size_t store_pending(const struct store *s); /* records put and not yet durable */

/* Reads one result as JSON: {"task_id","status","result","traceback","date_done","children"}; NULL
 * text with code 0: nothing is stored. Blocking form for `cworker result` (caller frees; err->code
 * tells); the other for the loop: a store that cannot be reached answers UNAVAILABLE after
 * seconds. */
char *store_read(const char *url, const struct settings *settings, const char *id,
                 struct error *err);
typedef void store_read_fn(int code, const char *json, void *arg);
void store_get(struct store *s, const char *id, store_read_fn *fn, void *arg);

/* Removes results that have expired, where the server does not do that itself. */
void store_tidy(struct store *s);

/* --- chords --- */
/* Does the store count the parts of chords (Redis)? With any other celery.chord_unlock polls the
 * parts' results, and the functions below answer UNSUPPORTED. */
bool store_counts_chords(const struct store *s);

/* What has to be known of a header before its parts leave. */
struct store_header {
    const char *group;
    int64_t size;       /* how many parts */
    bool keep;          /* a size that is there already stays */
    const char *result; /* instead of a size: the header's result tuple, as JSON text */
    const char *added;  /* instead of a size: the id of one more part */
};
void store_prepare_chord(struct store *s, const struct store_header *header, store_done_fn *fn,
                         void *arg);

struct store_part {
    const char *id, *group, *state;
    int64_t index; /* < 0: none */
    struct slice result; /* as in a record */
    int64_t size;  /* of the chord, where the part's message tells (Celery 4); 0: the store knows */
};
struct store_chord {
    bool complete;     /* this part is the one that sends the body */
    const char *saved; /* the header's result as it was saved: join its members; NULL: not saved */
    struct slice results; /* of the parts, in order: JSON list */
    const char *failed_id, *failed; /* the first part that failed and its exception; NULL: none */
};
/* `chord` is NULL when code is not 0. Idempotent: a part that ends twice counts once. */
typedef void store_chord_fn(int code, const struct store_chord *chord, void *arg);
void store_add_part(struct store *s, const struct store_part *part, store_chord_fn *fn, void *arg);
void store_forget_chord(struct store *s, const char *group); /* its body has left */

#endif
