/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REVOKED_H
#define WORKER_REVOKED_H

/* What has been revoked: ids, a bounded set as Celery's (CELERY_WORKER_REVOKES_MAX of them, the
 * oldest leave first; those older than CELERY_WORKER_REVOKE_EXPIRES seconds leave when it is full,
 * loaded or saved), and as many stamps (a header and a value), of which the oldest leave. Instants
 * are µs since the epoch by Redis' clock, so that workers can exchange them. No I/O: revoke.c
 * applies it to the worker, revoked_keep.c keeps it. */

#include "proto/message.h"

struct revoked_id;

struct revoked {
    size_t n_ids;    /* 0 and no stamps: nothing to look up; at times a little over the bound */
    size_t n_stamps;
    bool changed;    /* since the owner last reset it */
    /* private */
    size_t max_ids, n_buckets;
    int64_t expires;
    struct revoked *stamps; /* the same with {"header": value} for an id; NULL: none yet */
    int64_t last_stamp;     /* stands for an instant */
    bool unsorted;
    struct revoked_id **buckets, *first, *last; /* by instant */
};

struct revoked *revoked_new(void); /* bounds from the environment */
void revoked_free(struct revoked *s);

static inline bool revoked_is_empty(const struct revoked *s)
{
    return s->n_ids == 0 && s->n_stamps == 0;
}

/* An id that is there already keeps the later instant. */
void revoked_add(struct revoked *s, const char *id, int64_t when);
bool revoked_has(const struct revoked *s, const char *id);
void revoked_purge(struct revoked *s, int64_t now);

/* `values`: one value or a list of them. Borrowed. */
void revoked_add_stamps(struct revoked *s, const char *header, const cJSON *values);
void revoked_clear_stamps(struct revoked *s);
/* Does a message carry one of these stamps ({header: value or [values]})? {header: value} of the
 * first that matches, to be freed, or NULL. */
cJSON *revoked_match(const struct revoked *s, const struct message *m);
/* {header: [values]}, oldest first. Caller frees. */
cJSON *revoked_stamps(struct revoked *s);

/* The ids, oldest first: the answer of `inspect revoked`. Caller frees. */
cJSON *revoked_list(struct revoked *s);
/* {id: seconds since the epoch}, oldest first: what `hello` answers and the state file keeps. */
cJSON *revoked_ids(struct revoked *s);
/* The other way round, from anybody: Celery's workers send [seconds, id] by a clock of their own,
 * which counts as `now`; members that are no numbers are left out. */
void revoked_add_ids(struct revoked *s, const cJSON *ids, int64_t now);

#endif
