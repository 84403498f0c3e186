/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/sync/sync.h"

#include "tasks/lib/severity.h"

#include <stdio.h>
#include <string.h>

/* What findings of each kind are: which asset, which vulnerability, where. These three and the team
 * make the dedup_key, so a change here makes every occurrence a new one. */

enum { PLACE_MAX = 4096 };

/* The first of the fields that holds a text; with room, or another id. */
static const char *first_of(const bson_t *document, char *room, const char *const *fields)
{
    for (; *fields; fields++) {
        const char *text = room ? doc_id(document, *fields, room) : doc_text(document, *fields);
        if (text && *text)
            return text;
    }
    return NULL;
}
#define FIRST(document, ...) first_of(document, NULL, (const char *const[]){__VA_ARGS__, NULL})
#define FIRST_ID(document, room, ...)                                                              \
    first_of(document, room, (const char *const[]){__VA_ARGS__, NULL})

static const char *or_nothing(const char *text)
{
    return text ? text : "";
}

/* --- cspm_findings --- */

static int read_cspm(struct occurrences *o, const bson_t *d)
{
    char place[PLACE_MAX], room[DOC_ID_SIZE], account_room[DOC_ID_SIZE];
    struct finding f = {
        .open = finding_is_open(d),
        .asset = FIRST_ID(d, room, "resource_id", "resource_name", "resource", "uid"),
        .vulnerability = FIRST(d, "check_id", "check", "uid"),
        .title = FIRST(d, "title", "message"),
        .severity = severity_name(doc_text(d, "severity")),
        .first_seen = doc_date(d, "first_seen", 0),
    };
    const char *account =
        FIRST_ID(d, account_room, "account_id", "cloud_account_id", "account");
    snprintf(place, sizeof place, "%s/%s", or_nothing(account), or_nothing(doc_text(d, "region")));
    f.location = place;
    return occurrences_add(o, d, &f);
}

/* --- k8s_findings --- */

static int read_k8s(struct occurrences *o, const bson_t *d)
{
    char asset[PLACE_MAX], room[DOC_ID_SIZE];
    const char *cluster = doc_id(d, "cluster_id", room);
    struct finding f = {
        .open = finding_is_open(d),
        .asset = asset,
        .vulnerability = doc_text(d, "check_id"),
        .location = or_nothing(doc_text(d, "container")),
        .title = FIRST(d, "title", "message"),
        .severity = severity_name(doc_text(d, "severity")),
        .first_seen = doc_date(d, "first_seen", 0),
    };
    snprintf(asset, sizeof asset, "%s/%s/%s/%s", or_nothing(cluster),
             or_nothing(doc_text(d, "namespace")), or_nothing(doc_text(d, "kind")),
             or_nothing(doc_text(d, "name")));
    return occurrences_add(o, d, &f);
}

/* --- container_scans: one document is one image with all its vulnerabilities --- */

static int add_vulnerability(struct occurrences *o, const bson_t *scan, const char *image,
                             const bson_t *v)
{
    char place[PLACE_MAX];
    const char *purl = FIRST(v, "purl", "PkgIdentifier.PURL");
    struct finding f = {
        .open = true,
        .asset = image,
        .vulnerability = FIRST(v, "vulnerability_id", "VulnerabilityID", "id", "cve"),
        .location = purl,
        .title = FIRST(v, "title", "Title"),
        .severity = severity_name(FIRST(v, "severity", "Severity")),
    };
    if (!purl) {
        snprintf(place, sizeof place, "%s/%s@%s", or_nothing(FIRST(v, "target", "Target")),
                 or_nothing(FIRST(v, "package", "package_name", "pkg_name", "PkgName")),
                 or_nothing(FIRST(v, "installed_version", "version", "InstalledVersion")));
        f.location = place;
    }
    return occurrences_add(o, scan, &f);
}

static int read_container(struct occurrences *o, const bson_t *d)
{
    const char *image = FIRST(d, "image_digest", "digest", "artifact_digest", "image", "image_ref",
                              "artifact_name", "target");
    bson_iter_t at, list;
    if (!image || !doc_find(d, "vulnerabilities", &at) || !BSON_ITER_HOLDS_ARRAY(&at) ||
        !bson_iter_recurse(&at, &list))
        return 0;
    while (bson_iter_next(&list)) {
        uint32_t size;
        const uint8_t *data;
        bson_t v;
        if (!BSON_ITER_HOLDS_DOCUMENT(&list))
            continue;
        bson_iter_document(&list, &size, &data);
        if (bson_init_static(&v, data, size) && add_vulnerability(o, d, image, &v) < 0)
            return -1;
    }
    return 0;
}

const struct source sync_sources[] = {
    {"cspm", "cspm_findings", read_cspm, false, {"last_seen", "resolved_at", "updated_at"}},
    {"k8s", "k8s_findings", read_k8s, false, {"last_seen", "resolved_at", "updated_at"}},
    {"container", "container_scans", read_container, true, {"finished_at", "updated_at"}},
};
