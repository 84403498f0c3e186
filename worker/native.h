/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_NATIVE_H
#define WORKER_NATIVE_H

/* Celery's own tasks, which every worker has (celery.app.builtins). Most run in children; those
 * that are about the result store run in main, on the loop. */

#include "tasks/cworker.h"

struct request;

typedef void native_fn(struct request *r); /* ends by flow_finish, now or later */

/* NULL: not one of them. */
native_fn *native_find(const char *task);

/* Of a task that has to wait: what chord it polls, if it is a celery.chord_unlock. */
void native_note_chord(struct request *r);

extern const struct cw_table celery_table;

#endif
