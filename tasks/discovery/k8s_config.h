/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_K8S_CONFIG_H
#define TASKS_DISCOVERY_K8S_CONFIG_H

#include "tasks/cworker.h"

#include <bson/bson.h>

/* How one cluster's API is reached. Texts live as long as the delivery. */
struct k8s_config {
    const char *server;                   /* https://host:port, without a slash at its end */
    const char *token;                    /* bearer token, or NULL */
    const char *ca;                       /* PEM; NULL: the system's authorities */
    const char *client_cert, *client_key; /* PEM, or NULL */
};

/* From a document of k8s_clusters: in_cluster, or kubeconfig (+ context), or api_server (+ ca,
 * token_secret). */
int k8s_config_load(cw_task *t, const bson_t *cluster, struct k8s_config *ret);

/* YAML as a tree; JSON is YAML too. NULL with the reason in ret_error (to be shown, not freed).
 * The caller deletes the tree. */
cJSON *yaml_parse(const char *text, size_t size, const char **ret_error);

#endif
