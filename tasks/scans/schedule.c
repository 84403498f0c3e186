/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/schedule.h"

#include "tasks/lib/fields.h"

#include <string.h>
#include <strings.h>

/* The terms of a schedule: an interval, a cron expression in a time zone, or one single time.
 * Anything that is not understood is said, never guessed: a schedule that silently does not run is
 * the worst of them. */

enum { MAX_INTERVAL = 10 * 366 * 86400 }; /* ten years */

struct zones {
    const char *name;
    struct zone *zone;
    struct zones *next;
};

struct zones *zones_open(cw_task *t)
{
    return cw_alloc(t, sizeof(struct zones));
}

static struct zone *zone_of(cw_task *t, struct zones *zones, const char *name)
{
    for (struct zones *known = zones->next; known; known = known->next)
        if (strcmp(known->name, name) == 0)
            return known->zone;
    struct zone *zone = zone_open(t, name);
    if (!zone)
        return NULL;
    struct zones *entry = cw_alloc(t, sizeof *entry);
    *entry = (struct zones){cw_printf(t, "%s", name), zone, zones->next};
    zones->next = entry;
    return zone;
}

static bool is_given(const bson_t *document, const char *field)
{
    bson_iter_t at;
    return doc_find(document, field, &at) && !BSON_ITER_HOLDS_NULL(&at);
}

static int read_overlap(cw_task *t, struct schedule *s)
{
    static const struct {
        const char *name;
        enum overlap overlap;
    } known[] = {{"SKIP", OVERLAP_SKIP},
                 {"QUEUE", OVERLAP_QUEUE},
                 {"ALLOW", OVERLAP_ALLOW},
                 {"CANCEL_PREVIOUS", OVERLAP_CANCEL},
                 {"CANCEL", OVERLAP_CANCEL}};
    const char *text = doc_text(s->document, "overlap");
    if (!is_given(s->document, "overlap"))
        return 0;
    for (size_t i = 0; text && i < sizeof known / sizeof *known; i++)
        if (strcasecmp(known[i].name, text) == 0) {
            s->overlap = known[i].overlap;
            return 0;
        }
    return cw_problem(t, false, "ValueError",
                      "overlap must be SKIP, QUEUE, ALLOW or CANCEL_PREVIOUS");
}

static int read_cron(cw_task *t, struct zones *zones, struct schedule *s)
{
    const char *cron = doc_text(s->document, "cron"), *zone = doc_text(s->document, "timezone");
    s->by_cron = is_given(s->document, "cron");
    if (!s->by_cron)
        return 0;
    if (!cron || (!zone && is_given(s->document, "timezone")))
        return cw_problem(t, false, "ValueError", "%s must be text", cron ? "timezone" : "cron");
    if (s->step)
        return cw_problem(t, false, "ValueError", "there are both cron and interval_seconds");
    s->zone = zone_of(t, zones, zone ? zone : "UTC");
    if (!s->zone || cron_read(t, cron, &s->cron) < 0)
        return -1;
    return cron_next(&s->cron, s->zone, doc_now()) >= 0
               ? 0
               : cw_problem(t, false, "ValueError", "cron: \"%.80s\" never comes", cron);
}

int schedule_read(cw_task *t, struct zones *zones, const bson_t *document, struct schedule *ret)
{
    static const struct field_rule rules[] = {
        {"enabled", CW_BOOL, 0, 0}, {"interval_seconds", CW_INT, 1, MAX_INTERVAL}, {0}};
    char room[DOC_ID_SIZE];
    const char *id = doc_id(document, "_id", room);
    *ret = (struct schedule){.document = document, .due = doc_date(document, "next_run_at", -1)};
    if (!id)
        return cw_problem(t, false, "ValueError",
                          "its _id is neither text, ObjectId, number nor UUID");
    ret->id = cw_printf(t, "%s", id);
    if (fields_check(t, document, rules) < 0)
        return -1;
    if (ret->due < 0 && is_given(document, "next_run_at"))
        return cw_problem(t, false, "ValueError", "next_run_at is not a date");
    ret->step = doc_int(document, "interval_seconds", 0) * 1000;
    return read_overlap(t, ret) < 0 || read_cron(t, zones, ret) < 0 ? -1 : 0;
}

int64_t schedule_next(const struct schedule *s, int64_t now)
{
    if (s->by_cron)
        return cron_next(&s->cron, s->zone, now);
    return s->step ? s->due + ((now - s->due) / s->step + 1) * s->step : -1;
}
