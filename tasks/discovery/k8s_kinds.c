/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/k8s_kinds.h"

#include "tasks/discovery/k8s_checks.h"
#include "tasks/lib/date.h"
#include "tasks/lib/doc.h"

#include <stdio.h>
#include <string.h>

/* An inventory, not a copy: of each object what a page or a merge with other sources needs.
 * Environment variables, annotations and managedFields stay in the cluster. */

static const struct k8s_field namespace_fields[] = {{"phase", "status.phase"}, {0}};
static const struct k8s_field node_fields[] = {
    {"provider_id", "spec.providerID"},
    {"addresses", "status.addresses"},
    {"info", "status.nodeInfo"},
    {"unschedulable", "spec.unschedulable"},
    {0},
};
static const struct k8s_field pod_fields[] = {
    {"node_name", "spec.nodeName"}, {"service_account", "spec.serviceAccountName"},
    {"phase", "status.phase"},      {"pod_ip", "status.podIP"},
    {"host_ip", "status.hostIP"},   {0},
};
static const struct k8s_field workload_fields[] = {
    {"replicas", "spec.replicas"},
    {"ready_replicas", "status.readyReplicas"},
    {"service_account", "spec.template.spec.serviceAccountName"},
    {0},
};
static const struct k8s_field cron_fields[] = {
    {"schedule", "spec.schedule"}, {"suspended", "spec.suspend"}, {0}};
static const struct k8s_field service_fields[] = {
    {"type", "spec.type"},
    {"cluster_ip", "spec.clusterIP"},
    {"external_ips", "spec.externalIPs"},
    {"external_name", "spec.externalName"},
    {"load_balancer", "status.loadBalancer.ingress"},
    {"ports", "spec.ports"},
    {0},
};
static const struct k8s_field ingress_fields[] = {
    {"class", "spec.ingressClassName"},
    {"load_balancer", "status.loadBalancer.ingress"},
    {"tls", "spec.tls"},
    {"rules", "spec.rules"},
    {0},
};
static const struct k8s_field role_fields[] = {{"rules", "rules"}, {0}};
static const struct k8s_field binding_fields[] = {
    {"role", "roleRef"}, {"subjects", "subjects"}, {0}};
static const struct k8s_field no_fields[] = {{0}};

#define RBAC "rbac.authorization.k8s.io/v1"
const struct k8s_kind k8s_kinds[] = {
    {"Namespace", "v1", "/api/v1/namespaces", namespace_fields},
    {"Node", "v1", "/api/v1/nodes", node_fields},
    {"Pod", "v1", "/api/v1/pods", pod_fields},
    {"Service", "v1", "/api/v1/services", service_fields},
    {"ServiceAccount", "v1", "/api/v1/serviceaccounts", no_fields},
    {"Deployment", "apps/v1", "/apis/apps/v1/deployments", workload_fields},
    {"DaemonSet", "apps/v1", "/apis/apps/v1/daemonsets", workload_fields},
    {"StatefulSet", "apps/v1", "/apis/apps/v1/statefulsets", workload_fields},
    {"ReplicaSet", "apps/v1", "/apis/apps/v1/replicasets", workload_fields},
    {"Job", "batch/v1", "/apis/batch/v1/jobs", workload_fields},
    {"CronJob", "batch/v1", "/apis/batch/v1/cronjobs", cron_fields},
    {"Ingress", "networking.k8s.io/v1", "/apis/networking.k8s.io/v1/ingresses", ingress_fields},
    {"NetworkPolicy", "networking.k8s.io/v1", "/apis/networking.k8s.io/v1/networkpolicies",
     no_fields},
    {"Role", RBAC, "/apis/" RBAC "/roles", role_fields},
    {"RoleBinding", RBAC, "/apis/" RBAC "/rolebindings", binding_fields},
    {"ClusterRole", RBAC, "/apis/" RBAC "/clusterroles", role_fields},
    {"ClusterRoleBinding", RBAC, "/apis/" RBAC "/clusterrolebindings", binding_fields},
    {0},
};

enum { LIST_MAX = 200 };

/* As texts: names of labels have dots, which MongoDB reads as paths. */
static void put_labels(bson_t *d, const cJSON *labels)
{
    bson_t list;
    uint32_t n = 0;
    const cJSON *at;
    BSON_APPEND_ARRAY_BEGIN(d, "labels", &list);
    cJSON_ArrayForEach(at, labels)
    {
        char text[600], room[16];
        const char *index;
        if (!at->string || !cJSON_IsString(at) || n >= LIST_MAX)
            continue;
        snprintf(text, sizeof text, "%.317s=%.253s", at->string, at->valuestring);
        bson_uint32_to_string(n++, &index, room, sizeof room);
        doc_put(&list, index, text, sizeof text);
    }
    bson_append_array_end(d, &list);
}

static void put_images(bson_t *d, const cJSON *pod)
{
    static const char *const lists[] = {"containers", "initContainers"};
    bson_t list;
    uint32_t n = 0;
    BSON_APPEND_ARRAY_BEGIN(d, "images", &list);
    for (int i = 0; i < 2; i++) {
        const cJSON *at;
        cJSON_ArrayForEach(at, cJSON_GetObjectItemCaseSensitive(pod, lists[i]))
        {
            char room[16];
            const char *index, *image = tree_text(at, "image");
            if (!image || !*image || n >= LIST_MAX)
                continue;
            bson_uint32_to_string(n++, &index, room, sizeof room);
            doc_put(&list, index, image, 512);
        }
    }
    bson_append_array_end(d, &list);
}

static void put_owner(bson_t *d, const cJSON *owner)
{
    bson_t inner;
    if (!owner)
        return;
    BSON_APPEND_DOCUMENT_BEGIN(d, "owner", &inner);
    doc_put(&inner, "kind", tree_text(owner, "kind"), 128);
    doc_put(&inner, "name", tree_text(owner, "name"), 253);
    bson_append_document_end(d, &inner);
}

/* A list that no cluster of good faith has is kept out rather than cut. */
static int is_small(const cJSON *value)
{
    int n = 0;
    for (const cJSON *at = value->child; at; at = at->next)
        if (++n > LIST_MAX)
            return 0;
    return 1;
}

void k8s_describe(const struct k8s_kind *kind, const cJSON *object, bson_t *ret)
{
    const char *created = tree_text(object, "metadata.creationTimestamp");
    int64_t at = created ? date_read(created) : DATE_NONE;
    const cJSON *pod = k8s_pod_spec(kind->kind, object);
    BSON_APPEND_UTF8(ret, "kind", kind->kind);
    BSON_APPEND_UTF8(ret, "api_version", kind->api_version);
    doc_put(ret, "namespace", tree_text(object, "metadata.namespace"), 253);
    doc_put(ret, "name", tree_text(object, "metadata.name"), 253);
    if (at != DATE_NONE)
        BSON_APPEND_DATE_TIME(ret, "created_at", at);
    put_labels(ret, tree_at(object, "metadata.labels"));
    put_owner(ret, tree_at(object, "metadata.ownerReferences.0"));
    if (pod)
        put_images(ret, pod);
    for (const struct k8s_field *f = kind->fields; f->name; f++) {
        const cJSON *value = tree_at(object, f->path);
        if (value && is_small(value))
            doc_put_tree(ret, f->name, value);
        else
            BSON_APPEND_NULL(ret, f->name); /* what the object no longer has */
    }
}
