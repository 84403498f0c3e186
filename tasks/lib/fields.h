/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_FIELDS_H
#define TASKS_LIB_FIELDS_H

#include "tasks/cworker.h"
#include "tasks/lib/doc.h"

/* Fields of documents that others write: one of a wrong type is said, not passed over as if it were
 * not there. Absent and null are the same. */

/* The texts of a list, each checked: their number, or < 0 (ValueError that begins with `what`).
 * They belong to the document. */
int field_texts(cw_task *t, const bson_t *document, const char *what, const char *field,
                bool (*check)(const char *), const char **ret, int max);

/* An id that goes into filters: text, ObjectId, a whole number or binary (a UUID). A document there
 * would be taken for an operator ({"$ne": 1}) and match what is not its own. < 0: ValueError. */
int field_id(cw_task *t, const bson_t *document, const char *what, const char *field, bool required);

struct field_rule {
    const char *path;
    enum cw_kind kind; /* CW_INT, CW_BOOL, CW_STR, CW_LIST (of texts), CW_OBJECT */
    int64_t min, max;  /* of CW_INT; both 0: any */
};
/* 0, or < 0 where a field is not as its rule says; the rules end with {0}. */
int fields_check(cw_task *t, const bson_t *document, const struct field_rule *rules);

#endif
