/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_MERGE_H
#define TASKS_DISCOVERY_MERGE_H

#include "tasks/discovery/record.h"
#include "tasks/lib/mongo.h"

/* One document of hybrid_assets, made of its sources one after the other: however many there are,
 * it takes the same memory. What counts first is told first. */
struct merge;

struct merge *merge_open(cw_task *t, const char *team);
/* source: as a record_reader made it; identity: its strongest. */
void merge_add(struct merge *m, const bson_t *source, int64_t first_seen, enum identity_kind kind,
               const char *identity);
int merge_count(const struct merge *m); /* sources so far */
/* Writes the document under (team_id, asset_key) and begins the next. */
int merge_save(struct merge *m, struct mongo_bulk *bulk);

#endif
