/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_RECORD_H
#define TASKS_DISCOVERY_RECORD_H

#include "tasks/discovery/identity.h"
#include "tasks/lib/doc.h"

/* What one source says of one thing: a document of assets or k8s_resources. */
struct record_reader {
    void (*on_identity)(enum identity_kind kind, const char *text, void *arg);
    void *arg;
    bson_t *source; /* filled: an element of the merged asset's `sources`; NULL: not wanted */
};

/* False: it is nothing that can be merged. */
bool record_of_asset(const bson_t *document, const struct record_reader *reader);
bool record_of_k8s(const bson_t *document, const struct record_reader *reader);

#endif
