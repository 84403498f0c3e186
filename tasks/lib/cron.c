/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/cron.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* A turn is looked for minute by minute in UTC, an hour at a time where the hour cannot match. What
 * the clock says at each of them comes from the zone, so the two days a year on which it jumps need
 * one rule only: an expression that names hours comes once (at the end of the gap when its time is
 * left out, at the first of two when it comes twice), one for every hour goes by time that
 * passes. */

enum { MINUTE = 60, HOUR = 3600 };
/* 29 February is a given weekday every 28 years, or 40 across 2100. */
static const int64_t horizon = (int64_t)41 * 366 * 86400;

static const char *const months[] = {"january",   "february", "march",    "april",
                                     "may",       "june",     "july",     "august",
                                     "september", "october",  "november", "december"};
static const char *const weekdays[] = {"sunday",   "monday", "tuesday", "wednesday",
                                       "thursday", "friday", "saturday"};

struct field {
    const char *name;
    int min, max, span;       /* the week has 7 days, though 0 and 7 are both Sunday */
    const char *const *words; /* of min, min + 1 …; NULL: numbers only */
    int n_words;
};

/* --- reading --- */

/* A number or a name ("fri", "friday"); -1: neither. */
static int read_number(const struct field *f, const char *text, size_t size)
{
    int value = 0;
    if (size && size <= 3 && strspn(text, "0123456789") >= size) {
        for (size_t i = 0; i < size; i++)
            value = 10 * value + text[i] - '0';
        return value;
    }
    for (int i = 0; i < f->n_words; i++)
        if ((size == 3 || size == strlen(f->words[i])) && strncasecmp(text, f->words[i], size) == 0)
            return f->min + i;
    return -1;
}

/* "*", "5", "1-5", "fri-mon", and any of them with a step; 5/15 begins at 5. */
static bool read_part(const struct field *f, const char *text, size_t size, uint64_t *ret)
{
    const char *slash = memchr(text, '/', size);
    size_t body = slash ? (size_t)(slash - text) : size;
    const struct field plain = {0};
    int step = slash ? read_number(&plain, slash + 1, size - body - 1) : 1;
    const char *dash = memchr(text, '-', body);
    int from = f->min, to = f->min + f->span - 1;
    if (body != 1 || *text != '*') {
        size_t first = dash ? (size_t)(dash - text) : body;
        from = read_number(f, text, first);
        to = dash ? read_number(f, dash + 1, body - first - 1) : slash ? to : from;
    }
    if (step < 1 || from < f->min || from > f->max || to < f->min || to > f->max)
        return false;
    int n = to >= from ? to - from : to - from + f->span;
    for (int i = 0; i <= n; i += step)
        *ret |= (uint64_t)1 << (f->min + (from - f->min + i) % f->span);
    return true;
}

static int read_field(cw_task *t, const struct field *f, const char *text, size_t size,
                      uint64_t *ret)
{
    *ret = 0;
    for (size_t at = 0; at <= size;) {
        const char *comma = memchr(text + at, ',', size - at);
        size_t n = comma ? (size_t)(comma - text) - at : size - at;
        if (!n || !read_part(f, text + at, n, ret))
            return cw_problem(t, false, "ValueError", "cron: \"%.*s\" is no %s (%d-%d)",
                              (int)(size < 60 ? size : 60), text, f->name, f->min, f->max);
        at += n + 1;
    }
    return 0;
}

static const char *named(const char *text)
{
    static const char *const names[][2] = {
        {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
        {"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},    {"@midnight", "0 0 * * *"},
        {"@hourly", "0 * * * *"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(names[i][0], text) == 0)
            return names[i][1];
    return text;
}

int cron_read(cw_task *t, const char *text, struct cron *ret)
{
    static const struct field fields[] = {
        {"minute", 0, 59, 60, NULL, 0},
        {"hour", 0, 23, 24, NULL, 0},
        {"day of month", 1, 31, 31, NULL, 0},
        {"month", 1, 12, 12, months, 12},
        {"day of week", 0, 7, 7, weekdays, 7},
    };
    uint64_t *bits[] = {&ret->minutes, &ret->hours, &ret->days, &ret->months, &ret->weekdays};
    const char *at = named(text);
    *ret = (struct cron){0};
    for (int i = 0; i < 5; i++) {
        at += strspn(at, " \t");
        size_t size = strcspn(at, " \t");
        if (!size)
            break;
        if (read_field(t, &fields[i], at, size, bits[i]) < 0)
            return -1;
        at += size;
    }
    at += strspn(at, " \t");
    if (*at || !ret->weekdays)
        return cw_problem(t, false, "ValueError",
                          "cron: \"%.80s\" is not minute, hour, day of month, month, day of week",
                          text);
    ret->every_hour = ret->hours == 0xFFFFFF;
    return 0;
}

/* --- the next turn --- */

static bool has(uint64_t bits, int n)
{
    return bits >> n & 1;
}

static bool day_matches(const struct cron *c, const struct tm *at)
{
    return has(c->months, at->tm_mon + 1) && has(c->days, at->tm_mday) &&
           has(c->weekdays, at->tm_wday) && has(c->hours, at->tm_hour);
}

static struct tm wall(int64_t seconds)
{
    struct tm tm;
    time_t time = (time_t)seconds;
    gmtime_r(&time, &tm);
    return tm;
}

static bool matches_wall(const struct cron *c, int64_t seconds)
{
    struct tm at = wall(seconds);
    return day_matches(c, &at) && has(c->minutes, at.tm_min);
}

/* Does a time match that the clock left out when it jumped to `z`? */
static bool matches_gap(const struct cron *c, const struct zone_at *z)
{
    for (int64_t at = z->since + z->before; at < z->since + z->offset; at += MINUTE)
        if (matches_wall(c, at))
            return true;
    return false;
}

static bool is_turn(const struct cron *c, const struct zone_at *z, int64_t utc)
{
    bool known = z->since != INT64_MIN && !c->every_hour;
    if (known && z->offset > z->before && utc == z->since && matches_gap(c, z))
        return true;
    if (known && z->offset < z->before && utc - z->since < z->before - z->offset)
        return false; /* the clock said the same an hour ago */
    return matches_wall(c, utc + z->offset);
}

int64_t cron_next(const struct cron *c, const struct zone *zone, int64_t after_ms)
{
    int64_t start = after_ms / 1000 / MINUTE * MINUTE + MINUTE;
    for (int64_t utc = start; utc < start + horizon;) {
        struct zone_at z = zone_look(zone, utc);
        struct tm at = wall(utc + z.offset);
        if (is_turn(c, &z, utc))
            return utc * 1000;
        bool skip = !day_matches(c, &at) && z.since != utc;
        utc += skip ? HOUR - at.tm_min * MINUTE : MINUTE;
    }
    return -1;
}
