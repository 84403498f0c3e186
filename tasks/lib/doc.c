/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/doc.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Everything a task writes into a document goes through doc_put: MongoDB stores bytes that are not
 * UTF-8 as they come, and Python's driver then cannot read the whole document. */

enum { TEXT_MAX = 64 << 10, KEY_MAX = 1024, DEPTH_MAX = 32 };

int64_t doc_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- reading --- */

bool doc_find(const bson_t *document, const char *path, bson_iter_t *ret)
{
    bson_iter_t at;
    return bson_iter_init(&at, document) && bson_iter_find_descendant(&at, path, ret);
}

const char *doc_text(const bson_t *document, const char *path)
{
    bson_iter_t at;
    return doc_find(document, path, &at) && BSON_ITER_HOLDS_UTF8(&at) ? bson_iter_utf8(&at, NULL)
                                                                      : NULL;
}

int64_t doc_int(const bson_t *document, const char *path, int64_t fallback)
{
    bson_iter_t at;
    if (!doc_find(document, path, &at))
        return fallback;
    if (BSON_ITER_HOLDS_DOUBLE(&at)) {
        double value = bson_iter_double(&at);
        return value > -9e15 && value < 9e15 ? (int64_t)value : fallback;
    }
    return BSON_ITER_HOLDS_INT(&at) ? bson_iter_as_int64(&at) : fallback;
}

/* Drivers of other languages write whole numbers as doubles too. */
bool doc_is_whole(const bson_iter_t *at)
{
    if (!BSON_ITER_HOLDS_DOUBLE(at))
        return BSON_ITER_HOLDS_INT(at);
    double value = bson_iter_double(at);
    return value == floor(value) && fabs(value) < 9e15;
}

bool doc_bool(const bson_t *document, const char *path, bool fallback)
{
    bson_iter_t at;
    return doc_find(document, path, &at) && BSON_ITER_HOLDS_BOOL(&at) ? bson_iter_bool(&at)
                                                                      : fallback;
}

int64_t doc_date(const bson_t *document, const char *path, int64_t fallback)
{
    bson_iter_t at;
    return doc_find(document, path, &at) && BSON_ITER_HOLDS_DATE_TIME(&at)
               ? bson_iter_date_time(&at)
               : fallback;
}

enum { UUID_BYTES = 16 };
static const char uuid_form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

/* Subtype 3 is what drivers wrote before there was 4: pymongo (before 4.0) the same bytes, those of
 * Java and C# in orders of their own, which nothing tells from these. */
static const char *uuid_text(const bson_iter_t *at, char room[DOC_ID_SIZE])
{
    bson_subtype_t kind;
    uint32_t size;
    const uint8_t *bytes;
    bson_iter_binary(at, &kind, &size, &bytes);
    bool is_uuid = kind == BSON_SUBTYPE_UUID || kind == BSON_SUBTYPE_UUID_DEPRECATED;
    if (!is_uuid || size != UUID_BYTES)
        return NULL;
    char *out = room;
    for (int i = 0; i < UUID_BYTES; i++, out += 2) {
        if (uuid_form[out - room] == '-')
            *out++ = '-';
        snprintf(out, 3, "%02x", bytes[i]);
    }
    return room;
}

/* Only as it is written above, so that there is one text for it. */
static bool uuid_read(const char *text, uint8_t ret[UUID_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    int n = 0;
    if (strlen(text) != strlen(uuid_form))
        return false;
    for (size_t i = 0; text[i]; i++) {
        const char *digit = strchr(digits, text[i]);
        if ((uuid_form[i] == '-') != (text[i] == '-') || (!digit && text[i] != '-'))
            return false;
        if (digit) {
            ret[n / 2] = (uint8_t)(n % 2 ? ret[n / 2] << 4 | (digit - digits) : digit - digits);
            n++;
        }
    }
    return true;
}

static bool oid_read(const char *text, bson_oid_t *ret)
{
    char again[25];
    if (!bson_oid_is_valid(text, strlen(text)))
        return false;
    bson_oid_init_from_string(ret, text);
    bson_oid_to_string(ret, again);
    return strcmp(again, text) == 0;
}

static bool number_read(const char *text, int64_t *ret)
{
    char again[DOC_ID_SIZE];
    errno = 0;
    *ret = strtoll(text, NULL, 10);
    snprintf(again, sizeof again, "%lld", (long long)*ret);
    return errno == 0 && strcmp(again, text) == 0;
}

const char *doc_id(const bson_t *document, const char *path, char room[DOC_ID_SIZE])
{
    bson_iter_t at;
    if (!doc_find(document, path, &at))
        return NULL;
    if (BSON_ITER_HOLDS_OID(&at)) {
        bson_oid_to_string(bson_iter_oid(&at), room);
        return room;
    }
    if (doc_is_whole(&at)) {
        snprintf(room, DOC_ID_SIZE, "%lld", (long long)bson_iter_as_int64(&at));
        return room;
    }
    if (BSON_ITER_HOLDS_BINARY(&at))
        return uuid_text(&at, room);
    uint32_t size = 0;
    const char *text = BSON_ITER_HOLDS_UTF8(&at) ? bson_iter_utf8(&at, &size) : NULL;
    return text && strlen(text) == size ? text : NULL; /* cut at a NUL it would be another one's */
}

const char *doc_next_text(bson_iter_t *list)
{
    while (bson_iter_next(list))
        if (BSON_ITER_HOLDS_UTF8(list))
            return bson_iter_utf8(list, NULL);
    return NULL;
}

const cJSON *tree_at(const cJSON *value, const char *path)
{
    char name[128];
    while (value && *path) {
        size_t size = strcspn(path, ".");
        if (size >= sizeof name)
            return NULL;
        memcpy(name, path, size);
        name[size] = '\0';
        value = cJSON_IsArray(value) ? cJSON_GetArrayItem(value, (int)strtol(name, NULL, 10))
                                     : cJSON_GetObjectItemCaseSensitive(value, name);
        path += size + (path[size] == '.');
    }
    return value;
}

const char *tree_text(const cJSON *value, const char *path)
{
    return cJSON_GetStringValue(tree_at(value, path));
}

cJSON *doc_tree(const bson_t *document)
{
    char *text = bson_as_relaxed_extended_json(document, NULL);
    cJSON *tree = text ? cJSON_Parse(text) : NULL;
    bson_free(text);
    return tree ? tree : cJSON_CreateObject();
}

/* --- writing --- */

/* Bytes of the valid UTF-8 character at `at`, 0 for none (overlong forms and surrogates are none).
 */
static size_t character_size(const unsigned char *at, size_t left)
{
    size_t size = at[0] < 0x80 ? 1 : at[0] < 0xC2 ? 0 : at[0] < 0xE0 ? 2 : at[0] < 0xF0 ? 3 : 4;
    if (!size || size > left || at[0] > 0xF4)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xF0 && at[1] < 0x90);
    bool outside = (at[0] == 0xED && at[1] > 0x9F) || (at[0] == 0xF4 && at[1] > 0x8F);
    return overlong || outside ? 0 : size;
}

/* What is not UTF-8 becomes U+FFFD; NULL without memory. */
static char *clean_text(const char *text, size_t max, size_t *ret_size)
{
    size_t size = strnlen(text, max + 4), n = 0;
    char *clean = malloc(3 * size + 1);
    for (size_t at = 0; clean && at < size && n < max;) {
        size_t step = character_size((const unsigned char *)text + at, size - at);
        size_t width = step ? step : 3;
        if (n + width > max)
            break;
        memcpy(clean + n, step ? text + at : "\xEF\xBF\xBD", width);
        n += width;
        at += step ? step : 1;
    }
    *ret_size = n;
    return clean;
}

static void append_text(bson_t *document, const char *field, const char *text, size_t max)
{
    size_t size;
    char *clean = clean_text(text, max, &size);
    bson_append_utf8(document, field, -1, clean ? clean : "", (int)size);
    free(clean);
}

void doc_put(bson_t *document, const char *field, const char *text, size_t max)
{
    if (text && *text)
        append_text(document, field, text, max);
}

void doc_copy(bson_t *document, const char *field, const bson_t *from, const char *path)
{
    bson_iter_t at;
    if (doc_find(from, path, &at))
        bson_append_iter(document, field, -1, &at);
}

static bool is_storable(const bson_iter_t *at)
{
    bson_t whole = BSON_INITIALIZER;
    bson_append_iter(&whole, "_", -1, at);
    bool good = bson_validate(&whole,
                              BSON_VALIDATE_UTF8 | BSON_VALIDATE_UTF8_ALLOW_NULL |
                                  BSON_VALIDATE_DOLLAR_KEYS | BSON_VALIDATE_EMPTY_KEYS,
                              NULL);
    bson_destroy(&whole);
    return good;
}

void doc_keep(bson_t *document, const char *field, const bson_t *from, const char *path)
{
    bson_iter_t at;
    if (doc_find(from, path, &at) && is_storable(&at))
        bson_append_iter(document, field, -1, &at);
}

static void put_number(bson_t *document, const char *field, double value)
{
    if (value == floor(value) && fabs(value) < 9e15)
        bson_append_int64(document, field, -1, (int64_t)value);
    else
        bson_append_double(document, field, -1, value);
}

static void put_value(bson_t *document, const char *field, const cJSON *value, int depth);

/* A name that no store takes would lose the whole document. NULL: it has none. */
static char *field_name(const char *text)
{
    size_t size;
    char *clean = *text ? clean_text(text, KEY_MAX, &size) : NULL;
    if (clean)
        clean[size] = '\0';
    return clean;
}

static void put_container(bson_t *document, const char *field, const cJSON *value, int depth)
{
    bson_t inner;
    bool list = cJSON_IsArray(value);
    uint32_t i = 0;
    if (list)
        bson_append_array_begin(document, field, -1, &inner);
    else
        bson_append_document_begin(document, field, -1, &inner);
    for (const cJSON *at = value->child; at; at = at->next) {
        char room[16], *own = list ? NULL : field_name(at->string);
        const char *name = own ? own : "_";
        if (list)
            bson_uint32_to_string(i++, &name, room, sizeof room);
        put_value(&inner, name, at, depth + 1);
        free(own);
    }
    if (list)
        bson_append_array_end(document, &inner);
    else
        bson_append_document_end(document, &inner);
}

static void put_value(bson_t *document, const char *field, const cJSON *value, int depth)
{
    if (cJSON_IsString(value))
        append_text(document, field, value->valuestring, TEXT_MAX);
    else if (cJSON_IsNumber(value))
        put_number(document, field, value->valuedouble);
    else if (cJSON_IsBool(value))
        bson_append_bool(document, field, -1, cJSON_IsTrue(value));
    else if ((cJSON_IsArray(value) || cJSON_IsObject(value)) && depth < DEPTH_MAX)
        put_container(document, field, value, depth);
    else
        bson_append_null(document, field, -1);
}

void doc_put_tree(bson_t *document, const char *field, const cJSON *value)
{
    if (value)
        put_value(document, field, value, 0);
}

void doc_match(bson_t *filter, const char *field, const bson_t *from)
{
    bson_iter_t at;
    if (doc_find(from, field, &at))
        bson_append_iter(filter, field, -1, &at);
    else
        bson_append_null(filter, field, -1);
}

void doc_match_id(bson_t *filter, const char *field, const char *id)
{
    bson_t either, list;
    bson_oid_t oid;
    int64_t number;
    uint8_t uuid[UUID_BYTES];
    bool is_oid = oid_read(id, &oid), is_number = number_read(id, &number);
    if (!is_oid && !is_number && !uuid_read(id, uuid)) {
        bson_append_utf8(filter, field, -1, id, -1);
        return;
    }
    bson_append_document_begin(filter, field, -1, &either);
    bson_append_array_begin(&either, "$in", -1, &list);
    bson_append_utf8(&list, "0", -1, id, -1);
    if (is_oid) {
        bson_append_oid(&list, "1", -1, &oid);
    } else if (is_number) {
        bson_append_int64(&list, "1", -1, number);
    } else {
        bson_append_binary(&list, "1", -1, BSON_SUBTYPE_UUID, uuid, UUID_BYTES);
        bson_append_binary(&list, "2", -1, BSON_SUBTYPE_UUID_DEPRECATED, uuid, UUID_BYTES);
    }
    bson_append_array_end(&either, &list);
    bson_append_document_end(filter, &either);
}
