/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_EXCEPTION_H
#define WORKER_EXCEPTION_H

/* Python's exceptions as data: where a class lives, and the texts that Python and Celery make of
 * one. */

#include "proto/json.h"

struct exception {
    char type[160], module[160];
    cJSON *args; /* a list */
};

/* From what a handler says: `ValueError`, `celery.exceptions.TaskError`, `WorkerLostError` … Fills
 * type and module. Classes that would end a Python client that raises them again become
 * RuntimeError. */
void exception_name(const char *name, struct exception *ret);

/* {"exc_type", "exc_message", "exc_module"} as Celery stores it. */
void exception_print(const struct exception *e, struct buf *out);
/* The last line of a traceback, with its newline: `ValueError: message`. */
void exception_tell(const struct exception *e, struct buf *out);
/* `ValueError('message')` */
void exception_repr(const struct exception *e, struct buf *out);

#endif
