/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_THREAT_FEEDS_FEED_H
#define TASKS_THREAT_FEEDS_FEED_H

#include "tasks/lib/mongo.h"
#include "tasks/threat_feeds/indicator.h"

/* One pass over one feed: what its document says, requests to it, and where its indicators go. */

struct feed {
    cw_task *t;
    const bson_t *document;
    const char *id, *name, *kind, *url;
    const char *key;   /* the secret, or NULL */
    int64_t now;       /* of this pass, ms */
    int64_t lifetime;  /* ms that an indicator counts after it was last seen */
    int confidence;    /* where the feed tells none; < 0: none */
    size_t max_bytes, bytes_left; /* over all requests of the pass */
    double asked_wait; /* seconds the service asks to be left alone; 0: it does not */
    double deferred;   /* the same, where that is too long for a retry */
    struct sink *sink;
    int64_t good, bad, other, withdrawn;
    int64_t reported; /* good + bad + other at the last progress */
    const char *resume_at, *resume_newest; /* the page where the next pass may go on, and the newest
                                              date before it; or NULL */
    bson_t *state; /* what the next pass needs (etag, cursor …); replaces the document's `state` */
};

/* Writes resume_at and resume_newest, once what is before them is stored. */
int feed_keep_place(struct feed *f);

/* What a source's function returns; < 0: failed, see cw_problem. */
enum { FEED_READ, FEED_UNCHANGED };

typedef int feed_source(struct feed *f);
feed_source feed_read_plain, feed_read_csv, feed_read_abuseipdb, feed_read_otx, feed_read_taxii,
    feed_read_misp;

/* --- requests --- */

struct feed_request {
    const char *url;
    const char *const *headers; /* NULL-ended; or NULL */
    bool conditional;           /* send the state's validators; a 304 gives FEED_UNCHANGED */
    int (*on_body)(cw_task *t, const char *data, size_t size, void *arg);
    void *arg;
};
/* FEED_READ, FEED_UNCHANGED or < 0. Counts the bytes, remembers when the service wants to be left
 * alone. */
int feed_get(struct feed *f, const struct feed_request *request, struct cw_reply *ret_reply);
/* The validators of a body that was read to its end, for the next pass. */
void feed_keep_validators(struct feed *f, const struct cw_reply *reply);
/* The same place as the feed's own: scheme, host and port. Pages lead there and nowhere else. */
bool feed_is_same_origin(const struct feed *f, const char *url);

/* --- indicators --- */

struct sighting {
    const char *kind;                       /* the feed's word for the type; NULL: by looks */
    int confidence;                         /* 0 to 100; < 0: the feed's own */
    int64_t first_seen, last_seen, expires; /* ms; DATE_NONE: not told */
    const cJSON *tags, *own_tags;           /* lists of texts or of {name}; or NULL */
    const char *tag;                        /* one more, or several with commas; or NULL */
    bool withdrawn;                         /* the feed takes it back */
};
#define SIGHTING_NONE                                                                              \
    {                                                                                              \
        .confidence = -1, .first_seen = DATE_NONE, .last_seen = DATE_NONE, .expires = DATE_NONE    \
    }

int sink_open(struct feed *f);
/* A value as the feed tells it. Bad ones are counted. < 0 only when the store fails or the task is
 * to stop. */
int sink_add(struct feed *f, const char *text, size_t size, const struct sighting *sighting);
int sink_flush(struct feed *f); /* writes what waits */

cw_handler fetch_all_enabled_feeds, fetch_feed, cleanup_old_indicators;

#endif
