/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/k8s_checks.h"

#include "tasks/lib/doc.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Posture checks of workloads. One finding a check and container: its identity must not hang on the
 * order of lists, which clusters change. Pods that a workload makes are judged by their workload,
 * so that a rollout does not make every finding a new one. */

enum { MESSAGE_MAX = 1024 };

struct look {
    const cJSON *pod; /* the pod's spec */
    k8s_finding_fn *fn;
    void *arg;
};

static void report(const struct look *l, const char *check, const char *severity,
                   const char *title, const char *container, const char *message)
{
    struct k8s_finding f = {check, severity, title, container ? container : "", message};
    l->fn(&f, l->arg);
}

static const cJSON *member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

/* `text` and more, with commas; what does not fit is left out. */
static void list_add(char *list, const char *text)
{
    size_t used = strlen(list);
    if (used + strlen(text) + 3 < MESSAGE_MAX)
        snprintf(list + used, MESSAGE_MAX - used, "%s%s", *list ? ", " : "", text);
}

const cJSON *k8s_pod_spec(const char *kind, const cJSON *object)
{
    static const struct {
        const char *kind, *path;
    } specs[] = {
        {"Pod", "spec"},
        {"Deployment", "spec.template.spec"},
        {"DaemonSet", "spec.template.spec"},
        {"StatefulSet", "spec.template.spec"},
        {"ReplicaSet", "spec.template.spec"},
        {"Job", "spec.template.spec"},
        {"CronJob", "spec.jobTemplate.spec.template.spec"},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        if (strcmp(kind, specs[i].kind) == 0)
            return tree_at(object, specs[i].path);
    return NULL;
}

/* --- containers --- */

static void check_privileged(const struct look *l, const char *name, const cJSON *context)
{
    if (cJSON_IsTrue(member(context, "privileged")))
        report(l, "privileged_container", "HIGH", "Container runs privileged", name,
               "securityContext.privileged is true: the container has all rights on its node");
}

static void check_root(const struct look *l, const char *name, const cJSON *context)
{
    const cJSON *pod = member(l->pod, "securityContext");
    const cJSON *user = member(context, "runAsUser"), *rule = member(context, "runAsNonRoot");
    user = user ? user : member(pod, "runAsUser");
    rule = rule ? rule : member(pod, "runAsNonRoot");
    if (cJSON_IsNumber(user) && user->valuedouble == 0)
        report(l, "runs_as_root", "HIGH", "Container runs as root", name, "runAsUser is 0");
    else if (!cJSON_IsNumber(user) && !cJSON_IsTrue(rule))
        report(l, "runs_as_root", "MEDIUM", "Container may run as root", name,
               "neither runAsNonRoot nor runAsUser is set: the image decides");
}

static void check_capabilities(const struct look *l, const char *name, const cJSON *context)
{
    static const char *const dangerous[] = {
        "ALL",        "SYS_ADMIN",       "SYS_PTRACE",    "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT",
        "NET_ADMIN",  "DAC_READ_SEARCH", "DAC_OVERRIDE",  "BPF",        "PERFMON",   "SETUID",
        "SETGID",     "SYS_CHROOT",      "MAC_ADMIN",     "MAC_OVERRIDE", "SYSLOG",  "NET_RAW",
    };
    char list[MESSAGE_MAX] = "";
    const cJSON *at;
    cJSON_ArrayForEach(at, tree_at(context, "capabilities.add"))
    {
        const char *text = cJSON_GetStringValue(at);
        if (text && strncasecmp(text, "CAP_", 4) == 0)
            text += 4;
        for (size_t i = 0; text && i < sizeof dangerous / sizeof *dangerous; i++)
            if (strcasecmp(text, dangerous[i]) == 0)
                list_add(list, dangerous[i]);
    }
    if (*list)
        report(l, "dangerous_capabilities", "HIGH", "Container has dangerous capabilities", name,
               list);
}

int k8s_image_is_mutable(const char *image)
{
    const char *slash = strrchr(image, '/');
    const char *tag = strchr(slash ? slash : image, ':');
    return !strchr(image, '@') && (!tag || !tag[1] || strcmp(tag, ":latest") == 0);
}

static void check_image(const struct look *l, const char *name, const cJSON *container)
{
    const char *image = tree_text(container, "image");
    char message[MESSAGE_MAX];
    if (!image || !k8s_image_is_mutable(image))
        return;
    snprintf(message, sizeof message, "%.500s has neither a digest nor a tag of its own", image);
    report(l, "mutable_image_tag", "MEDIUM", "Image may change under its name", name, message);
}

static void check_limits(const struct look *l, const char *name, const cJSON *container)
{
    const cJSON *limits = tree_at(container, "resources.limits");
    char list[MESSAGE_MAX] = "";
    if (!member(limits, "cpu"))
        list_add(list, "no limit of cpu");
    if (!member(limits, "memory"))
        list_add(list, "no limit of memory");
    if (*list)
        report(l, "no_resource_limits", "LOW", "Container has no resource limits", name, list);
}

static int ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), n = strlen(end);
    return size >= n && strcasecmp(text + size - n, end) == 0;
}

static int is_secret_name(const char *name)
{
    static const char *const words[] = {"PASSWORD",   "PASSWD",     "SECRET",     "TOKEN",
                                        "API_KEY",    "APIKEY",     "ACCESS_KEY", "PRIVATE_KEY",
                                        "CREDENTIAL", "PASSPHRASE", "AUTH_KEY"};
    static const char *const harmless[] = {"_FILE", "_PATH", "_DIR", "_NAME", "_URL", "_ID",
                                           "_TTL",  "_EXPIRY", "_ENABLED"};
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (ends_with(name, harmless[i]))
            return 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasestr(name, words[i]))
            return 1;
    return 0;
}

/* "postgres://user:password@host" */
static int has_password(const char *value)
{
    const char *at = strstr(value, "://");
    size_t size = at ? strcspn(at + 3, "/ ?#") : 0;
    const char *sign = at ? memchr(at + 3, '@', size) : NULL;
    const char *colon = sign ? memchr(at + 3, ':', (size_t)(sign - at - 3)) : NULL;
    return colon && colon + 1 < sign && colon[1] != '$';
}

static void check_env(const struct look *l, const char *name, const cJSON *container)
{
    char list[MESSAGE_MAX] = "";
    const cJSON *at;
    cJSON_ArrayForEach(at, member(container, "env"))
    {
        const char *variable = tree_text(at, "name"), *value = tree_text(at, "value");
        if (variable && value && *value && strncmp(value, "$(", 2) != 0 &&
            (is_secret_name(variable) || has_password(value)))
            list_add(list, variable);
    }
    if (*list)
        report(l, "secret_in_environment", "HIGH", "Secret in an environment variable", name, list);
}

static void check_container(const struct look *l, const cJSON *container, int lasting)
{
    const char *name = tree_text(container, "name");
    const cJSON *context = member(container, "securityContext");
    check_privileged(l, name, context);
    check_root(l, name, context);
    check_capabilities(l, name, context);
    check_image(l, name, container);
    check_env(l, name, container);
    if (lasting)
        check_limits(l, name, container);
}

/* --- pods --- */

static void check_namespaces(const struct look *l)
{
    static const char *const names[] = {"hostNetwork", "hostPID", "hostIPC"};
    char list[MESSAGE_MAX] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (cJSON_IsTrue(member(l->pod, names[i])))
            list_add(list, names[i]);
    if (*list)
        report(l, "host_namespaces", "HIGH", "Pod shares namespaces of its node", NULL, list);
}

static void check_host_paths(const struct look *l)
{
    char list[MESSAGE_MAX] = "";
    const cJSON *at;
    cJSON_ArrayForEach(at, member(l->pod, "volumes"))
    {
        const char *path = tree_text(at, "hostPath.path");
        if (path)
            list_add(list, path);
    }
    if (*list)
        report(l, "host_path", "MEDIUM", "Pod mounts folders of its node", NULL, list);
}

static int is_made_by_workload(const cJSON *object)
{
    static const char *const kinds[] = {"ReplicaSet", "Deployment", "DaemonSet", "StatefulSet",
                                        "Job",        "CronJob"};
    const cJSON *at;
    cJSON_ArrayForEach(at, tree_at(object, "metadata.ownerReferences"))
    {
        const char *kind = tree_text(at, "kind");
        for (size_t i = 0; kind && i < sizeof kinds / sizeof *kinds; i++)
            if (cJSON_IsTrue(member(at, "controller")) && strcmp(kind, kinds[i]) == 0)
                return 1;
    }
    return 0;
}

static void check_pod(const struct look *l)
{
    const cJSON *at;
    check_namespaces(l);
    check_host_paths(l);
    cJSON_ArrayForEach(at, member(l->pod, "containers"))
        check_container(l, at, 1);
    cJSON_ArrayForEach(at, member(l->pod, "initContainers"))
        check_container(l, at, 0);
    cJSON_ArrayForEach(at, member(l->pod, "ephemeralContainers"))
        check_container(l, at, 0);
}

/* --- services --- */

static int is_internal(const cJSON *annotations)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, annotations)
    {
        const char *value = cJSON_GetStringValue(at);
        if (!at->string || !value || !strstr(at->string, "load-balancer"))
            continue;
        if (ends_with(at->string, "internal") ? strcasecmp(value, "false") != 0
                                              : strcasecmp(value, "internal") == 0)
            return 1;
    }
    return 0;
}

static int is_open_to_all(const cJSON *ranges)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, ranges)
    {
        const char *text = cJSON_GetStringValue(at);
        if (text && (strcmp(text, "0.0.0.0/0") == 0 || strcmp(text, "::/0") == 0))
            return 1;
    }
    return cJSON_GetArraySize(ranges) == 0;
}

static void check_service(const struct look *l, const cJSON *object)
{
    const char *type = tree_text(object, "spec.type");
    int balanced = type && strcmp(type, "LoadBalancer") == 0;
    if (balanced && !is_internal(tree_at(object, "metadata.annotations")) &&
        is_open_to_all(tree_at(object, "spec.loadBalancerSourceRanges")))
        report(l, "public_service", "MEDIUM", "Service is open to the internet", NULL,
               "a load balancer without source ranges and not marked as internal");
    else if (type && strcmp(type, "NodePort") == 0)
        report(l, "public_service", "LOW", "Service is open on every node", NULL,
               "type NodePort: reachable wherever the nodes are");
    if (cJSON_GetArraySize(tree_at(object, "spec.externalIPs")) > 0)
        report(l, "external_ips", "MEDIUM", "Service takes external addresses", NULL,
               "spec.externalIPs lets a service take over addresses");
}

/* --- RBAC --- */

static int has_text(const cJSON *list, const char *text)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, list)
        if (cJSON_IsString(at) && strcmp(at->valuestring, text) == 0)
            return 1;
    return 0;
}

/* Kubernetes makes these itself, with the rights that they need. */
static int is_bootstrap(const cJSON *object)
{
    const char *name = tree_text(object, "metadata.name");
    const cJSON *mark = member(tree_at(object, "metadata.labels"), "kubernetes.io/bootstrapping");
    return name && cJSON_IsString(mark) &&
           (strncmp(name, "system:", 7) == 0 || strcmp(name, "cluster-admin") == 0 ||
            strcmp(name, "admin") == 0 || strcmp(name, "edit") == 0 || strcmp(name, "view") == 0);
}

static void check_role(const struct look *l, const cJSON *object)
{
    int verbs = 0, resources = 0, both = 0;
    const cJSON *at;
    if (is_bootstrap(object))
        return;
    cJSON_ArrayForEach(at, member(object, "rules"))
    {
        int verb = has_text(member(at, "verbs"), "*");
        int resource = has_text(member(at, "resources"), "*");
        verbs |= verb;
        resources |= resource;
        both |= verb && resource;
    }
    if (both)
        report(l, "wildcard_rbac", "CRITICAL", "Role allows everything", NULL,
               "a rule has * as verb and as resource");
    else if (verbs || resources)
        report(l, "wildcard_rbac", "HIGH", "Role has wildcards", NULL,
               verbs ? "a rule has * as verb" : "a rule has * as resource");
}

static void check_binding(const struct look *l, const cJSON *object)
{
    const char *role = tree_text(object, "roleRef.name");
    char anonymous[MESSAGE_MAX] = "", admins[MESSAGE_MAX] = "";
    const cJSON *at;
    if (!role || is_bootstrap(object))
        return;
    cJSON_ArrayForEach(at, member(object, "subjects"))
    {
        const char *name = tree_text(at, "name");
        if (!name)
            continue;
        if (strcmp(name, "system:anonymous") == 0 || strcmp(name, "system:unauthenticated") == 0)
            list_add(anonymous, name);
        else if (strcmp(role, "cluster-admin") == 0 && strcmp(name, "system:masters") != 0)
            list_add(admins, name);
    }
    if (*anonymous)
        report(l, "anonymous_rbac", "CRITICAL", "Anyone has a role", NULL, anonymous);
    if (*admins)
        report(l, "cluster_admin_binding", "HIGH", "Bound to cluster-admin", NULL, admins);
}

void k8s_check(const char *kind, const cJSON *object, k8s_finding_fn *fn, void *arg)
{
    struct look l = {k8s_pod_spec(kind, object), fn, arg};
    if (l.pod && !is_made_by_workload(object))
        check_pod(&l);
    else if (strcmp(kind, "Service") == 0)
        check_service(&l, object);
    else if (strcmp(kind, "Role") == 0 || strcmp(kind, "ClusterRole") == 0)
        check_role(&l, object);
    else if (strcmp(kind, "RoleBinding") == 0 || strcmp(kind, "ClusterRoleBinding") == 0)
        check_binding(&l, object);
}
