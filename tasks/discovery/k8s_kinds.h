/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_K8S_KINDS_H
#define TASKS_DISCOVERY_K8S_KINDS_H

#include <bson/bson.h>
#include <cjson/cJSON.h>

/* What is listed of a cluster, and what is kept of each object. */

struct k8s_field {
    const char *name, *path; /* in the document; in the object */
};

struct k8s_kind {
    const char *kind, *api_version, *path;
    const struct k8s_field *fields; /* ends with {0} */
};

extern const struct k8s_kind k8s_kinds[]; /* ends with {0} */

/* The fields of a document of k8s_resources, beside its key. */
void k8s_describe(const struct k8s_kind *kind, const cJSON *object, bson_t *ret);

#endif
