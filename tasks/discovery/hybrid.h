/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_HYBRID_H
#define TASKS_DISCOVERY_HYBRID_H

#include "tasks/discovery/identity.h"
#include "tasks/lib/mongo.h"

/* What one source says of one thing: a document of assets or k8s_resources, and its identities. */
struct record {
    bson_t *source; /* an element of the merged asset's `sources`; freed by records_free */
    int64_t first_seen;
};

struct records {
    cw_task *t;
    struct record *list;
    int n, capacity, max;
    struct identity *identities; /* texts of the delivery */
    size_t n_identities, identity_capacity;
};

/* Both are mongo_document_fn's with a struct records as argument. */
int record_of_asset(cw_task *t, const bson_t *document, void *arg);
int record_of_k8s(cw_task *t, const bson_t *document, void *arg);
void records_free(void *records);

#endif
