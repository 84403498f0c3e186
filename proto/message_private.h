/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_MESSAGE_PRIVATE_H
#define PROTO_MESSAGE_PRIVATE_H

/* What the parts of decoding share: message.c reads the envelope, message_fields.c one object of it
 * by a table, message_body.c what is in it. */

#include "proto/message.h"

#include <stddef.h>

enum { MESSAGE_BLOCKS = 3 };

struct message_part {
    struct buf texts;             /* over data[]; never grows */
    char *blocks[MESSAGE_BLOCKS]; /* further memory to free   */
    struct slice raw_body, raw_info;
    struct slice args, kwargs, callbacks, errbacks, chain, chord; /* protocol 1 */
    const char *body_encoding;
    const char *taskset;
    char data[];
};

/* How the value of a field is read. */
enum message_field {
    FIELD_TEXT,    /* a string; of numbers and booleans their text */
    FIELD_DISPLAY, /* the same, for people: anything else is passed over */
    FIELD_RAW,     /* the JSON text itself */
    FIELD_TIME,
    FIELD_INTEGER,
    FIELD_NESTING,
    FIELD_PRIORITY,
    FIELD_LIMITS, /* [hard, soft] */
    FIELD_TRISTATE,
    FIELD_MARK, /* true sets it, nothing clears it */
};

struct message_row {
    const char *name;
    uint8_t size;    /* of the name */
    uint8_t kind;    /* enum message_field */
    bool is_private; /* the offset is one in struct message_part */
    uint16_t offset;
};

#define ROW(key, what, field)                                                                      \
    {key, sizeof key - 1, FIELD_##what, false, offsetof(struct message, field)}
#define PART(key, what, field)                                                                     \
    {key, sizeof key - 1, FIELD_##what, true, offsetof(struct message_part, field)}

struct message_reader {
    struct message *m;
    const char *where; /* "headers." and so on, for errors */
    const struct message_row *rows;
    size_t count, next;
    struct buf *texts;
    struct error *err;
    int code; /* the first failure; reading goes on, for the sake of id and task */
};

#define READER(message, name, table, error)                                                        \
    (struct message_reader){.m = (message), .where = (name), .rows = (table),                      \
                            .count = sizeof(table) / sizeof *(table),                              \
                            .texts = &(message)->owned->texts, .err = (error)}

/* A json_member_fn: reads the member into the field of its row; `arg` is a struct
 * message_reader. */
int message_member(struct slice key, struct slice value, void *arg);
/* Reads one object of the envelope; absent ones are fine. */
int message_object(struct message_reader *r, struct slice object);

/* Everything of the body, once the headers are known: m->body and, for protocol 1, its fields. */
int message_body(struct message *m, size_t max, struct error *err);

#endif
