/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_PLUGIN_H
#define WORKER_PLUGIN_H

#include "proto/base/error.h"
#include "tasks/cworker.h"

/* Loads a shared object for good and gives its tables, NULL-ended; NULL on failure, err names the
 * file. */
const struct cw_table *const *plugin_open(const char *path, struct error *err);

#endif
