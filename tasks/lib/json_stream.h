/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_JSON_STREAM_H
#define TASKS_LIB_JSON_STREAM_H

#include "tasks/cworker.h"

/* Takes a huge JSON text apart while it arrives, so that only one element is in memory: the
 * elements of the outermost list, of one list inside an object, or the values of NDJSON. */

struct json_stream_options {
    const char *member; /* the object's list whose elements are wanted; NULL: the text is a list
                           itself, or values one after the other (NDJSON) */
    const char *within; /* that object is this member of the outermost one; NULL: it is that one */
    bool needed;        /* an object without that list (or null in its place) is ValueError: where
                           "nothing there" would be believed */
    size_t max_element; /* bytes; 0: 4 MiB */
    size_t *ret_large;  /* counts those that are larger and left out; NULL: one ends the reading */
    bool *ret_found;    /* was the list there, or the object `within`? May be NULL */
    /* Each element; the tree is freed afterwards. < 0 (after cw_problem) ends the reading. Without
     * it and on_text only the object's members are wanted. */
    int (*on_element)(cw_task *t, const cJSON *element, void *arg);
    /* Instead: its text as it came, for json_stream_text to look into. */
    int (*on_text)(cw_task *t, const char *text, size_t size, void *arg);
    /* The object's other members; NULL: they are skipped, whatever their size. */
    int (*on_member)(cw_task *t, const char *name, const cJSON *value, void *arg);
    const char *const *members; /* their names, NULL-ended; the others are skipped. NULL: all */
    void *arg;
};

struct json_stream; /* freed with the delivery */

struct json_stream *json_stream_open(cw_task *t, const struct json_stream_options *options);
/* 0, or < 0 with the reason for cw_fail: ValueError where the text is not JSON (with its byte). */
int json_stream_feed(struct json_stream *s, const char *data, size_t size);
int json_stream_end(struct json_stream *s);            /* < 0 too when the text is cut */
size_t json_stream_count(const struct json_stream *s); /* elements so far */

/* A text that is in memory. */
int json_stream_text(cw_task *t, const char *text, size_t size,
                     const struct json_stream_options *options);
/* A whole file. FileNotFoundError where there is none. */
int json_stream_file(cw_task *t, const char *path, const struct json_stream_options *options,
                     size_t *ret_count);

#endif
