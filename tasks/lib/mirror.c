/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/mirror.h"

/* The mirror holds nothing of its own: a lost write is made good by the next one. */

int mirror_to_unified_scan_results(cw_task *t, const char *collection, const bson_t *scan,
                                   const char *scan_type)
{
    static const char *const fields[] = {
        "team_id",    "tenant_id",  "target",      "status",
        "provider",   "regions",    "frameworks",  "cloud_account_id",
        "created_at", "started_at", "finished_at", "summary",
        "error",      "errors"};
    char room[DOC_ID_SIZE];
    const char *id = doc_id(scan, "_id", room);
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, update = BSON_INITIALIZER;
    if (!id)
        return cw_problem(t, false, "ValueError",
                          "the scan's _id is neither text, ObjectId, number nor UUID");
    BSON_APPEND_UTF8(&key, "scan_id", id);
    BSON_APPEND_UTF8(&key, "collection", collection);
    BSON_APPEND_UTF8(&set, "scan_type", scan_type);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        doc_keep(&set, fields[i], scan, fields[i]);
    if (!bson_has_field(&set, "target"))
        doc_keep(&set, "target", scan, "image"); /* of a container scan */
    BSON_APPEND_DATE_TIME(&set, "mirrored_at", doc_now());
    BSON_APPEND_DOCUMENT(&update, "$set", &set);
    int code = mongo_update(t, "unified_scan_results", &key, &update, true);
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&update);
    return code < 0 ? -1 : 0;
}
