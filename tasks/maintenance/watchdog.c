/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/date.h"
#include "tasks/lib/digest.h"
#include "tasks/lib/finding.h"
#include "tasks/lib/mirror.h"
#include "tasks/maintenance/maintenance.h"

#include <stdio.h>
#include <string.h>

/* run_data_sync_watchdog, first part: runs that are RUNNING for too long fail, their tasks are
 * revoked, and the mirror tells it. Second part: where a team's findings are newer than what was
 * made of them, the task that makes it is sent.
 *
 * A run is failed by compare-and-set on (status, started_at) and remembers the watchdog's task id:
 * revocations leave with this task's success, so a redelivered watchdog finds by that id what it
 * had failed before it was killed, and revokes again. What was sent is remembered in the same way.
 */

static const int64_t hour_ms = 3600000, grace_ms = 900000, again_ms = 6 * 3600000;

struct watchdog {
    cw_task *t;
    const char *id; /* of this task */
    int64_t now, hours, failed, sent;
    const char *collection;
    const char **ids; /* to be revoked */
    size_t n_ids, room;
};

/* --- stuck runs --- */

static void revoke_later(struct watchdog *w, const char *id)
{
    if (!id || !*id || strcmp(id, w->id) == 0)
        return;
    if (w->n_ids == w->room) {
        const char **more = cw_alloc(w->t, (w->room = 2 * w->room + 64) * sizeof *more);
        if (w->n_ids)
            memcpy(more, w->ids, w->n_ids * sizeof *more);
        w->ids = more;
    }
    w->ids[w->n_ids++] = cw_printf(w->t, "%s", id);
}

/* When the run began: a date, or what other programs write in its place (ISO 8601, seconds); else
 * when it was made. DATE_NONE: nobody knows. */
static int64_t began_at(const bson_t *run, const char *field)
{
    int64_t date = doc_date(run, field, DATE_NONE), seconds = doc_int(run, field, 0);
    if (date == DATE_NONE)
        date = date_read(doc_text(run, field));
    return date == DATE_NONE && seconds > 0 ? seconds * (seconds < 100000000000 ? 1000 : 1) : date;
}

static bool is_stuck(const struct watchdog *w, const bson_t *run)
{
    int64_t began = began_at(run, "started_at");
    began = began == DATE_NONE ? began_at(run, "created_at") : began;
    return began != DATE_NONE && began < w->now - w->hours * hour_ms;
}

static int on_running(cw_task *t, const bson_t *run, void *arg)
{
    struct watchdog *w = arg;
    if (!is_stuck(w, run))
        return 0;
    bson_t key = BSON_INITIALIZER;
    const char *why = cw_printf(t, "stuck: RUNNING for more than %lld hours", (long long)w->hours);
    bson_t *update =
        BCON_NEW("$set", "{", "status", "FAILED", "error", BCON_UTF8(why), "finished_at",
                 BCON_DATE_TIME(w->now), "failed_by", BCON_UTF8(w->id), "}");
    doc_copy(&key, "_id", run, "_id");
    if (began_at(run, "started_at") != DATE_NONE) /* else nothing that a filter should hold */
        doc_copy(&key, "started_at", run, "started_at");
    BSON_APPEND_UTF8(&key, "status", "RUNNING");
    int code = mongo_update(t, w->collection, &key, update, false);
    bson_destroy(&key);
    bson_destroy(update);
    return code < 0 ? -1 : 0;
}

static int on_job(cw_task *t, const bson_t *job, void *arg)
{
    (void)t;
    revoke_later(arg, doc_text(job, "task_id"));
    return 0;
}

/* The sub-jobs that have not ended yet. */
static int end_jobs(struct watchdog *w, const char *run_id)
{
    bson_t *open = BCON_NEW("scan_run_id", BCON_UTF8(run_id), "status", "{", "$in", "[", "PENDING",
                            "RUNNING", "RETRYING", "]", "}");
    bson_t *mine = BCON_NEW("scan_run_id", BCON_UTF8(run_id), "failed_by", BCON_UTF8(w->id));
    bson_t *update = BCON_NEW("$set", "{", "status", "FAILED", "errors", "[", "the run was stuck",
                              "]", "finished_at", BCON_DATE_TIME(w->now), "failed_by",
                              BCON_UTF8(w->id), "}");
    int code = mongo_update_many(w->t, "scan_jobs", open, update) < 0 ? -1 : 0;
    if (code == 0)
        code = mongo_each(w->t, "scan_jobs", mine, NULL, on_job, w);
    bson_destroy(open);
    bson_destroy(mine);
    bson_destroy(update);
    return code;
}

/* A mirror that exists knows its kind. */
static const char *kind_of(struct watchdog *w, const char *run_id)
{
    const bson_t *mirror = NULL;
    bson_t *key =
        BCON_NEW("scan_id", BCON_UTF8(run_id), "collection", BCON_UTF8(w->collection));
    int code = mongo_find(w->t, "unified_scan_results", key, NULL, &mirror);
    const char *kind = code == 1 ? doc_text(mirror, "scan_type") : NULL;
    bson_destroy(key);
    if (code < 0)
        return NULL;
    return kind                                            ? kind
           : strcmp(w->collection, "scan_runs") == 0       ? "cloud"
           : strcmp(w->collection, "container_scans") == 0 ? "container"
                                                           : "native";
}

static int on_failed(cw_task *t, const bson_t *run, void *arg)
{
    struct watchdog *w = arg;
    char room[DOC_ID_SIZE];
    const char *id = doc_id(run, "_id", room);
    bson_iter_t at, list;
    const char *task;
    if (!id)
        return 0;
    revoke_later(w, doc_text(run, "task_id"));
    if (doc_find(run, "task_ids", &at) && BSON_ITER_HOLDS_ARRAY(&at) &&
        bson_iter_recurse(&at, &list))
        while ((task = doc_next_text(&list)))
            revoke_later(w, task);
    w->failed++;
    cw_log(t, CW_WARNING, "%s %s: stuck, failed", w->collection, id);
    const char *kind = kind_of(w, id);
    if (!kind || (strcmp(w->collection, "scan_runs") == 0 && end_jobs(w, id) < 0))
        return -1;
    return mirror_to_unified_scan_results(t, w->collection, run, kind);
}

static int fail_stuck(struct watchdog *w)
{
    static const char *const collections[] = {"scan_runs", "native_scans", "container_scans"};
    bson_t *running = BCON_NEW("status", "RUNNING");
    bson_t *fields =
        BCON_NEW("projection", "{", "started_at", BCON_INT32(1), "created_at", BCON_INT32(1), "}");
    bson_t *mine = BCON_NEW("status", "FAILED", "failed_by", BCON_UTF8(w->id));
    int code = 0;
    for (size_t i = 0; code >= 0 && i < sizeof collections / sizeof *collections; i++) {
        w->collection = collections[i];
        code = mongo_each(w->t, w->collection, running, fields, on_running, w);
        if (code >= 0)
            code = mongo_each(w->t, w->collection, mine, NULL, on_failed, w);
    }
    bson_destroy(running);
    bson_destroy(fields);
    bson_destroy(mine);
    if (code >= 0 && w->n_ids)
        code = cw_revoke(w->t, w->ids, w->n_ids, true);
    return code < 0 ? -1 : 0;
}

/* --- what lags behind --- */

/* Sends it unless that was done for the same state in the last hours. */
static int send_once(struct watchdog *w, const char *task, const char *team, int64_t state,
                     bool full)
{
    char key[DIGEST_SIZE], id[CW_ID_SIZE], text[60];
    snprintf(text, sizeof text, "%lld/%lld", (long long)state, (long long)(w->now / again_ms));
    const char *parts[] = {"watchdog", task, team, text, NULL};
    digest_hex(parts, key);
    digest_id(parts, id);
    bson_t *record =
        BCON_NEW("_id", BCON_UTF8(key), "task", BCON_UTF8(task), "team_id", BCON_UTF8(team),
                 "sent_by", BCON_UTF8(w->id), "sent_at", BCON_DATE_TIME(w->now));
    bson_t *mine = BCON_NEW("_id", BCON_UTF8(key), "sent_by", BCON_UTF8(w->id));
    int made = mongo_insert(w->t, "watchdog_sends", record);
    int64_t own = made == 0 ? mongo_count(w->t, "watchdog_sends", mine) : made;
    bson_destroy(record);
    bson_destroy(mine);
    if (own <= 0)
        return own < 0 ? -1 : 0;
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(team));
    if (full)
        cJSON_AddItemToArray(args, cJSON_CreateTrue());
    w->sent++;
    return cw_send(w->t, (struct cw_send){.task = task, .args = args, .id = id}, NULL);
}

/* The newest (or oldest) date of a team in a collection; 0: none. < 0 failed. */
static int64_t date_of(struct watchdog *w, const char *collection, const char *team,
                       const char *field, int order)
{
    const bson_t *found = NULL;
    bson_t filter = BSON_INITIALIZER;
    bson_t *opts = BCON_NEW("sort", "{", field, BCON_INT32(order), "}", "projection", "{", field,
                            BCON_INT32(1), "}");
    doc_match_id(&filter, "team_id", team);
    BCON_APPEND(&filter, field, "{", "$type", BCON_INT32(9), "}");
    int code = mongo_find(w->t, collection, &filter, opts, &found);
    int64_t date = code == 1 ? doc_date(found, field, 0) : 0;
    bson_destroy(&filter);
    bson_destroy(opts);
    return code < 0 ? -1 : date;
}

static int64_t synced_at(struct watchdog *w, const char *team, const char *source)
{
    const bson_t *found = NULL;
    bson_t *key = BCON_NEW("team_id", BCON_UTF8(team), "source", BCON_UTF8(source));
    int code = mongo_find(w->t, "sync_watermarks", key, NULL, &found);
    int64_t date = code == 1 ? doc_date(found, "synced_at", 0) : 0;
    bson_destroy(key);
    return code < 0 ? -1 : date;
}

static const struct lagging {
    const char *source, *collection, *field;
    bool counted; /* an open document is one occurrence at most, and `updated_at` tells its changes */
} sources[] = {{"cspm", "cspm_findings", "last_seen", true},
               {"k8s", "k8s_findings", "last_seen", true},
               {"container", "container_scans", "finished_at", false}};

/* When the team's documents changed last. */
static int64_t changed_at(struct watchdog *w, const struct lagging *s, const char *team)
{
    int64_t seen = date_of(w, s->collection, team, s->field, -1);
    int64_t touched = s->counted ? date_of(w, s->collection, team, "updated_at", -1) : 0;
    return seen < 0 || touched < 0 ? -1 : seen > touched ? seen : touched;
}

static void match_open_occurrences(const struct lagging *s, const char *team, bson_t *ret)
{
    doc_match_id(ret, "team_id", team);
    BCON_APPEND(ret, "source", BCON_UTF8(s->source), "status", "OPEN");
}

/* Open findings without a single open occurrence: times agree, and still the stores do not. */
static int is_empty(struct watchdog *w, const struct lagging *s, const char *team)
{
    bson_t there = BSON_INITIALIZER, here = BSON_INITIALIZER;
    doc_match_id(&there, "team_id", team);
    finding_match_failing(&there);
    BCON_APPEND(&there, "muted", "{", "$ne", BCON_BOOL(true), "}", "check_id", "{", "$exists",
                BCON_BOOL(true), "}");
    match_open_occurrences(s, team, &here);
    const bson_t *found;
    int occurrence = mongo_find(w->t, "vulnerability_occurrences", &here, NULL, &found);
    int finding = occurrence == 0 ? mongo_find(w->t, s->collection, &there, NULL, &found) : 0;
    bson_destroy(&there);
    bson_destroy(&here);
    return occurrence < 0 || finding < 0 ? -1 : finding;
}

/* More open occurrences than open findings: some of these were removed, or changed unseen. (Fewer
 * say nothing: findings may be twins, muted, or of no asset.) */
static int is_overfull(struct watchdog *w, const struct lagging *s, const char *team)
{
    bson_t there = BSON_INITIALIZER, here = BSON_INITIALIZER;
    doc_match_id(&there, "team_id", team);
    finding_match_failing(&there);
    match_open_occurrences(s, team, &here);
    int64_t occurrences = mongo_count(w->t, "vulnerability_occurrences", &here);
    int64_t findings = occurrences > 0 ? mongo_count(w->t, s->collection, &there) : 0;
    bson_destroy(&there);
    bson_destroy(&here);
    return occurrences < 0 || findings < 0 ? -1 : occurrences > findings;
}

static int check_source(struct watchdog *w, const struct lagging *s, const char *team)
{
    static const char sync[] = "sync.sync_vulnerabilities_for_team";
    int64_t newest = changed_at(w, s, team);
    int64_t synced = synced_at(w, team, s->source);
    if (newest < 0 || synced < 0)
        return -1;
    if (newest > synced)
        return w->now - newest > grace_ms ? send_once(w, sync, team, newest, false) : 0;
    int wrong = synced && s->counted ? is_empty(w, s, team) : 0;
    if (synced && s->counted && wrong == 0)
        wrong = is_overfull(w, s, team);
    return wrong < 0 ? -1
           : wrong   ? send_once(w, sync, team, 0, true)
                     : 0; /* not after each sync again */
}

static int check_posture(struct watchdog *w, const char *team)
{
    int64_t newest = changed_at(w, &sources[0], team);
    int64_t refreshed = date_of(w, "compliance_posture", team, "refreshed_at", -1);
    if (newest < 0 || refreshed < 0)
        return -1;
    if (newest <= refreshed || w->now - newest <= grace_ms)
        return 0;
    return send_once(w, "compliance.run_compliance_refresh", team, newest, false);
}

static int on_team(cw_task *t, const bson_t *group, void *arg)
{
    struct watchdog *w = arg;
    char room[DOC_ID_SIZE];
    const char *team = doc_id(group, "_id", room);
    if (!team)
        return 0;
    if (cw_stopping(t) != CW_GO)
        return cw_sleep(t, 0);
    team = cw_printf(t, "%s", team);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (strcmp(sources[i].collection, w->collection) == 0 &&
            check_source(w, &sources[i], team) < 0)
            return -1;
    return strcmp(w->collection, "cspm_findings") == 0 ? check_posture(w, team) : 0;
}

static int check_teams(struct watchdog *w)
{
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        w->collection = sources[i].collection;
        if (mongo_distinct(w->t, w->collection, "team_id", on_team, w) < 0)
            return -1;
    }
    return 0;
}

cw_outcome run_data_sync_watchdog(cw_task *t)
{
    struct watchdog *w = cw_alloc(t, sizeof *w);
    w->t = t;
    w->id = cw_info(t)->id;
    w->now = doc_now();
    w->hours = setting_int(t, "STUCK_SCAN_HOURS", 4, 1, 8760);
    if (w->hours < 0 || fail_stuck(w) < 0 || check_teams(w) < 0)
        return cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "failed", (double)w->failed);
    cJSON_AddNumberToObject(result, "revoked", (double)w->n_ids);
    cJSON_AddNumberToObject(result, "sent", (double)w->sent);
    return cw_return(t, result);
}
