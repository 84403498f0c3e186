/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/scans.h"
#include "tasks/scans/schedule.h"

#include <string.h>

/* run_scheduled_scans: due scan_schedules become ScanRuns. The run's id is made of the schedule and
 * the time it was due, and next_run_at moves by compare-and-set: two runners, or one that is killed
 * anywhere, make one run. Turns that were missed while nobody ran become one.
 *
 * | step | a kill -9 right after it leaves |
 * | the run is made | next_run_at as it was: the next runner finds the run, and goes on |
 * | former runs are cancelled (CANCEL_PREVIOUS) | the same |
 * | next_run_at moves, with who moved it | the run PENDING, its message not sent: the same delivery,
 *   come back, sends it; should that be lost too, any runner does after ten minutes;
 *   execute_cloud_scan claims it once | */

enum { SEND_AGAIN_MS = 10 * 60 * 1000 };

struct schedules {
    cw_task *t;
    int64_t now;
    struct zones *zones;
    int started, skipped, waiting, sent_again, invalid;
};

static int send_run(struct schedules *s, const char *run_id)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(run_id));
    return cw_send(s->t, (struct cw_send){.task = "scans.execute_cloud_scan", .args = args}, NULL);
}

/* --- the steps of one schedule --- */

static void match_unfinished(bson_t *filter, const char *schedule_id)
{
    BSON_APPEND_UTF8(filter, "schedule_id", schedule_id);
    BCON_APPEND(filter, "status", "{", "$in", "[", "PENDING", "RUNNING", "]", "}");
}

/* 1 moved by us, 0 somebody else was first. */
static int advance(struct schedules *s, const struct schedule *schedule, const char *run_id)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    int64_t next = schedule_next(schedule, s->now);
    doc_copy(&filter, "_id", schedule->document, "_id");
    if (schedule->due < 0)
        BSON_APPEND_NULL(&filter, "next_run_at"); /* or absent */
    else
        BSON_APPEND_DATE_TIME(&filter, "next_run_at", schedule->due);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    if (next >= 0)
        BSON_APPEND_DATE_TIME(&set, "next_run_at", next);
    else
        BSON_APPEND_NULL(&set, "next_run_at");
    if (run_id) {
        BSON_APPEND_DATE_TIME(&set, "last_run_at", s->now);
        BSON_APPEND_UTF8(&set, "last_run_id", run_id);
        BSON_APPEND_UTF8(&set, "last_run_by", cw_info(s->t)->id);
    }
    BSON_APPEND_NULL(&set, "error");
    bson_append_document_end(&update, &set);
    int code = mongo_update(s->t, "scan_schedules", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code;
}

/* 1 made, 0 it is there. */
static int make_run(struct schedules *s, const struct schedule *schedule, const char *run_id)
{
    static const char *const fields[] = {"team_id", "cloud_account_id", "provider", "regions",
                                         "frameworks"};
    bson_t run = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&run, "_id", run_id);
    BSON_APPEND_UTF8(&run, "schedule_id", schedule->id);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        doc_copy(&run, fields[i], schedule->document, fields[i]);
    BSON_APPEND_UTF8(&run, "status", "PENDING");
    BSON_APPEND_DATE_TIME(&run, "due_at", schedule->due);
    BSON_APPEND_DATE_TIME(&run, "created_at", s->now);
    BSON_APPEND_DATE_TIME(&run, "sent_at", s->now);
    BSON_APPEND_UTF8(&run, "sent_by", cw_info(s->t)->id);
    int code = mongo_insert(s->t, "scan_runs", &run);
    bson_destroy(&run);
    return code;
}

/* Those of earlier turns only: another runner may be ahead of us. */
static int cancel_former(struct schedules *s, const struct schedule *schedule, const char *run_id)
{
    bson_t filter = BSON_INITIALIZER;
    match_unfinished(&filter, schedule->id);
    BCON_APPEND(&filter, "_id", "{", "$ne", BCON_UTF8(run_id), "}", "due_at", "{", "$not", "{",
                "$gt", BCON_DATE_TIME(schedule->due), "}", "}");
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

/* Our view of the schedule was old: another runner has dealt with this turn. If it did not take
 * the run that we made, it has skipped the turn. */
static int take_back(struct schedules *s, const struct schedule *schedule, const char *run_id)
{
    const bson_t *now = NULL;
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "_id", schedule->document, "_id");
    int found = mongo_find(s->t, "scan_schedules", &filter, NULL, &now);
    bson_destroy(&filter);
    const char *last = found == 1 ? doc_text(now, "last_run_id") : NULL;
    if (found < 0 || (last && strcmp(last, run_id) == 0))
        return found < 0 ? -1 : 0;
    bson_t *run = BCON_NEW("_id", BCON_UTF8(run_id), "status", "PENDING");
    int64_t removed = mongo_remove_many(s->t, "scan_runs", run);
    bson_destroy(run);
    return removed < 0 ? -1 : 0;
}

static int start(struct schedules *s, const struct schedule *schedule, const char *run_id)
{
    int made = make_run(s, schedule, run_id);
    if (made < 0 || (schedule->overlap == OVERLAP_CANCEL && cancel_former(s, schedule, run_id) < 0))
        return -1;
    int moved = advance(s, schedule, run_id);
    if (moved == 0 && made)
        return take_back(s, schedule, run_id);
    if (moved <= 0)
        return moved;
    s->started++;
    return send_run(s, run_id);
}

static int turn(struct schedules *s, const struct schedule *schedule)
{
    const char *run_id =
        cw_printf(s->t, "%s@%lld", schedule->id, (long long)(schedule->due / 1000));
    bool alone = schedule->overlap == OVERLAP_SKIP || schedule->overlap == OVERLAP_QUEUE;
    int64_t busy = alone ? count_unfinished(s, schedule->id, run_id) : 0;
    if (busy < 0)
        return -1;
    if (busy && schedule->overlap == OVERLAP_QUEUE) {
        s->waiting++;
        return 0;
    }
    if (busy) {
        s->skipped++;
        return advance(s, schedule, NULL) < 0 ? -1 : 0;
    }
    return start(s, schedule, run_id);
}

/* One that is wrong says so in its document and harms no other. */
static int refuse(struct schedules *s, const bson_t *document)
{
    bool transient;
    const char *why = cw_problem_text(s->t, &transient), *told = doc_text(document, "error");
    s->invalid++;
    if (!why || (told && strcmp(told, why) == 0))
        return 0;
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    doc_copy(&filter, "_id", document, "_id");
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    doc_put(&set, "error", why, 4000);
    bson_append_document_end(&update, &set);
    cw_log(s->t, CW_WARNING, "a scan schedule is not understood: %s", why);
    int code = mongo_update(s->t, "scan_schedules", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code < 0 ? -1 : 0;
}

static int on_schedule(cw_task *t, const bson_t *document, void *arg)
{
    struct schedules *s = arg;
    struct schedule schedule;
    if (schedule_read(t, s->zones, document, &schedule) < 0)
        return refuse(s, document);
    if (schedule.due >= 0) /* it may have moved since the store chose it */
        return schedule.due <= s->now ? turn(s, &schedule) : 0;
    return advance(s, &schedule, NULL) < 0 ? -1 : 0;
}

/* --- messages that were lost --- */

static int on_unsent(cw_task *t, const bson_t *run, void *arg)
{
    struct schedules *s = arg;
    const char *id = doc_text(run, "_id");
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "_id", run, "_id");
    doc_copy(&filter, "sent_at", run, "sent_at");
    BSON_APPEND_UTF8(&filter, "status", "PENDING");
    bson_t *update = BCON_NEW("$set", "{", "sent_at", BCON_DATE_TIME(s->now), "sent_by",
                              BCON_UTF8(cw_info(t)->id), "}");
    int ours = id ? mongo_update(t, "scan_runs", &filter, update, false) : 0;
    bson_destroy(&filter);
    bson_destroy(update);
    if (ours <= 0)
        return ours;
    s->sent_again++;
    return send_run(s, id);
}

/* A schedule that this very delivery moved before it died, with a run that another runner had made. */
static int on_moved(cw_task *t, const bson_t *schedule, void *arg)
{
    const bson_t *run = NULL;
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "_id", schedule, "last_run_id");
    BCON_APPEND(&filter, "status", "PENDING", "sent_by", "{", "$ne", BCON_UTF8(cw_info(t)->id), "}");
    int found = mongo_find(t, "scan_runs", &filter, NULL, &run);
    bson_destroy(&filter);
    return found > 0 ? on_unsent(t, run, arg) : found;
}

/* What this very delivery was to send before it died, and what has waited for too long. */
static int send_lost(struct schedules *s)
{
    bson_t *moved = BCON_NEW("last_run_by", BCON_UTF8(cw_info(s->t)->id));
    bson_t *lost = BCON_NEW("status", "PENDING", "schedule_id", "{", "$exists", BCON_BOOL(true), "}",
                            "$or", "[", "{", "sent_by", BCON_UTF8(cw_info(s->t)->id), "}", "{",
                            "sent_at", "{", "$lt", BCON_DATE_TIME(s->now - SEND_AGAIN_MS), "}", "}",
                            "]");
    int code = mongo_each(s->t, "scan_runs", lost, NULL, on_unsent, s);
    if (code == 0)
        code = mongo_each(s->t, "scan_schedules", moved, NULL, on_moved, s);
    bson_destroy(lost);
    bson_destroy(moved);
    return code;
}

/* --- the whole --- */

/* Due; or by cron and not worked out yet; or of a type that can never be due. */
static int each_due(struct schedules *s)
{
    bson_t *due = BCON_NEW(
        "enabled", "{", "$ne", BCON_BOOL(false), "}", "$or", "[",
        "{", "next_run_at", "{", "$lte", BCON_DATE_TIME(s->now), "}", "}",
        "{", "next_run_at", BCON_NULL, "cron", "{", "$exists", BCON_BOOL(true), "}", "}",
        "{", "next_run_at", "{", "$type", "string", "}", "}",
        "{", "next_run_at", "{", "$type", "number", "}", "}",
        "{", "next_run_at", "{", "$type", "bool", "}", "}",
        "{", "next_run_at", "{", "$type", "object", "}", "}",
        "{", "next_run_at", "{", "$type", "timestamp", "}", "}", "]");
    int code = mongo_each(s->t, "scan_schedules", due, NULL, on_schedule, s);
    bson_destroy(due);
    return code;
}

cw_outcome run_scheduled_scans(cw_task *t)
{
    struct schedules s = {.t = t, .now = doc_now(), .zones = zones_open(t)};
    if (send_lost(&s) < 0 || each_due(&s) < 0)
        return cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "started", s.started);
    cJSON_AddNumberToObject(result, "skipped", s.skipped);
    cJSON_AddNumberToObject(result, "waiting", s.waiting);
    cJSON_AddNumberToObject(result, "sent_again", s.sent_again);
    cJSON_AddNumberToObject(result, "invalid", s.invalid);
    return cw_return(t, result);
}
