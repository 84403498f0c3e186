/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/scan_state.h"

#include "tasks/lib/cancel.h"
#include "tasks/lib/mirror.h"

#include <string.h>

/* Every step is a compare-and-set: the first one from (status, task_id) as they were loaded, later
 * ones from our task_id. A kill -9 between a step and its mirror is made good by the same task, come
 * back, which mirrors the next step, or the end that it finds. */

static void match_ours(const struct scan_state *s, bson_t *filter)
{
    doc_match_id(filter, "_id", s->id);
    if (!s->claimed) {
        doc_match(filter, "status", s->document);
        doc_match(filter, "task_id", s->document);
        return;
    }
    BCON_APPEND(filter, "status", "{", "$ne", "CANCELLED", "}", "task_id",
                BCON_UTF8(cw_info(s->t)->id));
}

int scan_state_set(struct scan_state *s, const bson_t *set)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER;
    match_ours(s, &filter);
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    if (s->synced)
        mongo_touch(&update);
    int code = mongo_update(s->t, s->collection, &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    if (code < 0)
        return -1;
    const bson_t *now = mongo_load(s->t, s->collection, s->label, s->id);
    if (!now)
        return -1;
    const char *status = doc_text(now, "status");
    if (code == 0)
        s->ended = status ? status : "UNKNOWN";
    return mirror_to_unified_scan_results(s->t, s->collection, now, s->type);
}

/* A task that was killed comes back under its id; one that ended without a word left its result. */
static bool is_at_work(struct scan_state *s)
{
    const char *status = doc_text(s->document, "status"), *by = doc_text(s->document, "task_id");
    if (!status || !by || strcmp(status, "RUNNING") != 0 || strcmp(by, cw_info(s->t)->id) == 0)
        return false;
    const char *state = tree_text(cw_result(s->t, by, NULL), "status");
    return state && strcmp(state, "SUCCESS") != 0 && strcmp(state, "FAILURE") != 0 &&
           strcmp(state, "REVOKED") != 0;
}

int scan_state_running(struct scan_state *s)
{
    if (is_at_work(s)) {
        s->ended = "RUNNING";
        return 0;
    }
    bson_t set = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&set, "status", "RUNNING");
    BSON_APPEND_UTF8(&set, "task_id", cw_info(s->t)->id); /* the watchdog revokes it */
    BSON_APPEND_DATE_TIME(&set, "started_at", doc_now());
    BSON_APPEND_NULL(&set, "finished_at"); /* of a former attempt */
    BSON_APPEND_NULL(&set, "error");
    int code = scan_state_set(s, &set);
    bson_destroy(&set);
    s->claimed = code == 0 && !s->ended;
    return code;
}

int scan_state_watch(struct scan_state *s, double seconds)
{
    if (!cancel_is_asked(s->t, s->collection, s->id, seconds, &s->looked_at))
        return 0;
    s->ended = "CANCELLED";
    return cw_problem(s->t, false, "RuntimeError", "the scan was cancelled");
}
