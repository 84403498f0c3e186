/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/compliance/ocsf.h"

#include "tasks/lib/severity.h"

#include <string.h>

/* OCSF 1.5 detection findings as prowler writes them. `status` there is the life of the record
 * ("New", or "Suppressed" by a mute list); what the check said is `status_code`. The names of
 * frameworks hold dots and so cannot be names of fields: the map becomes a list. */

enum { SHORT = 512, LONG = 8 << 10, MAX_FRAMEWORKS = 200, MAX_REQUIREMENTS = 500 };

const char *ocsf_read(const cJSON *element, struct ocsf_finding *ret)
{
    *ret = (struct ocsf_finding){
        .uid = tree_text(element, "finding_info.uid"),
        .check = tree_text(element, "metadata.event_code"),
        .status = tree_text(element, "status_code"),
        .severity = severity_name(tree_text(element, "severity")),
        .resource = tree_text(element, "resources.0.uid"),
        .tree = element,
    };
    ret->resource = ret->resource ? ret->resource : "";
    if (!cJSON_IsObject(element))
        return "an element is not an object";
    if (!ret->uid || !*ret->uid || strlen(ret->uid) > 1000)
        return "a finding has no finding_info.uid";
    if (!ret->check || !*ret->check)
        return "a finding has no metadata.event_code";
    ret->muted = ret->status && strcmp(ret->status, "MUTED") == 0;
    if (ret->muted) /* what it was before is not told */
        ret->status = "FAIL";
    if (!ret->status || (strcmp(ret->status, "FAIL") != 0 && strcmp(ret->status, "PASS") != 0 &&
                         strcmp(ret->status, "MANUAL") != 0))
        return "a finding's status_code is none of FAIL, PASS and MANUAL";
    return NULL;
}

static void put_requirements(bson_t *entry, const cJSON *list)
{
    bson_t requirements;
    char room[16];
    const char *name;
    uint32_t n = 0;
    BSON_APPEND_ARRAY_BEGIN(entry, "requirements", &requirements);
    for (const cJSON *at = cJSON_IsArray(list) ? list->child : NULL; at && n < MAX_REQUIREMENTS;
         at = at->next) {
        bson_uint32_to_string(n, &name, room, sizeof room);
        if (cJSON_IsString(at) && *at->valuestring) {
            doc_put(&requirements, name, at->valuestring, SHORT);
            n++;
        }
    }
    bson_append_array_end(entry, &requirements);
}

static void put_compliance(bson_t *set, const cJSON *map)
{
    bson_t list, entry;
    char room[16];
    const char *name;
    uint32_t n = 0;
    BSON_APPEND_ARRAY_BEGIN(set, "compliance", &list);
    for (const cJSON *at = cJSON_IsObject(map) ? map->child : NULL; at && n < MAX_FRAMEWORKS;
         at = at->next) {
        bson_uint32_to_string(n++, &name, room, sizeof room);
        BSON_APPEND_DOCUMENT_BEGIN(&list, name, &entry);
        doc_put(&entry, "framework", at->string, SHORT);
        put_requirements(&entry, at);
        bson_append_document_end(&list, &entry);
    }
    bson_append_array_end(set, &list);
}

static void put_at(bson_t *set, const char *field, const struct ocsf_finding *f, const char *path,
                   size_t max)
{
    doc_put(set, field, tree_text(f->tree, path), max);
}

void ocsf_fields(const struct ocsf_finding *f, bson_t *set)
{
    const char *life = tree_text(f->tree, "status");
    BSON_APPEND_UTF8(set, "status", f->status);
    BSON_APPEND_UTF8(set, "severity", f->severity);
    BSON_APPEND_BOOL(set, "muted", f->muted || (life && strcmp(life, "Suppressed") == 0));
    doc_put(set, "check_id", f->check, SHORT);
    put_at(set, "title", f, "finding_info.title", SHORT);
    put_at(set, "description", f, "finding_info.desc", LONG);
    put_at(set, "message", f, "message", LONG);
    put_at(set, "risk", f, "risk_details", LONG);
    put_at(set, "remediation", f, "remediation.desc", LONG);
    /* Those of a cluster have no `cloud`. */
    bool cloud = cJSON_IsObject(tree_at(f->tree, "cloud"));
    put_at(set, "provider", f, cloud ? "cloud.provider" : "unmapped.provider", SHORT);
    put_at(set, "account_id", f, cloud ? "cloud.account.uid" : "unmapped.provider_uid", SHORT);
    put_at(set, "region", f, "cloud.region", SHORT);
    put_at(set, "namespace", f, "resources.0.namespace", SHORT);
    put_at(set, "resource_name", f, "resources.0.name", SHORT);
    put_at(set, "resource_type", f, "resources.0.type", SHORT);
    put_at(set, "service", f, "resources.0.group.name", SHORT);
    put_compliance(set, tree_at(f->tree, "unmapped.compliance"));
    doc_put_tree(set, "categories", tree_at(f->tree, "unmapped.categories"));
}
