/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_RECORDS_H
#define TASKS_DISCOVERY_RECORDS_H

#include "tasks/discovery/record.h"
#include "tasks/lib/mongo.h"

/* Many documents, of which only the ids and digests of what identifies them are in memory: about
 * 200 bytes each. */

enum records_of { RECORDS_ASSETS, RECORDS_K8S };

struct record {
    int group;               /* the same for all that are one thing */
    const bson_t *source;
    int64_t first_seen;
    enum identity_kind kind; /* its strongest identity */
    const char *identity;
};

struct records; /* freed with the delivery */

/* More than max is ValueError. */
struct records *records_open(cw_task *t, int max);
int records_read(struct records *r, enum records_of of, const bson_t *filter);
int records_count(const struct records *r);
/* Joins those that are one thing and reads all of them again: group by group, in a group in the
 * order in which they were read first. fn < 0 ends it. */
int records_each_joined(struct records *r, int (*fn)(const struct record *record, void *arg),
                        void *arg);

#endif
