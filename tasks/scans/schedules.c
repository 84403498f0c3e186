/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/scans.h"

#include "tasks/lib/mongo.h"

#include <string.h>
#include <strings.h>

/* run_scheduled_scans: due scan_schedules become ScanRuns. The run's id is made of the schedule and
 * the time it was due, and next_run_at moves by compare-and-set: two runners, or one that is killed
 * anywhere, make one run. A run that was made but whose message was lost with a killed runner is
 * sent again when it is still PENDING after some minutes; execute_cloud_scan claims it once. */

enum { SEND_AGAIN_MS = 10 * 60 * 1000 };

struct schedules {
    cw_task *t;
    int64_t now;
    int started, skipped, waiting, sent_again;
};

static int send_run(struct schedules *s, const char *run_id)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(run_id));
    return cw_send(s->t, (struct cw_send){.task = "scans.execute_cloud_scan", .args = args}, NULL);
}

/* --- what a schedule says --- */

enum overlap { SKIP, QUEUE, ALLOW, CANCEL };

static enum overlap overlap_of(const bson_t *schedule)
{
    const char *text = doc_text(schedule, "overlap");
    if (text && strcasecmp(text, "QUEUE") == 0)
        return QUEUE;
    if (text && strcasecmp(text, "ALLOW") == 0)
        return ALLOW;
    return text && strcasecmp(text, "CANCEL") == 0 ? CANCEL : SKIP;
}

static void match_unfinished(bson_t *filter, const char *schedule_id)
{
    BSON_APPEND_UTF8(filter, "schedule_id", schedule_id);
    BCON_APPEND(filter, "status", "{", "$in", "[", "PENDING", "RUNNING", "]", "}");
}

/* --- its steps --- */

/* 1 moved by us, 0 somebody else was first. Without an interval it runs only once. */
static int advance(struct schedules *s, const bson_t *schedule, int64_t due, const char *run_id)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    int64_t step = doc_int(schedule, "interval_seconds", 0) * 1000;
    doc_copy(&filter, "_id", schedule, "_id");
    BSON_APPEND_DATE_TIME(&filter, "next_run_at", due);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    if (step > 0)
        BSON_APPEND_DATE_TIME(&set, "next_run_at", due + ((s->now - due) / step + 1) * step);
    else
        BSON_APPEND_NULL(&set, "next_run_at");
    if (run_id) {
        BSON_APPEND_DATE_TIME(&set, "last_run_at", s->now);
        BSON_APPEND_UTF8(&set, "last_run_id", run_id);
    }
    bson_append_document_end(&update, &set);
    int code = mongo_update(s->t, "scan_schedules", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code;
}

static int make_run(struct schedules *s, const bson_t *schedule, const char *schedule_id,
                    const char *run_id)
{
    static const char *const fields[] = {"team_id", "cloud_account_id", "provider", "regions",
                                         "frameworks"};
    bson_t run = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&run, "_id", run_id);
    BSON_APPEND_UTF8(&run, "schedule_id", schedule_id);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        doc_copy(&run, fields[i], schedule, fields[i]);
    BSON_APPEND_UTF8(&run, "status", "PENDING");
    BSON_APPEND_DATE_TIME(&run, "created_at", s->now);
    BSON_APPEND_DATE_TIME(&run, "sent_at", s->now);
    int code = mongo_insert(s->t, "scan_runs", &run);
    bson_destroy(&run);
    return code;
}

static int cancel_others(struct schedules *s, const char *schedule_id)
{
    bson_t filter = BSON_INITIALIZER;
    match_unfinished(&filter, schedule_id);
    bson_t *update = BCON_NEW("$set", "{", "status", "CANCELLED", "error",
                              "replaced by the next run of its schedule", "finished_at",
                              BCON_DATE_TIME(s->now), "}");
    int64_t n = mongo_update_many(s->t, "scan_runs", &filter, update);
    bson_destroy(&filter);
    bson_destroy(update);
    return n < 0 ? -1 : 0;
}

static int64_t count_unfinished(struct schedules *s, const char *schedule_id, const char *run_id)
{
    bson_t filter = BSON_INITIALIZER;
    match_unfinished(&filter, schedule_id);
    BCON_APPEND(&filter, "_id", "{", "$ne", BCON_UTF8(run_id), "}");
    int64_t n = mongo_count(s->t, "scan_runs", &filter);
    bson_destroy(&filter);
    return n;
}

static int start(struct schedules *s, const bson_t *schedule, const char *schedule_id,
                 const char *run_id, int64_t due)
{
    if (overlap_of(schedule) == CANCEL && cancel_others(s, schedule_id) < 0)
        return -1;
    if (make_run(s, schedule, schedule_id, run_id) < 0)
        return -1;
    int moved = advance(s, schedule, due, run_id);
    if (moved <= 0)
        return moved;
    s->started++;
    return send_run(s, run_id);
}

static int on_schedule(cw_task *t, const bson_t *schedule, void *arg)
{
    struct schedules *s = arg;
    char room[25];
    const char *id = doc_id(schedule, "_id", room);
    int64_t due = doc_date(schedule, "next_run_at", 0);
    if (!id)
        return 0;
    const char *run_id = cw_printf(t, "%s@%lld", id, (long long)(due / 1000));
    enum overlap overlap = overlap_of(schedule);
    int64_t busy = overlap == SKIP || overlap == QUEUE ? count_unfinished(s, id, run_id) : 0;
    if (busy < 0)
        return -1;
    if (busy && overlap == QUEUE) {
        s->waiting++;
        return 0;
    }
    if (busy) {
        s->skipped++;
        return advance(s, schedule, due, NULL) < 0 ? -1 : 0;
    }
    return start(s, schedule, id, run_id, due);
}

/* --- messages that were lost --- */

static int on_unsent(cw_task *t, const bson_t *run, void *arg)
{
    struct schedules *s = arg;
    const char *id = doc_text(run, "_id");
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "_id", run, "_id");
    doc_copy(&filter, "sent_at", run, "sent_at");
    bson_t *update = BCON_NEW("$set", "{", "sent_at", BCON_DATE_TIME(s->now), "}");
    int ours = id ? mongo_update(t, "scan_runs", &filter, update, false) : 0;
    bson_destroy(&filter);
    bson_destroy(update);
    if (ours <= 0)
        return ours;
    s->sent_again++;
    return send_run(s, id);
}

cw_outcome run_scheduled_scans(cw_task *t)
{
    struct schedules s = {.t = t, .now = doc_now()};
    bson_t *due = BCON_NEW("enabled", "{", "$ne", BCON_BOOL(false), "}", "next_run_at", "{", "$lte",
                           BCON_DATE_TIME(s.now), "}");
    bson_t *unsent =
        BCON_NEW("status", "PENDING", "schedule_id", "{", "$exists", BCON_BOOL(true), "}",
                 "sent_at", "{", "$lt", BCON_DATE_TIME(s.now - SEND_AGAIN_MS), "}");
    int code = mongo_each(t, "scan_schedules", due, NULL, on_schedule, &s);
    if (code >= 0)
        code = mongo_each(t, "scan_runs", unsent, NULL, on_unsent, &s);
    bson_destroy(due);
    bson_destroy(unsent);
    if (code < 0)
        return cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "started", s.started);
    cJSON_AddNumberToObject(result, "skipped", s.skipped);
    cJSON_AddNumberToObject(result, "waiting", s.waiting);
    cJSON_AddNumberToObject(result, "sent_again", s.sent_again);
    return cw_return(t, result);
}
