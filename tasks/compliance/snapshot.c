/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/compliance/compliance.h"
#include "tasks/lib/date.h"
#include "tasks/lib/finding.h"
#include "tasks/lib/mongo.h"
#include "tasks/lib/severity.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* snapshot_all_teams: the posture of each team, kept once a day, by a group of one task a team. The
 * document of a day is only ever made ($setOnInsert), never changed: whoever runs it again, or
 * late, leaves the first picture as it is. */

struct fan_out {
    const char *day;
    cJSON *parts; /* signatures */
    int64_t teams;
};

static const char *day_of(cw_task *t, int64_t ms)
{
    struct tm day;
    time_t seconds = (time_t)(ms / 1000);
    gmtime_r(&seconds, &day);
    return cw_printf(t, "%04d-%02d-%02d", day.tm_year + 1900, day.tm_mon + 1, day.tm_mday);
}

static int on_team(cw_task *t, const bson_t *group, void *arg)
{
    struct fan_out *f = arg;
    char room[DOC_ID_SIZE];
    const char *team = doc_id(group, "_id", room);
    (void)t;
    if (!team)
        return 0;
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(team));
    cJSON_AddItemToArray(args, cJSON_CreateString(f->day));
    f->teams++;
    cJSON_AddItemToArray(f->parts, cw_sig((struct cw_send){
                                       .task = "compliance.snapshot_team",
                                       .args = args,
                                   }));
    return 0;
}

cw_outcome snapshot_all_teams(cw_task *t)
{
    struct fan_out f = {.day = day_of(t, doc_now()), .parts = cJSON_CreateArray()};
    bson_t all = BSON_INITIALIZER;
    char group_id[CW_ID_SIZE] = "";
    int code = mongo_group(t, "compliance_posture", &all, "team_id", on_team, &f);
    bson_destroy(&all);
    if (code < 0 || !f.teams)
        cJSON_Delete(f.parts);
    else
        code = cw_apply(t, cw_group(f.parts), group_id);
    if (code < 0)
        return cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    if (*group_id)
        cJSON_AddStringToObject(result, "group_id", group_id);
    cJSON_AddStringToObject(result, "day", f.day);
    cJSON_AddNumberToObject(result, "teams", (double)f.teams);
    return cw_return(t, result);
}

/* --- one team --- */

struct picture {
    bson_t frameworks;
    uint32_t n;
    double scores;
    int scored;
    int64_t open[N_SEVERITIES];
    bson_value_t team;
};

static int on_framework(cw_task *t, const bson_t *posture, void *arg)
{
    static const char *const fields[] = {"framework", "score", "pass", "fail", "manual", "total"};
    struct picture *p = arg;
    bson_t entry;
    bson_iter_t at;
    char room[16];
    const char *name;
    (void)t;
    bson_uint32_to_string(p->n++, &name, room, sizeof room);
    BSON_APPEND_DOCUMENT_BEGIN(&p->frameworks, name, &entry);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        doc_keep(&entry, fields[i], posture, fields[i]);
    bson_append_document_end(&p->frameworks, &entry);
    if (doc_find(posture, "score", &at) && BSON_ITER_HOLDS_DOUBLE(&at)) {
        p->scores += bson_iter_double(&at);
        p->scored++;
    }
    if (!p->team.value_type && doc_find(posture, "team_id", &at))
        bson_value_copy(bson_iter_value(&at), &p->team);
    return 0;
}

static int on_severity(cw_task *t, const bson_t *group, void *arg)
{
    struct picture *p = arg;
    (void)t;
    p->open[severity_index(doc_text(group, "_id"))] += doc_int(group, "n", 0);
    return 0;
}

static int look(cw_task *t, const char *team, struct picture *p)
{
    bson_t filter = BSON_INITIALIZER;
    bson_t *opts = BCON_NEW("sort", "{", "framework", BCON_INT32(1), "}", "projection", "{",
                            "controls", BCON_INT32(0), "}");
    doc_match_id(&filter, "team_id", team);
    int code = mongo_each(t, "compliance_posture", &filter, opts, on_framework, p);
    finding_match_failing(&filter);
    BCON_APPEND(&filter, "muted", "{", "$ne", BCON_BOOL(true), "}");
    if (code >= 0)
        code = mongo_group(t, "cspm_findings", &filter, "severity", on_severity, p);
    bson_destroy(&filter);
    bson_destroy(opts);
    return code;
}

static int keep(cw_task *t, const char *day, struct picture *p)
{
    bson_t key = BSON_INITIALIZER, made, update = BSON_INITIALIZER, open;
    BSON_APPEND_VALUE(&key, "team_id", &p->team);
    BSON_APPEND_UTF8(&key, "day", day);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$setOnInsert", &made);
    BSON_APPEND_ARRAY(&made, "frameworks", &p->frameworks);
    if (p->scored)
        BSON_APPEND_DOUBLE(&made, "score", p->scores / p->scored);
    else
        BSON_APPEND_NULL(&made, "score");
    BSON_APPEND_DOCUMENT_BEGIN(&made, "open_findings", &open);
    for (int i = 0; i < N_SEVERITIES; i++)
        bson_append_int64(&open, severities[i], -1, p->open[i]);
    bson_append_document_end(&made, &open);
    BSON_APPEND_DATE_TIME(&made, "created_at", doc_now());
    bson_append_document_end(&update, &made);
    int code = mongo_update(t, "compliance_snapshots", &key, &update, true);
    bson_destroy(&key);
    bson_destroy(&update);
    return code;
}

/* A day that comes back from the calendar as it was given. */
static bool is_day(cw_task *t, const char *text)
{
    int64_t at = date_read(text);
    return at != DATE_NONE && strcmp(day_of(t, at), text) == 0;
}

cw_outcome snapshot_team(cw_task *t)
{
    struct picture p = {.n = 0};
    const char *team = cw_str(t, "team_id"), *day = cw_str(t, "day");
    if (!is_day(t, day))
        return cw_raise(t, "ValueError", "day must be like 2026-11-21, not %.20s", day);
    bson_init(&p.frameworks);
    int code = look(t, team, &p);
    if (code >= 0 && p.n == 0)
        code = cw_problem(t, false, "LookupError", "team %.80s has no compliance_posture", team);
    if (code >= 0)
        code = keep(t, day, &p);
    bson_destroy(&p.frameworks);
    if (p.team.value_type)
        bson_value_destroy(&p.team);
    return code < 0 ? cw_fail(t) : cw_return_str(t, day);
}
