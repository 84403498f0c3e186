/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/threat_feeds/feed.h"

#include <string.h>

/* cleanup_old_indicators: what has run out, and what nobody has told of for max_age_days, goes,
 * some at a time. Each step removes documents by a date of their own, so it can end anywhere and be
 * run again. */

enum { BATCH = 1000 };

struct batch {
    bson_t *ids;
    uint32_t n;
};

static int keep_id(cw_task *t, const bson_t *document, void *arg)
{
    struct batch *b = arg;
    char room[16];
    const char *name;
    (void)t;
    bson_uint32_to_string(b->n++, &name, room, sizeof room);
    doc_copy(b->ids, name, document, "_id");
    return 0;
}

/* The date is asked for again: one that a feed has just told of stays. */
static int64_t remove_batch(cw_task *t, const bson_t *old)
{
    struct batch b = {.ids = bson_new()};
    bson_t *opts =
        BCON_NEW("limit", BCON_INT64(BATCH), "projection", "{", "_id", BCON_INT32(1), "}");
    int64_t n = mongo_each(t, "threat_indicators", old, opts, keep_id, &b);
    if (n == 0 && b.n) {
        bson_t filter = BSON_INITIALIZER, in;
        bson_concat(&filter, old);
        BSON_APPEND_DOCUMENT_BEGIN(&filter, "_id", &in);
        BSON_APPEND_ARRAY(&in, "$in", b.ids);
        bson_append_document_end(&filter, &in);
        n = mongo_remove_many(t, "threat_indicators", &filter);
        bson_destroy(&filter);
    }
    bson_destroy(opts);
    bson_destroy(b.ids);
    return n;
}

static int progress(cw_task *t, const char *field, int64_t removed)
{
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "by", field);
    cJSON_AddNumberToObject(meta, "removed", (double)removed);
    return cw_progress(t, meta);
}

static int64_t remove_older(cw_task *t, const char *field, int64_t date)
{
    bson_t *old = BCON_NEW(field, "{", "$lt", BCON_DATE_TIME(date), "}");
    int64_t removed = 0, n;
    do {
        n = cw_sleep(t, 0) < 0 ? -1 : remove_batch(t, old);
        removed += n > 0 ? n : 0;
    } while (n > 0 && progress(t, field, removed) == 0);
    bson_destroy(old);
    return n < 0 ? -1 : removed;
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
        return cw_stopping(t) != CW_GO ? cw_stopped(t) : cw_fail(t);
    cJSON *value = cJSON_CreateObject();
    cJSON_AddNumberToObject(value, "expired", (double)expired);
    cJSON_AddNumberToObject(value, "old", (double)old);
    return cw_return(t, value);
}
