/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/mongo.h"
#include "tasks/maintenance/maintenance.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* check_sla_breaches_all_teams: an open occurrence has so many days by its severity. Past them it
 * is a breach, shortly before them a warning.
 *
 * The record and the notification have the occurrence and its opening time as their _id and are
 * only ever made, never changed; the mark on the occurrence comes after them. A kill -9 between
 * them leaves an unmarked occurrence, whose record and notification the next run finds made. */

enum { BATCH = 200, NEVER = 0, DAYS_MAX = 36500 };
static const int64_t day_ms = 86400000;

static const struct usual {
    const char *severity;
    int days;
} usual_days[] = {{"CRITICAL", 7}, {"HIGH", 30}, {"MEDIUM", 90}, {"LOW", 180}};

struct check {
    cw_task *t;
    int64_t now, teams, breaches, warnings;
    const bson_t *policy; /* of the team, or NULL */
    const char *severity;
    int64_t days;
    bool warning; /* the pass at work */
    struct mongo_bulk *records, *notifications, *marks;
    int64_t marked; /* before the pass at work */
    int pending;
};

static int flush(struct check *c)
{
    c->pending = 0;
    return mongo_bulk_flush(c->records) < 0 || mongo_bulk_flush(c->notifications) < 0 ||
                   mongo_bulk_flush(c->marks) < 0
               ? -1
               : 0;
}

static int make_once(struct mongo_bulk *bulk, const char *id, const bson_t *fields)
{
    bson_t *key = BCON_NEW("_id", BCON_UTF8(id));
    bson_t update = BSON_INITIALIZER;
    BSON_APPEND_DOCUMENT(&update, "$setOnInsert", fields);
    int code = mongo_bulk_update(bulk, key, &update, true);
    bson_destroy(key);
    bson_destroy(&update);
    return code;
}

static void put_fields(const struct check *c, const bson_t *o, bson_t *fields)
{
    int64_t opened = doc_date(o, "opened_at", c->now);
    BSON_APPEND_UTF8(fields, "type", c->warning ? "sla_warning" : "sla_breach");
    doc_keep(fields, "team_id", o, "team_id");
    doc_keep(fields, "dedup_key", o, "dedup_key");
    doc_keep(fields, "asset_id", o, "asset_id");
    doc_keep(fields, "vulnerability_id", o, "vulnerability_id");
    doc_keep(fields, "title", o, "title");
    BSON_APPEND_UTF8(fields, "severity", c->severity);
    BSON_APPEND_DATE_TIME(fields, "opened_at", opened);
    BSON_APPEND_DATE_TIME(fields, "due_at", opened + c->days * day_ms);
    BSON_APPEND_DATE_TIME(fields, "created_at", c->now);
}

static int mark(struct check *c, const bson_t *o)
{
    const char *field = c->warning ? "sla_warned_at" : "sla_breached_at";
    bson_t key = BSON_INITIALIZER;
    bson_t *update = BCON_NEW("$set", "{", field, BCON_DATE_TIME(c->now), "}");
    doc_copy(&key, "_id", o, "_id");
    doc_copy(&key, "opened_at", o, "opened_at"); /* not one that was reopened meanwhile */
    BSON_APPEND_NULL(&key, field);
    int code = mongo_bulk_update(c->marks, &key, update, false);
    bson_destroy(&key);
    bson_destroy(update);
    return code;
}

static int on_occurrence(cw_task *t, const bson_t *o, void *arg)
{
    struct check *c = arg;
    char room[DOC_ID_SIZE], id[200];
    const char *key = doc_text(o, "dedup_key"), *own = doc_id(o, "_id", room);
    bson_t fields = BSON_INITIALIZER;
    if (cw_stopping(t) != CW_GO)
        return cw_sleep(t, 0);
    snprintf(id, sizeof id, "%s:%.100s:%lld", c->warning ? "sla_warning" : "sla_breach",
             key   ? key
             : own ? own
                   : "?",
             (long long)doc_date(o, "opened_at", 0));
    put_fields(c, o, &fields);
    int code = c->warning ? 0 : make_once(c->records, id, &fields);
    if (code == 0)
        code = make_once(c->notifications, id, &fields);
    if (code == 0)
        code = mark(c, o);
    bson_destroy(&fields);
    if (code == 0 && ++c->pending == BATCH)
        code = flush(c);
    return code < 0 ? -1 : 0;
}

/* Sync writes it in capitals; each usual spelling by its name, so that an index serves them. */
static void match_severity(const struct check *c, bson_t *filter)
{
    char lower[16], capital[16];
    snprintf(lower, sizeof lower, "%s", c->severity);
    for (char *at = lower; *at; at++)
        *at = (char)tolower((unsigned char)*at);
    snprintf(capital, sizeof capital, "%c%s", *c->severity, lower + 1);
    BCON_APPEND(filter, "severity", "{", "$in", "[", BCON_UTF8(c->severity), BCON_UTF8(capital),
                BCON_UTF8(lower), "]", "}");
}

static int pass(struct check *c, const bson_value_t *team, int64_t older_than)
{
    bson_t filter = BSON_INITIALIZER;
    BSON_APPEND_VALUE(&filter, "team_id", team);
    match_severity(c, &filter);
    BCON_APPEND(&filter, "status", BCON_UTF8("OPEN"), "opened_at", "{", "$lte",
                BCON_DATE_TIME(older_than), "}", "sla_breached_at", BCON_NULL);
    if (c->warning)
        BSON_APPEND_NULL(&filter, "sla_warned_at");
    int code = mongo_each(c->t, "vulnerability_occurrences", &filter, NULL, on_occurrence, c);
    bson_destroy(&filter);
    if (code < 0 || flush(c) < 0)
        return -1;
    int64_t marked =
        mongo_bulk_counts(c->marks).modified; /* by us, not by another run at the same time */
    *(c->warning ? &c->warnings : &c->breaches) += marked - c->marked;
    c->marked = marked;
    return 0;
}

static int64_t days_of(const struct check *c, const struct usual *u)
{
    bson_iter_t at, list;
    int64_t days = u->days;
    if (c->policy && doc_find(c->policy, "days", &at) && BSON_ITER_HOLDS_DOCUMENT(&at) &&
        bson_iter_recurse(&at, &list) && bson_iter_find_case(&list, u->severity))
        days = doc_int(c->policy, cw_printf(c->t, "days.%s", bson_iter_key(&list)), days);
    return days > 0 && days <= DAYS_MAX ? days : NEVER;
}

static int check_team(struct check *c, const char *id, const bson_value_t *team)
{
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", id); /* whichever way the policy writes it */
    c->policy = NULL;
    int code = mongo_find(c->t, "sla_policies", &filter, NULL, &c->policy);
    bson_destroy(&filter);
    int64_t before = c->policy ? doc_int(c->policy, "warn_days", 2) : 2;
    c->teams++;
    for (size_t i = 0; code >= 0 && i < sizeof usual_days / sizeof *usual_days; i++) {
        c->severity = usual_days[i].severity;
        c->days = days_of(c, &usual_days[i]);
        if (c->days == NEVER)
            continue;
        c->warning = false;
        code = pass(c, team, c->now - c->days * day_ms);
        c->warning = true;
        if (code >= 0 && before > 0 && before < c->days)
            code = pass(c, team, c->now - (c->days - before) * day_ms);
    }
    return code < 0 ? -1 : 0;
}

/* What is no id could mean another team's in a filter ({"$ne": null}, a pattern). */
static int on_team(cw_task *t, const bson_t *group, void *arg)
{
    bson_iter_t at;
    char room[DOC_ID_SIZE];
    const char *id = doc_id(group, "_id", room);
    (void)t;
    if (!id || !doc_find(group, "_id", &at))
        return 0;
    return check_team(arg, id, bson_iter_value(&at));
}

cw_outcome check_sla_breaches_all_teams(cw_task *t)
{
    struct check *c = cw_alloc(t, sizeof *c);
    c->t = t;
    c->now = doc_now();
    c->records = mongo_bulk_open(t, "sla_breaches");
    c->notifications = mongo_bulk_open(t, "notifications");
    c->marks = mongo_bulk_open(t, "vulnerability_occurrences");
    if (!c->records || !c->notifications || !c->marks)
        return cw_fail(t);
    mongo_bulk_make_once(c->records);
    mongo_bulk_make_once(c->notifications);
    if (mongo_distinct(t, "vulnerability_occurrences", "team_id", on_team, c) < 0)
        return cw_stopping(t) != CW_GO ? cw_stopped(t) : cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "teams", (double)c->teams);
    cJSON_AddNumberToObject(result, "breaches", (double)c->breaches);
    cJSON_AddNumberToObject(result, "warnings", (double)c->warnings);
    return cw_return(t, result);
}
