/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_MIRROR_H
#define TASKS_LIB_MIRROR_H

#include "tasks/lib/mongo.h"

/* Writes what pages show of a scan into unified_scan_results, under its scan_id and the collection
 * that it is in (the first run and the first image may both be 1): team_id, status, target, times,
 * summary and error of `scan`, and its kind ("cloud", "network", …). */
int mirror_to_unified_scan_results(cw_task *t, const char *collection, const bson_t *scan,
                                   const char *scan_type);

#endif
