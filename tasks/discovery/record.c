/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/record.h"

#include <stdio.h>
#include <string.h>

/* Documents of the sources become records: what identifies the thing, told one by one, and what is
 * kept of it. Nothing is kept here, and whatever strangers wrote into a document, a record is
 * small. */

enum { ADDRESSES = 16, NAMES = 8, TEXT_MAX = 512 };

struct names {
    char ips[ADDRESSES][46], hostnames[NAMES][254], macs[ADDRESSES][18];
    int n_ips, n_hostnames, n_macs;
};

/* A text made for one call. */
static void tell(const struct record_reader *r, enum identity_kind kind, char *text)
{
    r->on_identity(kind, text, r->arg);
    bson_free(text);
}

/* --- addresses and names --- */

static void add_name(struct names *n, const char *text)
{
    if (n->n_hostnames < NAMES)
        n->n_hostnames += hostname_read(text, n->hostnames[n->n_hostnames]);
}

static void add_ip(struct names *n, const char *text)
{
    if (n->n_ips < ADDRESSES)
        n->n_ips += ip_read(text, n->ips[n->n_ips]);
}

static void add_mac(struct names *n, const char *text)
{
    if (n->n_macs < ADDRESSES)
        n->n_macs += mac_read(text, n->macs[n->n_macs]);
}

static void each_text(const bson_t *document, const char *field, struct names *n,
                      void (*fn)(struct names *, const char *))
{
    bson_iter_t at, list;
    if (doc_find(document, field, &at) && BSON_ITER_HOLDS_ARRAY(&at) &&
        bson_iter_recurse(&at, &list))
        for (const char *text; (text = doc_next_text(&list));)
            fn(n, text);
}

static void put_list(bson_t *to, const char *field, const char *texts, size_t width, int n)
{
    bson_t list;
    BSON_APPEND_ARRAY_BEGIN(to, field, &list);
    for (int i = 0; i < n; i++) {
        char room[16];
        const char *index;
        bson_uint32_to_string((uint32_t)i, &index, room, sizeof room);
        doc_put(&list, index, texts + (size_t)i * width, width);
    }
    bson_append_array_end(to, &list);
}

/* An address and a name count together, each with each. */
static void tell_names(const struct record_reader *r, const struct names *n)
{
    for (int i = 0; i < n->n_macs; i++)
        tell(r, IDENTITY_MAC, bson_strdup_printf("mac:%s", n->macs[i]));
    for (int i = 0; i < n->n_ips; i++)
        for (int k = 0; k < n->n_hostnames; k++)
            tell(r, IDENTITY_HOST, bson_strdup_printf("host:%s|%s", n->ips[i], n->hostnames[k]));
    if (!r->source)
        return;
    put_list(r->source, "ips", n->ips[0], sizeof n->ips[0], n->n_ips);
    put_list(r->source, "macs", n->macs[0], sizeof n->macs[0], n->n_macs);
    put_list(r->source, "hostnames", n->hostnames[0], sizeof n->hostnames[0], n->n_hostnames);
}

/* Texts are cut; of other types only those that are small pass. */
static void copy_fields(const struct record_reader *r, const bson_t *from,
                        const char *const *fields)
{
    for (; r->source && *fields; fields++) {
        bson_iter_t at;
        if (!doc_find(from, *fields, &at))
            continue;
        if (BSON_ITER_HOLDS_UTF8(&at))
            doc_put(r->source, *fields, bson_iter_utf8(&at, NULL), TEXT_MAX);
        else if (BSON_ITER_HOLDS_DATE_TIME(&at) || BSON_ITER_HOLDS_OID(&at) ||
                 BSON_ITER_HOLDS_NUMBER(&at))
            bson_append_iter(r->source, *fields, -1, &at);
    }
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
static char *google_instance(const char *link)
{
    const char *at = strstr(link, "projects/"), *zone = at ? strstr(at, "/zones/") : NULL;
    const char *name = zone ? strstr(zone, "/instances/") : NULL;
    if (!name)
        return NULL;
    at += strlen("projects/");
    const char *zone_name = zone + strlen("/zones/");
    return bson_strdup_printf("gce:%.*s/%.*s/%s", (int)(zone - at), at, (int)(name - zone_name),
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
static void tell_cloud(const struct record_reader *r, const bson_t *document, const char *provider,
                       const char *id)
{
    const char *instance = instance_of(document, id);
    char *google = google_instance(id);
    if (google)
        tell(r, IDENTITY_INSTANCE, google);
    else if (instance)
        tell(r, IDENTITY_INSTANCE, bson_strdup_printf("instance:%.200s", instance));
    tell(r, IDENTITY_CLOUD,
         strncmp(id, "arn:", 4) == 0 ? bson_strdup(id)
                                     : lower(bson_strdup_printf("%s:%s", provider, id)));
}

bool record_of_asset(const bson_t *document, const struct record_reader *r)
{
    static const char *const kept[] = {"provider",   "resource_id", "resource_type",
                                       "name",       "state",       "region",
                                       "network_id", "instance_id", "cloud_account_id",
                                       "last_seen",  NULL};
    const char *provider = doc_text(document, "provider"), *id = doc_text(document, "resource_id");
    const char *source = doc_text(document, "source");
    struct names names;
    names.n_ips = names.n_hostnames = names.n_macs = 0;
    if (!provider || !id)
        return false;
    each_text(document, "ips", &names, add_ip);
    each_text(document, "macs", &names, add_mac);
    each_text(document, "hostnames", &names, add_name);
    if (r->source)
        doc_put(r->source, "source", source && *source ? source : "assets", 64);
    copy_fields(r, document, kept);
    if (strcmp(provider, "onprem") == 0)
        tell(r, IDENTITY_SELF, bson_strdup_printf("onprem:%s", id));
    else
        tell_cloud(r, document, provider, id);
    tell_names(r, &names);
    return true;
}

/* --- Kubernetes --- */

/* spec.providerID: aws:///eu-west-1a/i-0abc, gce://project/zone/name, azure:///subscriptions/… */
static void tell_provider_id(const struct record_reader *r, const char *id)
{
    const char *last = strrchr(id, '/');
    if (strncmp(id, "aws://", 6) == 0 && last[1])
        tell(r, IDENTITY_INSTANCE, bson_strdup_printf("instance:%.200s", last + 1));
    else if (strncmp(id, "gce://", 6) == 0)
        tell(r, IDENTITY_INSTANCE, bson_strdup_printf("gce:%.500s", id + 6));
    else if (strncmp(id, "azure://", 8) == 0)
        tell(r, IDENTITY_CLOUD, lower(bson_strdup_printf("azure:%.1000s", id + 8)));
}

/* status.addresses of a node, status.loadBalancer.ingress of a service: both are lists of objects.
 */
static void add_addresses(const bson_t *document, struct names *n)
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
                add_ip(n, text);
                if (n->n_ips == before)
                    add_name(n, text);
            }
}

bool record_of_k8s(const bson_t *document, const struct record_reader *r)
{
    static const char *const kept[] = {"cluster_id", "uid",         "kind", "namespace",
                                       "name",       "provider_id", "last_seen", NULL};
    const char *cluster = doc_text(document, "cluster_id"), *uid = doc_text(document, "uid");
    const char *provider = doc_text(document, "provider_id");
    struct names names;
    names.n_ips = names.n_hostnames = names.n_macs = 0;
    if (!cluster || !uid)
        return false;
    if (r->source)
        BSON_APPEND_UTF8(r->source, "source", "kubernetes");
    copy_fields(r, document, kept);
    add_addresses(document, &names);
    tell(r, IDENTITY_K8S, bson_strdup_printf("k8s:%s/%s", cluster, uid));
    if (provider)
        tell_provider_id(r, provider);
    tell_names(r, &names);
    return true;
}
