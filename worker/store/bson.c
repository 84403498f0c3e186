/* SPDX-License-Identifier: Apache-2.0 */
/* A record as the document that Celery's MongoDB backend writes, and back to JSON. Its values are
 * turned over one by one: libbson's own reader takes {"$date": …} in a task's arguments for a date.
 */
#include "worker/store/backend.h"

#include "proto/base/mem.h"
#include "proto/time.h"
#include "proto/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- JSON to BSON ----------------------------------------------------------------------------- */

/* BSON's strings must be strict UTF-8 and may hold NUL; ours hold NUL as C0 80. What is no UTF-8 (a
 * lone surrogate) becomes U+FFFD, since a client could not read the document otherwise. */
static void clean_text(const char *text, bool nul_allowed, struct buf *out)
{
    for (size_t left = strlen(text); left;) {
        size_t step = 1;
        while (step < 4 && step < left && ((unsigned char)text[step] & 0xC0) == 0x80)
            step++;
        if (nul_allowed && step == 2 && !memcmp(text, "\xC0\x80", 2))
            buf_char(out, '\0');
        else if (utf8_is_valid(text, step))
            buf_add(out, text, step);
        else
            buf_str(out, "\xEF\xBF\xBD");
        text += step;
        left -= step;
    }
}

static bool put_text(bson_t *to, const char *key, int key_size, const char *text)
{
    size_t size = strlen(text);
    if (utf8_is_valid(text, size))
        return bson_append_utf8(to, key, key_size, text, (int)size);
    struct buf clean = BUF_INIT(STORE_MAX_DOCUMENT);
    clean_text(text, true, &clean);
    bool ok = !clean.failed &&
              bson_append_utf8(to, key, key_size, clean.data ? clean.data : "", (int)clean.size);
    buf_done(&clean);
    return ok;
}

/* An integer beyond 64 bits cannot be stored as one: its digits are kept as text. */
static bool put_number(bson_t *to, const char *key, int key_size, const cJSON *value)
{
    int64_t i;
    if (json_as_int(value, &i)) {
        bool is_float = value->valuestring && strpbrk(value->valuestring, ".eEnN");
        if (is_float)
            return bson_append_double(to, key, key_size, value->valuedouble);
        return i == (int32_t)i ? bson_append_int32(to, key, key_size, (int32_t)i)
                               : bson_append_int64(to, key, key_size, i);
    }
    if (value->valuestring && !strpbrk(value->valuestring, ".eEnN"))
        return bson_append_utf8(to, key, key_size, value->valuestring, -1);
    return bson_append_double(to, key, key_size, value->valuedouble);
}

static bool put_value(bson_t *to, const char *key, int key_size, const cJSON *value);

static bool put_array(bson_t *to, const char *key, int key_size, const cJSON *array)
{
    bson_t inner;
    uint32_t i = 0;
    bool ok = bson_append_array_begin(to, key, key_size, &inner);
    for (const cJSON *v = array->child; ok && v; v = v->next) {
        char digits[16];
        const char *name;
        size_t size = bson_uint32_to_string(i++, &name, digits, sizeof digits);
        ok = put_value(&inner, name, (int)size, v);
    }
    return bson_append_array_end(to, &inner) && ok;
}

static bool put_object(bson_t *to, const char *key, int key_size, const cJSON *object)
{
    bson_t inner;
    bool ok = bson_append_document_begin(to, key, key_size, &inner);
    for (const cJSON *v = object->child; ok && v; v = v->next) {
        struct buf name = BUF_INIT(STORE_MAX_DOCUMENT);
        clean_text(v->string, false, &name);
        ok = put_value(&inner, name.data ? name.data : "", (int)name.size, v);
        buf_done(&name);
    }
    return bson_append_document_end(to, &inner) && ok;
}

static bool put_value(bson_t *to, const char *key, int key_size, const cJSON *value)
{
    if (cJSON_IsString(value))
        return put_text(to, key, key_size, value->valuestring);
    if (cJSON_IsNumber(value))
        return put_number(to, key, key_size, value);
    if (cJSON_IsBool(value))
        return bson_append_bool(to, key, key_size, cJSON_IsTrue(value));
    if (cJSON_IsArray(value))
        return put_array(to, key, key_size, value);
    if (cJSON_IsObject(value))
        return put_object(to, key, key_size, value);
    return bson_append_null(to, key, key_size);
}

static int put_json(bson_t *to, const char *key, const char *json, struct error *err)
{
    cJSON *value = json_parse(json, strlen(json), err);
    if (!value)
        return error_wrap(err, "%s", key);
    bool ok = put_value(to, key, -1, value);
    cJSON_Delete(value);
    return ok ? 0 : error_set(err, ERROR_TOO_BIG, "%s does not fit into a document", key);
}

static bool put_text_or_null(bson_t *to, const char *key, const char *text)
{
    return text ? put_text(to, key, -1, text) : bson_append_null(to, key, -1);
}

static int put_json_or_null(bson_t *to, const char *key, const char *json, struct error *err)
{
    if (json)
        return put_json(to, key, json, err);
    bson_append_null(to, key, -1);
    return 0;
}

static int put_stamps(bson_t *to, const char *json, struct error *err)
{
    cJSON *stamps = json_parse(json, strlen(json), err);
    if (!stamps)
        return error_wrap(err, "stamps");
    bool ok = true;
    for (const cJSON *v = cJSON_IsObject(stamps) ? stamps->child : NULL; ok && v; v = v->next) {
        struct buf name = BUF_INIT(STORE_MAX_DOCUMENT);
        clean_text(v->string, false, &name);
        if (name.data && stamp_is_allowed((struct slice){name.data, name.size}))
            ok = put_value(to, name.data, (int)name.size, v);
        buf_done(&name);
    }
    cJSON_Delete(stamps);
    return ok ? 0 : error_set(err, ERROR_TOO_BIG, "the stamps do not fit into a document");
}

static int put_extended(const struct store_record *r, bson_t *out, struct error *err)
{
    int code;
    put_text_or_null(out, "name", r->name);
    if ((code = put_json_or_null(out, "args", r->args, err)) < 0 ||
        (code = put_json_or_null(out, "kwargs", r->kwargs, err)) < 0)
        return code;
    put_text_or_null(out, "worker", r->worker);
    if (r->retries == (int32_t)r->retries)
        BSON_APPEND_INT32(out, "retries", (int32_t)r->retries);
    else
        BSON_APPEND_INT64(out, "retries", r->retries);
    put_text_or_null(out, "queue", r->queue);
    if (r->stamped_headers &&
        (code = put_json(out, "stamped_headers", r->stamped_headers, err)) < 0)
        return code;
    return r->stamps ? put_stamps(out, r->stamps, err) : 0;
}

static int check_texts(const struct store_record *r, struct error *err)
{
    if (r->result.at && r->result.size > STORE_MAX_DOCUMENT)
        return error_set(err, ERROR_TOO_BIG,
                         "the result has %zu bytes, MongoDB takes at most 16 MiB", r->result.size);
    if (!utf8_is_valid(r->id, strlen(r->id)))
        return error_set(err, ERROR_INVALID, "the task id is not UTF-8");
    if (r->result.at && !utf8_is_valid(r->result.at, r->result.size))
        return error_set(err, ERROR_INVALID, "the result is not UTF-8");
    return 0;
}

int record_bson(const struct store_record *r, bool no_children, int64_t expires_at, bson_t *out,
                struct error *err)
{
    int code = check_texts(r, err);
    if (code < 0)
        return code;
    bool ok = BSON_APPEND_UTF8(out, "_id", r->id) && put_text(out, "status", -1, r->state);
    ok = ok && (r->result.at ? bson_append_utf8(out, "result", 6, r->result.at, (int)r->result.size)
                             : BSON_APPEND_UTF8(out, "result", "null"));
    ok = ok && put_text_or_null(out, "traceback", r->traceback);
    if (!no_children && r->children && strcmp(r->children, "[]") != 0) {
        if ((code = put_json(out, "children", r->children, err)) < 0)
            return code;
    } else {
        bson_t none = BSON_INITIALIZER;
        ok = ok && BSON_APPEND_ARRAY(out, "children", &none);
    }
    ok = ok &&
         (r->date_done == TIME_NONE ? BSON_APPEND_NULL(out, "date_done")
                                    : BSON_APPEND_DATE_TIME(out, "date_done", r->date_done / 1000));
    if (r->group_id)
        ok = ok && put_text(out, "group_id", -1, r->group_id);
    if (r->parent_id)
        ok = ok && put_text(out, "parent_id", -1, r->parent_id);
    if (r->extended && (code = put_extended(r, out, err)) < 0)
        return code;
    if (expires_at)
        ok = ok && BSON_APPEND_DATE_TIME(out, "expires_at", expires_at);
    if (!ok || out->len > STORE_MAX_DOCUMENT)
        return error_set(err, ERROR_TOO_BIG,
                         "the document has %u bytes, MongoDB takes at most 16 MiB", out->len);
    return 0;
}

/* --- BSON to JSON ----------------------------------------------------------------------------- */

static cJSON *date_value(int64_t ms)
{
    static const int64_t YEAR_10000 = INT64_C(253402300800000);
    char text[40];
    if (ms <= -YEAR_10000 || ms >= YEAR_10000) /* none that Python could show */
        return json_int(ms);
    return cJSON_CreateString(time_print(ms * 1000, text));
}

static cJSON *double_value(double d)
{
    char text[40];
    if (isnan(d))
        return json_number("NaN");
    if (isinf(d))
        return json_number(d < 0 ? "-Infinity" : "Infinity");
    if (d != floor(d) || fabs(d) >= 1e16)
        return cJSON_CreateNumber(d);
    snprintf(text, sizeof text, "%.1f", d);
    return json_number(text);
}

/* With NUL as json_print wants it. */
static cJSON *text_value(const char *text, size_t size)
{
    struct buf out = BUF_INIT((size_t)STORE_MAX_DOCUMENT * 2);
    for (size_t i = 0; i < size; i++) {
        if (text[i])
            buf_char(&out, text[i]);
        else
            buf_add(&out, "\xC0\x80", 2);
    }
    cJSON *value = cJSON_CreateString(out.data ? out.data : "");
    buf_done(&out);
    return value;
}

static cJSON *value_of(bson_iter_t *at, int depth);

static cJSON *children_of(bson_iter_t *at, bool array, int depth)
{
    bson_iter_t inner;
    cJSON *all = array ? cJSON_CreateArray() : cJSON_CreateObject();
    if (depth >= JSON_MAX_DEPTH || !bson_iter_recurse(at, &inner))
        return all;
    while (bson_iter_next(&inner)) {
        cJSON *value = value_of(&inner, depth + 1);
        if (array)
            cJSON_AddItemToArray(all, value);
        else
            cJSON_AddItemToObject(all, bson_iter_key(&inner), value);
    }
    return all;
}

static cJSON *value_of(bson_iter_t *at, int depth)
{
    uint32_t size;
    const char *text;
    switch (bson_iter_type(at)) {
    case BSON_TYPE_UTF8:
        text = bson_iter_utf8(at, &size);
        return text_value(text, size);
    case BSON_TYPE_DOUBLE:
        return double_value(bson_iter_double(at));
    case BSON_TYPE_INT32:
        return json_int(bson_iter_int32(at));
    case BSON_TYPE_INT64:
        return json_int(bson_iter_int64(at));
    case BSON_TYPE_BOOL:
        return cJSON_CreateBool(bson_iter_bool(at));
    case BSON_TYPE_DATE_TIME:
        return date_value(bson_iter_date_time(at));
    case BSON_TYPE_ARRAY:
    case BSON_TYPE_DOCUMENT:
        return children_of(at, bson_iter_type(at) == BSON_TYPE_ARRAY, depth);
    default:
        return cJSON_CreateNull();
    }
}

/* Celery stores the result as JSON text; what is no JSON is shown as the text it is. */
static cJSON *result_value(bson_iter_t *at)
{
    if (bson_iter_type(at) == BSON_TYPE_UTF8) {
        uint32_t size;
        const char *text = bson_iter_utf8(at, &size);
        cJSON *value = json_parse(text, size, NULL);
        if (value)
            return value;
    }
    return value_of(at, 0);
}

char *record_from_bson(const bson_t *document)
{
    bson_iter_t at;
    if (bson_iter_init_find(&at, document, "result") && bson_iter_type(&at) == BSON_TYPE_BINARY)
        return NULL; /* pickled, for one */
    cJSON *record = cJSON_CreateObject(), *id = NULL;
    for (bool more = bson_iter_init(&at, document); more && bson_iter_next(&at);) {
        const char *key = bson_iter_key(&at);
        if (!strcmp(key, "_id")) {
            cJSON_Delete(id);
            id = value_of(&at, 0);
        } else if (strcmp(key, "expires_at") != 0) {
            json_set(record, key, !strcmp(key, "result") ? result_value(&at) : value_of(&at, 0));
        }
    }
    json_set(record, "task_id", id ? id : cJSON_CreateNull());
    char *text = json_text(record);
    cJSON_Delete(record);
    return text;
}
