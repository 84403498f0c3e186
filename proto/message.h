/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

/* One list element of a Celery queue: Kombu's envelope with a task message in it (task protocol 2,
 * 1, or 2's headers with 1's body). Decoding reads the envelope once and copies the fields that a
 * worker needs; the original text is kept, so that fields unknown to us survive when it is put back
 * or retried. Source of the format: kombu.transport.virtual, celery.app.amqp (as_task_v1,
 * as_task_v2). */

#include "proto/json.h"
#include "proto/time.h"

struct message_limits {
    size_t body_size; /* after decompression; 0: 256 MiB */
};

enum message_tristate { UNSET = -1, NO = 0, YES = 1 };

struct message {
    struct slice text;     /* the element as it stood in the list; owned here */
    const char *id, *task; /* never NULL after a successful decode */
    /* These may be NULL. */
    const char *shadow, *group, *root_id, *parent_id, *argsrepr, *kwargsrepr, *origin;
    const char *reply_to, *exchange, *routing_key, *delivery_tag;     /* may be NULL */
    const char *content_type, *content_encoding, *compression;
    int64_t eta, expires; /* TIME_NONE when not set */
    int64_t group_index;  /* -1 when not set */
    int64_t retries;
    double hard_limit, soft_limit; /* seconds, 0 when not set */
    int priority;                  /* as sent, 0 when absent or no number */
    int replaced_task_nesting;
    enum message_tristate ignore_result;
    bool redelivered;
    bool protocol1;
    struct slice headers, properties;     /* raw JSON objects inside text ({0} when absent) */
    struct slice stamped_headers, stamps; /* raw JSON inside text ({0} when absent or null) */
    /* Decoded JSON text, always protocol 2's triple [args, kwargs, embed]; owned here. */
    struct slice body;
    struct message_part *owned;              /* private */
};

/* Decodes one element. Takes `text` (malloc'd, freed by message_done) in every case. On failure
 * ret_message still holds whatever could be read (id and task above all, NULL otherwise), so that
 * the error can be stored under the id and the element kept; message_done is due in every case.
 * Codes:
 *   INVALID      not JSON, not an envelope, wrong types, broken base64 or compression, bad dates
 *   UNSUPPORTED  serializer or compression: the text names it and the setting
 *   TOO_BIG      beyond the limits */
int message_decode(char *text, size_t size, const struct message_limits *limits,
                   struct message *ret_message, struct error *err);
void message_done(struct message *m);

/* What a publisher says of a new message; NULL and 0 mean "not set" throughout. Encoded byte for
 * byte as Celery 5.6 does it. JSON values are borrowed. */
struct message_spec {
    const char *task, *id;      /* required */
    const cJSON *args, *kwargs; /* NULL: [] and {} */
    const cJSON *embed;         /* NULL: the four nulls */
    const char *queue;          /* required: routing key */
    const char *exchange;       /* NULL: "" */
    const char *root_id, *parent_id, *group, *shadow, *origin, *reply_to;
    int64_t group_index;  /* used when group is set and >= 0 */
    int64_t eta, expires; /* TIME_NONE when not set */
    int64_t now;          /* for properties.expiration */
    int64_t retries;
    double hard_limit, soft_limit;
    int priority;
    bool ignore_result;
    int replaced_task_nesting;
    const cJSON *stamped_headers, *stamps; /* a list of names, an object of values; NULL: none */
    const char *compression;               /* "zlib", "gzip", "bzip2", "zstd" … or NULL */
    const cJSON *headers;                  /* custom headers, merged flat */
};
char *message_encode(const struct message_spec *spec, struct error *err); /* caller frees; NULL */

/* The same message to be tried again: retries + 1, eta, parent_id as Celery's retry sets it, a new
 * delivery tag; everything else, unknown fields included, as it came. Caller frees; never NULL. */
char *message_encode_retry(const struct message *m, int64_t eta, int64_t now);

/* The element as Kombu writes it when it puts a message back: the `redelivered` marks set, nothing
 * else changed. Caller frees; NULL only if the text is no envelope. */
char *message_encode_redelivered(const char *text, size_t size);

#endif
