/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_ENVELOPE_H
#define PROTO_ENVELOPE_H

/* Kombu's envelope around messages that are no tasks: remote control, its replies, events. Always
 * JSON in UTF-8, as Celery's workers write and by default accept these. */

#include "proto/json.h"

struct envelope_spec {
    struct slice body;         /* JSON text */
    const char *headers;       /* JSON object text; NULL: {} */
    const char *exchange, *routing_key;
    int delivery_mode;         /* 1 transient, 2 persistent */
};

/* Byte for byte what Kombu's virtual transports write. Caller frees. */
char *envelope_encode(const struct envelope_spec *spec);

/* Takes an envelope apart; body of any JSON type. Caller frees both with cJSON_Delete; headers is
 * an object or NULL. INVALID: no envelope, broken base64 or JSON; UNSUPPORTED: another serializer;
 * TOO_BIG: beyond 64 MiB. */
int envelope_decode(struct slice text, cJSON **ret_headers, cJSON **ret_body, struct error *err);

#endif
