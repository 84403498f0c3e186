/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_SETTINGS_NAMES_H
#define WORKER_SETTINGS_NAMES_H

/* Names that are no settings of ours: Celery's own that a C worker can do without, and misspelt
 * ones. */

#include "proto/base/error.h"

/* The value of a Celery setting that is accepted without effect, as text; NULL: not a simple value.
 * 0; NOT_FOUND when Celery has no such name; UNSUPPORTED when ignoring this value would break a
 * promise that it makes, with what to do instead. */
int setting_name_check(const char *name, const char *value, struct error *err);

/* The member of `names` that a person most likely meant by `name`; NULL when none is near. */
const char *name_nearest(const char *name, const char *const *names, int n_names);

/* The same among the settings; takes `acks-late`, CELERY_TASK_ACKS_LATE and the like. */
const char *settings_nearest(const char *name);

#endif
