/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/envelope.h"

#include "proto/base64.h"
#include "proto/uuid.h"

#include <string.h>
#include <strings.h>

/* Envelopes of control messages and events. The one idea: these are few and small beside tasks, so
 * they are read into a tree where proto/message.c walks the text. */

enum { ENVELOPE_MAX = 64 << 20 };

static void put_text(struct buf *out, const char *text)
{
    json_print_string(text ? text : "", text ? strlen(text) : 0, out);
}

char *envelope_encode(const struct envelope_spec *spec)
{
    struct buf out = BUF_INIT(SIZE_MAX / 2);
    char tag[37];
    uuid_make(tag);
    buf_str(&out, "{\"body\": \"");
    base64_encode(spec->body, &out);
    buf_printf(&out,
               "\", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", "
               "\"headers\": %s, \"properties\": {\"delivery_mode\": %d, \"delivery_info\": "
               "{\"exchange\": ",
               spec->headers ? spec->headers : "{}", spec->delivery_mode);
    put_text(&out, spec->exchange);
    buf_str(&out, ", \"routing_key\": ");
    put_text(&out, spec->routing_key);
    buf_printf(
        &out, "}, \"priority\": 0, \"body_encoding\": \"base64\", \"delivery_tag\": \"%s\"}}", tag);
    return buf_take(&out);
}

static int check_content(const cJSON *envelope, struct error *err)
{
    static const char json[] = "application/json";
    const char *type = json_get_string(envelope, "content-type");
    const char *charset = json_get_string(envelope, "content-encoding");
    if (type && strcasecmp(type, json) != 0)
        return error_set(err, ERROR_UNSUPPORTED, "content-type '%.60s' is not accepted: only %s",
                         type, json);
    if (charset && strcasecmp(charset, "utf-8") != 0 && strcasecmp(charset, "us-ascii") != 0)
        return error_set(err, ERROR_UNSUPPORTED, "content-encoding '%.40s' is not accepted",
                         charset);
    return 0;
}

static int decode_body(const cJSON *envelope, cJSON **ret_body, struct error *err)
{
    const char *body = json_get_string(envelope, "body");
    const char *encoding = json_get_string(json_get(envelope, "properties"), "body_encoding");
    if (!body)
        return error_set(err, ERROR_INVALID, "not an envelope: no body");
    struct slice text = {body, strlen(body)};
    struct buf plain = BUF_INIT(ENVELOPE_MAX);
    int code = 0;
    if (encoding && strcasecmp(encoding, "base64") == 0) {
        code = base64_decode(text, &plain);
        text = (struct slice){plain.data ? plain.data : "", plain.size};
    }
    if (code < 0)
        error_set(err, ERROR_INVALID, "body is not valid base64");
    else if (!(*ret_body = json_parse(text.at, text.size, err)))
        code = error_wrap(err, "body");
    buf_done(&plain);
    return code;
}

int envelope_decode(struct slice text, cJSON **ret_headers, cJSON **ret_body, struct error *err)
{
    *ret_headers = *ret_body = NULL;
    if (text.size > ENVELOPE_MAX)
        return error_set(err, ERROR_TOO_BIG, "larger than %d bytes", ENVELOPE_MAX);
    cJSON *envelope = json_parse(text.at, text.size, err);
    if (!envelope)
        return error_wrap(err, "not an envelope");
    int code = cJSON_IsObject(envelope) ? check_content(envelope, err)
                                        : error_set(err, ERROR_INVALID, "not an envelope");
    if (code == 0)
        code = decode_body(envelope, ret_body, err);
    if (code == 0 && cJSON_IsObject(json_get(envelope, "headers")))
        *ret_headers = cJSON_DetachItemFromObjectCaseSensitive(envelope, "headers");
    cJSON_Delete(envelope);
    return code;
}
