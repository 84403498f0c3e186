/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_REPR_H
#define PROTO_REPR_H

#include "proto/json.h"

/* Python's repr() of a JSON value, as Celery's saferepr shows it; tuples at the top when `tuple`.
 * Cut near max bytes with "...". */
void repr_print(const cJSON *value, bool tuple, size_t max, struct buf *out);
/* The same as Python's own repr() has it, with its quotes and escapes, at all levels: what
 * exceptions show. */
void repr_python(const cJSON *value, bool tuple, size_t max, struct buf *out);

#endif
