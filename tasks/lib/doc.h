/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_DOC_H
#define TASKS_LIB_DOC_H

#include <bson/bson.h>
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Small helpers to read and write BSON documents and cJSON trees. Texts come from tools, hosts on
 * the network and strangers' services: what is written is valid UTF-8 and of bounded length. */

int64_t doc_now(void); /* UTC, milliseconds: a BSON date */

/* --- reading; `path` may be dotted ("options.ports", "resources.0.uid") --- */
const char *doc_text(const bson_t *document, const char *path); /* NULL unless a string */
int64_t doc_int(const bson_t *document, const char *path, int64_t fallback); /* any number */
bool doc_bool(const bson_t *document, const char *path, bool fallback);
int64_t doc_date(const bson_t *document, const char *path, int64_t fallback); /* ms */
bool doc_find(const bson_t *document, const char *path, bson_iter_t *ret);
bool doc_is_whole(const bson_iter_t *at); /* a number without a fraction, doubles too */
/* An id field as text: a string without NULs as it is; an ObjectId as 24 digits, a whole number, a
 * UUID in its usual form, into `room`; NULL: none of them. */
enum { DOC_ID_SIZE = 37 };
const char *doc_id(const bson_t *document, const char *path, char room[DOC_ID_SIZE]);
/* The next string of the list at `list` (from doc_find and bson_iter_recurse); NULL at its end. */
const char *doc_next_text(bson_iter_t *list);

const cJSON *tree_at(const cJSON *value, const char *path);  /* NULL: absent */
const char *tree_text(const cJSON *value, const char *path); /* NULL unless a string */

/* A document as a tree (dates and ids in MongoDB's relaxed extended JSON); the caller deletes it.
 */
cJSON *doc_tree(const bson_t *document);

/* --- writing --- */
/* At most `max` bytes of text, bytes that are not UTF-8 replaced; nothing at all for NULL or "". */
void doc_put(bson_t *document, const char *field, const char *text, size_t max);
/* The same field of another document, whatever its type; nothing when it has none. */
void doc_copy(bson_t *document, const char *field, const bson_t *from, const char *path);
/* For what is to be stored: nothing either when a name inside is "", begins with $ or is not UTF-8,
 * for which a store, or its driver, would refuse the whole document. */
void doc_keep(bson_t *document, const char *field, const bson_t *from, const char *path);
/* A tree as BSON: depth at most 32, texts at most 64 KiB, names at most 1 KiB ("_" for none), list
 * and object as they are. */
void doc_put_tree(bson_t *document, const char *field, const cJSON *value);
/* A filter on the value that the field has in `from`; where it has none, on null or absent. */
void doc_match(bson_t *filter, const char *field, const bson_t *from);
/* A filter that matches what doc_id tells as `id`, of whichever type it is. */
void doc_match_id(bson_t *filter, const char *field, const char *id);

#endif
