/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/scan_state.h"

#include "tasks/lib/mirror.h"

static const double look_every = 2;

int scan_state_set(struct scan_state *s, const bson_t *set)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER;
    doc_match_id(&filter, "_id", s->id);
    BCON_APPEND(&filter, "status", "{", "$ne", "CANCELLED", "}");
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    if (s->synced)
        mongo_touch(&update);
    int code = mongo_update(s->t, s->collection, &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    if (code < 0)
        return -1;
    s->cancelled = s->cancelled || code == 0;
    const bson_t *now = mongo_load(s->t, s->collection, s->label, s->id);
    return now ? mirror_to_unified_scan_results(s->t, now, s->type) : -1;
}

int scan_state_running(struct scan_state *s)
{
    bson_t set = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&set, "status", "RUNNING");
    BSON_APPEND_UTF8(&set, "task_id", cw_info(s->t)->id); /* the watchdog revokes it */
    BSON_APPEND_DATE_TIME(&set, "started_at", doc_now());
    BSON_APPEND_NULL(&set, "error");
    int code = scan_state_set(s, &set);
    bson_destroy(&set);
    return code;
}

int scan_state_watch(struct scan_state *s, double seconds)
{
    if (seconds - s->looked_at < look_every)
        return 0;
    s->looked_at = seconds;
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "_id", s->id);
    BSON_APPEND_UTF8(&filter, "status", "CANCELLED");
    int64_t n = mongo_count(s->t, s->collection, &filter);
    bson_destroy(&filter);
    if (n <= 0)
        return 0; /* a store that does not answer now is met again at the end */
    s->cancelled = true;
    return cw_problem(s->t, false, "RuntimeError", "the scan was cancelled");
}
