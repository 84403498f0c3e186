/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_JSON_H
#define PROTO_JSON_H

/* JSON as Python writes and reads it, in cJSON's tree.
 *
 * cJSON itself holds every number as a double, cuts strings at \u0000 and refuses NaN and lone
 * surrogates: all of which Python sends. So reading and printing are done here, around cJSON's
 * nodes:
 *   - a number keeps its exact text in `valuestring` (type cJSON_Number) whenever the double alone
 *     would not print it back: integers beyond 2^53, `1.0`, `1e-07`, NaN, Infinity, -Infinity;
 *   - a NUL inside a string is held as the two bytes C0 80, a lone surrogate as its three-byte
 *     generalised UTF-8 form; both are printed as the escapes they came as;
 *   - duplicate keys: the last wins, in the place of the first, as in a Python dict.
 * Printing gives what json.dumps gives: ", " and ": ", everything above 0x7E as \uXXXX, the
 * shortest digits that read back as the same double. parse → print is the identity on json.dumps'
 * output. */

#include "proto/base/buf.h"
#include "proto/base/error.h"
#include "proto/base/slice.h"

#include <cjson/cJSON.h>
#include <stdint.h>

enum { JSON_MAX_DEPTH = 512 };

/* Parses one complete value (white space around it allowed). The caller frees with cJSON_Delete.
 * NULL on failure; err says what and at which byte. */
cJSON *json_parse(const char *text, size_t size, struct error *err)
    __attribute__((warn_unused_result));

/* Appends the text of `value` (NULL prints null). */
void json_print(const cJSON *value, struct buf *out);
char *json_text(const cJSON *value) __attribute__((returns_nonnull)); /* caller frees */

/* Appends `text` (UTF-8 as described above) as a JSON string, quotes included. Bytes that are not
 * UTF-8 are printed as U+FFFD. */
void json_print_string(const char *text, size_t size, struct buf *out);

/* A number from its exact text, which must be valid (`json_parse` of it gives a number). */
cJSON *json_number(const char *text);
cJSON *json_int(int64_t value);

/* Case-sensitive member or NULL. */
cJSON *json_get(const cJSON *object, const char *key);
const char *json_get_string(const cJSON *object, const char *key); /* NULL unless a string */
/* Replaces or appends; takes value. */
void json_set(cJSON *object, const char *key, cJSON *value);

/* Where many are looked up, whose number somebody else chose. The container, an object or a list of
 * strings, must not change meanwhile. */
struct json_index {
    cJSON *first;
    struct json_slot {
        const char *name;
        cJSON *item;
        size_t place;
    } *sorted; /* NULL: there are few */
    size_t n;
};
struct json_index json_index(const cJSON *container); /* NULL, and what is neither, hold nothing */
cJSON *json_index_get(const struct json_index *x, const char *name); /* the first, or NULL */
void json_index_done(struct json_index *x);
/* The members of `over` replace those of their names, or are appended; takes over, an object whose
 * names differ. */
void json_merge(cJSON *object, cJSON *over);
/* Python's dicts come in the order in which they were made: puts the members of all objects in that
 * of their names. */
void json_sort_members(cJSON *value);

/* Reads an integral number without loss; false when it is none or does not fit. */
bool json_as_int(const cJSON *value, int64_t *ret_value);

/* Reading without a tree, for the hot path. `json_walk` validates `text` as one object and calls
 * `fn` for each top-level member in order, with the raw text of the key (unescaped: keys with
 * escapes are passed as they stand) and of the value. A non-zero return of `fn` stops the walk and
 * is returned. */
typedef int json_member_fn(struct slice key, struct slice value, void *arg);
int json_walk(struct slice text, json_member_fn *fn, void *arg, struct error *err);
/* The same for the items of one list. */
typedef int json_item_fn(struct slice value, void *arg);
int json_walk_list(struct slice text, json_item_fn *fn, void *arg, struct error *err);

/* Decodes the raw text of a JSON string (with its quotes) into out (the buffer's end). 0, or
 * INVALID when the slice is not a string. */
int json_unquote(struct slice raw, struct buf *out);

#endif
