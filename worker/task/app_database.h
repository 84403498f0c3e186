/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_TASK_APP_DATABASE_H
#define WORKER_TASK_APP_DATABASE_H

/* The MongoDB of the built-in tasks: app_database_url's; where that is not set, database
 * cspm_orchestration on the server of a MongoDB result backend. */

#include "worker/config/settings.h"

/* With a database named in it; mongoc_uri_destroy is due. NULL: err says what to set. After
 * mongoc_init. */
struct _mongoc_uri_t *app_database_uri(const struct settings *s, struct error *err);

#endif
