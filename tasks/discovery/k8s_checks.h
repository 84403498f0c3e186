/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_K8S_CHECKS_H
#define TASKS_DISCOVERY_K8S_CHECKS_H

#include <cjson/cJSON.h>

/* What is unsafe about one object of a cluster: only the object is looked at. */

struct k8s_finding {
    const char *check_id, *severity, *title;
    const char *container; /* "" unless it is about one */
    const char *message;   /* never a secret's value */
};
typedef void k8s_finding_fn(const struct k8s_finding *finding, void *arg);

/* kind: "Pod", "Deployment", …; those without checks give none. */
void k8s_check(const char *kind, const cJSON *object, k8s_finding_fn *fn, void *arg);

/* The pod's spec of a Pod or workload; NULL for other kinds. */
const cJSON *k8s_pod_spec(const char *kind, const cJSON *object);

/* A bare name or :latest, without a digest: tomorrow it is another image. */
int k8s_image_is_mutable(const char *image);

#endif
