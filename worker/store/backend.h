/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_STORE_BACKEND_H
#define WORKER_STORE_BACKEND_H

/* What the stores share, private to worker/store/. An entry is one record that was put: a copy of
 * it in one allocation, which travels from queue to queue until it is settled on the loop
 * thread. */

#include "worker/store/store.h"

#include <bson/bson.h>

enum {
    STORE_BATCH = 1000,                  /* records in one write                    */
    STORE_BATCH_BYTES = 8 << 20,         /* … and the bytes after which it is full  */
    STORE_MAX_DOCUMENT = 16 << 20,       /* MongoDB's bound                         */
    STORE_MAX_RECORD = 512 * 1024 * 1024 /* Redis' bound                            */
};

#define STORE_TASK_KEY "celery-task-meta-"

struct store_entry {
    struct store_entry *next;
    struct store_entry *merged; /* records of the same id that this one stands for, newest first */
    struct store_entry *merged_last;
    store_done_fn *fn;
    void *arg;
    struct store *store; /* hears when it is settled */
    size_t size;
    uint64_t number; /* in the order of putting; of a thread's store */
    int code; /* STORE_WAITING, 0, or why it can never be stored */
    char *why;
    bool no_children; /* the server refused them */
    struct store_record record;
};

enum { STORE_WAITING = 1 };

struct store_entry *entry_copy(const struct store_record *record);
/* Its texts lie with it; it has been moved by so much. */
void entry_move(struct store_entry *e, uintptr_t by);
void entry_free(struct store_entry *e);
/* Loop thread: tells whoever put it, and frees it. */
void entry_settle(struct store_entry *e, int code, const char *why);
/* Says why it can never be stored. Returns code. */
int entry_refuse(struct store_entry *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

struct store_list {
    struct store_entry *first, *last;
    size_t n;
};
void list_push(struct store_list *l, struct store_entry *e);
void list_push_front(struct store_list *l, struct store_entry *e);
struct store_entry *list_pop(struct store_list *l);

/* Leaves one entry of each id in `entries` (at most STORE_BATCH), which holds the others as
 * `merged`: the later one stays, but a SUCCESS stays against all and a final state against a state
 * that is not. Returns how many are left. */
size_t store_coalesce(struct store_entry **entries, size_t n);

bool state_is_final(const char *state);
/* A stamp becomes a field of the record by its own name: not when that would replace one of ours.
 */
bool stamp_is_allowed(struct slice name);
/* Is this the beginning of a JSON record of a task that succeeded? */
bool record_text_succeeded(const char *text, size_t size);

/* The record as Celery's key-value backends write it: json.dumps of it, task_id last. Fails when
 * result or id is no UTF-8. */
int record_print(const struct store_record *record, struct buf *out, struct error *err);

/* The record as Celery's MongoDB backend writes it. `expires_at` in ms, 0: none. */
int record_bson(const struct store_record *record, bool no_children, int64_t expires_at,
                bson_t *out, struct error *err);
/* The other way: as JSON, the text in `result` parsed in; NULL: bytes are there. Caller frees. */
char *record_from_bson(const bson_t *document);

/* store.c: one entry of this size is settled. */
void store_settled(struct store *s, size_t size);

struct store_setup {
    struct event_base *base;
    const char *url;
    char *name;       /* the URL without its password, for notes; owned by the store */
    char *key_prefix; /* global_keyprefix and STORE_TASK_KEY; owned by the store     */
    const struct settings *settings; /* only while it is opened */
    double expires;                  /* seconds; 0: never       */
    struct store_handlers handlers;
};

struct store_ops {
    void *(*open)(const struct store_setup *setup, struct error *err);
    void (*put)(void *backend, struct store_entry *e);
    void (*get)(void *backend, const char *id, store_read_fn *fn, void *arg);
    void (*close)(void *backend, double patience);
    char *(*read)(const struct store_setup *setup, const char *id, struct error *err);
    bool (*is_down)(void *backend); /* NULL: never */
    void (*tidy)(void *backend);    /* NULL: nothing to do */
    /* Chords; all NULL where the store does not count them. */
    void (*prepare_chord)(void *backend, const struct store_header *h, store_done_fn *fn,
                          void *arg);
    void (*add_part)(void *backend, const struct store_part *p, store_chord_fn *fn, void *arg);
    void (*forget_chord)(void *backend, const char *group);
};
extern const struct store_ops store_mongo_ops, store_redis_ops, store_file_ops;

double store_random(void); /* 0 to 1 */
/* 0.1 s doubling to 3.2 s, less a random quarter, so that a fleet does not come back at once. */
double store_backoff(unsigned n_attempts);
double store_clock(void); /* monotonic seconds */

#endif
