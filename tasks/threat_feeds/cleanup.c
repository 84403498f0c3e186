/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/threat_feeds/feed.h"

/* cleanup_old_indicators: what has run out, and what nobody has told of for max_age_days, goes. Each
 * step removes documents by a date of their own, so it can end anywhere and be run again. */

static int64_t remove_older(cw_task *t, const char *field, int64_t date)
{
    mongoc_collection_t *c = cw_collection(t, "threat_indicators");
    bson_error_t error;
    bson_t reply;
    if (!c)
        return -1;
    bson_t *filter = BCON_NEW(field, "{", "$lt", BCON_DATE_TIME(date), "}");
    bool good = mongoc_collection_delete_many(c, filter, NULL, &reply, &error);
    int64_t n = doc_int(&reply, "deletedCount", 0);
    bson_destroy(&reply);
    bson_destroy(filter);
    return good ? n : mongo_failed(t, "threat_indicators", &error);
}

cw_outcome cleanup_old_indicators(cw_task *t)
{
    int64_t days = cw_int(t, "max_age_days"), now = doc_now();
    if (days < 1 || days > 36500)
        return cw_raise(t, "ValueError", "max_age_days must be 1 to 36500, not %lld",
                        (long long)days);
    int64_t expired = remove_older(t, "expires_at", now);
    int64_t old = expired < 0 ? -1 : remove_older(t, "last_seen", now - days * 86400000);
    if (old < 0)
        return cw_fail(t);
    cJSON *value = cJSON_CreateObject();
    cJSON_AddNumberToObject(value, "expired", (double)expired);
    cJSON_AddNumberToObject(value, "old", (double)old);
    return cw_return(t, value);
}
