/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/hybrid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Documents of the sources become records: what identifies the thing, and what is kept of it. */

enum { ADDRESSES = 16, NAMES = 8 };

struct names {
    const char *ips[ADDRESSES], *hostnames[NAMES], *macs[ADDRESSES];
    int n_ips, n_hostnames, n_macs;
};

void records_free(void *arg)
{
    struct records *r = arg;
    for (int i = 0; i < r->n; i++)
        bson_destroy(r->list[i].source);
    free(r->list);
    free(r->identities);
}

static int short_of_memory(struct records *r)
{
    return cw_problem(r->t, true, "MemoryError", "no memory for %d assets", r->n);
}

static int add_identity(struct records *r, enum identity_kind kind, const char *text)
{
    if (r->n_identities == r->identity_capacity) {
        size_t more = r->identity_capacity ? 2 * r->identity_capacity : 1024;
        struct identity *list = reallocarray(r->identities, more, sizeof *list);
        if (!list)
            return short_of_memory(r);
        r->identities = list;
        r->identity_capacity = more;
    }
    r->identities[r->n_identities++] = (struct identity){kind, text, r->n - 1};
    return 0;
}

static struct record *add_record(struct records *r, const bson_t *document)
{
    if (r->n == r->max) {
        cw_problem(r->t, false, "ValueError",
                   "the team has more than %d assets: raise CWORKER_HYBRID_MAX_ASSETS", r->max);
        return NULL;
    }
    if (r->n == r->capacity) {
        int more = r->capacity ? 2 * r->capacity : 256;
        struct record *list = reallocarray(r->list, (size_t)more, sizeof *list);
        if (!list) {
            short_of_memory(r);
            return NULL;
        }
        r->list = list;
        r->capacity = more;
    }
    struct record *record = &r->list[r->n++];
    *record = (struct record){bson_new(), doc_date(document, "first_seen", doc_now())};
    return record;
}

/* --- addresses and names --- */

static void add_name(cw_task *t, struct names *n, const char *text)
{
    char room[254];
    if (n->n_hostnames < NAMES && hostname_read(text, room))
        n->hostnames[n->n_hostnames++] = cw_printf(t, "%s", room);
}

static void add_ip(cw_task *t, struct names *n, const char *text)
{
    char room[46];
    if (n->n_ips < ADDRESSES && ip_read(text, room))
        n->ips[n->n_ips++] = cw_printf(t, "%s", room);
}

static void add_mac(cw_task *t, struct names *n, const char *text)
{
    char room[18];
    if (n->n_macs < ADDRESSES && mac_read(text, room))
        n->macs[n->n_macs++] = cw_printf(t, "%s", room);
}

static void each_text(cw_task *t, const bson_t *document, const char *field, struct names *n,
                      void (*fn)(cw_task *, struct names *, const char *))
{
    bson_iter_t at, list;
    if (doc_find(document, field, &at) && BSON_ITER_HOLDS_ARRAY(&at) &&
        bson_iter_recurse(&at, &list))
        for (const char *text; (text = doc_next_text(&list));)
            fn(t, n, text);
}

static void put_list(bson_t *to, const char *field, const char *const *texts, int n)
{
    bson_t list;
    BSON_APPEND_ARRAY_BEGIN(to, field, &list);
    for (int i = 0; i < n; i++) {
        char room[16];
        const char *index;
        bson_uint32_to_string((uint32_t)i, &index, room, sizeof room);
        doc_put(&list, index, texts[i], 253);
    }
    bson_append_array_end(to, &list);
}

/* An address and a name count together, each with each. */
static int add_names(struct records *r, struct record *record, const struct names *n)
{
    for (int i = 0; i < n->n_macs; i++)
        if (add_identity(r, IDENTITY_MAC, cw_printf(r->t, "mac:%s", n->macs[i])) < 0)
            return -1;
    for (int i = 0; i < n->n_ips; i++)
        for (int k = 0; k < n->n_hostnames; k++)
            if (add_identity(r, IDENTITY_HOST,
                             cw_printf(r->t, "host:%s|%s", n->ips[i], n->hostnames[k])) < 0)
                return -1;
    put_list(record->source, "ips", n->ips, n->n_ips);
    put_list(record->source, "macs", n->macs, n->n_macs);
    put_list(record->source, "hostnames", n->hostnames, n->n_hostnames);
    return 0;
}

static void copy_fields(bson_t *to, const bson_t *from, const char *const *fields)
{
    for (; *fields; fields++)
        doc_copy(to, *fields, from, *fields);
}

/* --- assets: cloud and on-prem --- */

/* "arn:aws:ec2:…:instance/i-0abc" tells the instance too. */
static const char *instance_of(const bson_t *document, const char *resource_id)
{
    const char *given = doc_text(document, "instance_id");
    const char *inside = strstr(resource_id, ":instance/");
    return given && *given ? given : inside ? inside + strlen(":instance/") : NULL;
}

/* projects/P/zones/Z/instances/N, wherever it stands in a self link. */
static const char *google_instance(cw_task *t, const char *link)
{
    const char *at = strstr(link, "projects/"), *zone = at ? strstr(at, "/zones/") : NULL;
    const char *name = zone ? strstr(zone, "/instances/") : NULL;
    if (!name)
        return NULL;
    at += strlen("projects/");
    const char *zone_name = zone + strlen("/zones/");
    return cw_printf(t, "gce:%.*s/%.*s/%s", (int)(zone - at), at, (int)(name - zone_name),
                     zone_name, name + strlen("/instances/"));
}

static char *lower(char *text)
{
    for (char *at = text; *at; at++)
        if (*at >= 'A' && *at <= 'Z')
            *at = (char)(*at | 32);
    return text;
}

/* Azure spells resource ids in either case. */
static int add_cloud(struct records *r, const bson_t *document, const char *provider,
                     const char *id)
{
    const char *instance = instance_of(document, id), *google = google_instance(r->t, id);
    if (google && add_identity(r, IDENTITY_INSTANCE, google) < 0)
        return -1;
    if (!google && instance &&
        add_identity(r, IDENTITY_INSTANCE, cw_printf(r->t, "instance:%.200s", instance)) < 0)
        return -1;
    const char *text = strncmp(id, "arn:", 4) == 0 ? cw_printf(r->t, "%s", id)
                                                   : lower(cw_printf(r->t, "%s:%s", provider, id));
    return add_identity(r, IDENTITY_CLOUD, text);
}

int record_of_asset(cw_task *t, const bson_t *document, void *arg)
{
    static const char *const kept[] = {"provider",   "resource_id", "resource_type",
                                       "name",       "state",       "region",
                                       "network_id", "instance_id", "cloud_account_id",
                                       "last_seen",  NULL};
    struct records *r = arg;
    const char *provider = doc_text(document, "provider"), *id = doc_text(document, "resource_id");
    const char *source = doc_text(document, "source");
    struct names names = {0};
    if (!provider || !id)
        return 0;
    struct record *record = add_record(r, document);
    if (!record)
        return -1;
    doc_put(record->source, "source", source ? source : "assets", 64);
    copy_fields(record->source, document, kept);
    each_text(t, document, "ips", &names, add_ip);
    each_text(t, document, "macs", &names, add_mac);
    each_text(t, document, "hostnames", &names, add_name);
    int code = strcmp(provider, "onprem") == 0
                   ? add_identity(r, IDENTITY_SELF, cw_printf(t, "onprem:%s", id))
                   : add_cloud(r, document, provider, id);
    return code < 0 ? -1 : add_names(r, record, &names);
}

/* --- Kubernetes --- */

/* spec.providerID: aws:///eu-west-1a/i-0abc, gce://project/zone/name, azure:///subscriptions/… */
static int add_provider_id(struct records *r, const char *id)
{
    const char *last = strrchr(id, '/');
    if (strncmp(id, "aws://", 6) == 0 && last[1])
        return add_identity(r, IDENTITY_INSTANCE, cw_printf(r->t, "instance:%.200s", last + 1));
    if (strncmp(id, "gce://", 6) == 0)
        return add_identity(r, IDENTITY_INSTANCE, cw_printf(r->t, "gce:%.500s", id + 6));
    if (strncmp(id, "azure://", 8) == 0)
        return add_identity(r, IDENTITY_CLOUD,
                            lower(cw_printf(r->t, "azure:%.1000s", id + 8)));
    return 0;
}

/* status.addresses of a node, status.loadBalancer.ingress of a service: both are lists of objects.
 */
static void add_addresses(cw_task *t, const bson_t *document, struct names *n)
{
    static const char *const paths[] = {"address", "ip", "hostname"};
    static const char *const lists[] = {"addresses", "load_balancer"};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < ADDRESSES; k++)
            for (int m = 0; m < 3; m++) {
                char path[64];
                snprintf(path, sizeof path, "%s.%d.%s", lists[i], k, paths[m]);
                const char *text = doc_text(document, path);
                int before = n->n_ips;
                if (!text)
                    continue;
                add_ip(t, n, text);
                if (n->n_ips == before)
                    add_name(t, n, text);
            }
}

int record_of_k8s(cw_task *t, const bson_t *document, void *arg)
{
    static const char *const kept[] = {"cluster_id", "uid",         "kind", "namespace",
                                       "name",       "provider_id", "last_seen", NULL};
    struct records *r = arg;
    const char *cluster = doc_text(document, "cluster_id"), *uid = doc_text(document, "uid");
    const char *provider = doc_text(document, "provider_id");
    struct names names = {0};
    if (!cluster || !uid)
        return 0;
    struct record *record = add_record(r, document);
    if (!record)
        return -1;
    BSON_APPEND_UTF8(record->source, "source", "kubernetes");
    copy_fields(record->source, document, kept);
    add_addresses(t, document, &names);
    if (add_identity(r, IDENTITY_K8S, cw_printf(t, "k8s:%s/%s", cluster, uid)) < 0 ||
        (provider && add_provider_id(r, provider) < 0))
        return -1;
    return add_names(r, record, &names);
}
