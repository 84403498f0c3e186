/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_K8S_API_H
#define TASKS_DISCOVERY_K8S_API_H

#include "tasks/discovery/k8s_config.h"

/* One list of a cluster's API, page by page, each object as it arrives. */

enum k8s_listed {
    K8S_FAILED = -1,  /* the reason is left for cw_fail: the whole discovery ends */
    K8S_COMPLETE = 0, /* every object was seen */
    K8S_PARTIAL,      /* it changed faster than it could be read: objects may be missing */
    K8S_FORBIDDEN,    /* 403: we may not list these */
    K8S_ABSENT,       /* 404: the server does not know these */
};

struct k8s_list {
    cw_task *t;
    const struct k8s_config *config;
    const char *path; /* "/apis/apps/v1/deployments" */
    int limit;        /* objects in a page */
    /* < 0 (after cw_problem) ends it. The same object may come twice. */
    int (*on_object)(cw_task *t, const cJSON *object, void *arg);
    int (*on_page)(cw_task *t, int page, void *arg); /* or NULL */
    void *arg;
};

/* ret_why: what the server said to a 403 or 404, or why it is partial. */
enum k8s_listed k8s_list(const struct k8s_list *list, const char **ret_why);

#endif
