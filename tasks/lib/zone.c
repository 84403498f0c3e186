/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/zone.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The C library knows one zone a process (TZ), and a child may run several tasks at once; so the
 * file (TZif, RFC 8536) is read here: its list of changes, and for the time after the last one the
 * rule in its last line ("CET-1CEST,M3.5.0,M10.5.0/3"). */

enum { FILE_MAX = 1 << 20, HEADER = 44, DAY = 86400 };

struct day_rule {
    char kind; /* 'M' month.week.day, 'J' day 1-365 that knows no 29 February, 'N' day 0-365 */
    int month, week, day;
    int64_t time; /* of the wall clock, seconds */
};

struct zone {
    size_t n;
    int64_t *at;     /* of each change, sorted */
    int64_t *offset; /* after it */
    int64_t first;   /* the offset before all of them */
    bool ruled, summer;
    int64_t standard, saving;
    struct day_rule begin, end;
};

/* --- the rule --- */

/* Days since 1970 of a day in the proleptic Gregorian calendar. */
static int64_t days_of(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* When the rule comes in a year, in seconds of the wall clock. */
static int64_t rule_in(const struct day_rule *r, int64_t year)
{
    int64_t day = days_of(year, 1, 1);
    if (r->kind == 'J') {
        day += r->day - 1 + (is_leap(year) && r->day >= 60);
    } else if (r->kind == 'N') {
        day += r->day;
    } else {
        int64_t first = days_of(year, r->month, 1);
        int64_t next = r->month == 12 ? days_of(year + 1, 1, 1) : days_of(year, r->month + 1, 1);
        int64_t weekday = (first + 4) % 7; /* 1970-01-01 was a Thursday */
        day = first + (r->day - weekday + 7) % 7 + (int64_t)7 * (r->week - 1);
        day -= day >= next ? 7 : 0;
    }
    return day * DAY + r->time;
}

static struct zone_at look_by_rule(const struct zone *z, int64_t utc, struct zone_at found)
{
    if (!z->summer) {
        found.offset = z->standard;
        return found;
    }
    int64_t year = 1970 + utc / 31556952;
    for (int64_t y = year - 2; y <= year + 1; y++) {
        int64_t on = rule_in(&z->begin, y) - z->standard, off = rule_in(&z->end, y) - z->saving;
        if (on <= utc && on > found.since)
            found = (struct zone_at){z->saving, on, z->standard};
        if (off <= utc && off > found.since)
            found = (struct zone_at){z->standard, off, z->saving};
    }
    return found;
}

struct zone_at zone_look(const struct zone *z, int64_t utc)
{
    size_t low = 0, high = z->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (z->at[middle] <= utc)
            low = middle + 1;
        else
            high = middle;
    }
    struct zone_at found = {z->first, INT64_MIN, z->first};
    if (low)
        found = (struct zone_at){z->offset[low - 1], z->at[low - 1],
                                 low > 1 ? z->offset[low - 2] : z->first};
    return low == z->n && z->ruled ? look_by_rule(z, utc, found) : found;
}

/* --- reading the rule --- */

static bool read_name(const char **at)
{
    const char *from = *at;
    if (**at == '<') {
        const char *end = strchr(*at, '>');
        *at = end ? end + 1 : *at;
        return end;
    }
    while (isalpha((unsigned char)**at))
        (*at)++;
    return *at - from >= 3;
}

/* [+-]hh[:mm[:ss]] */
static bool read_time(const char **at, int64_t *ret)
{
    int64_t sign = **at == '-' ? -1 : 1, unit = 3600, sum = 0;
    *at += **at == '-' || **at == '+';
    for (; unit; unit /= 60) {
        char *end;
        if (!isdigit((unsigned char)**at))
            return false;
        sum += unit * strtol(*at, &end, 10);
        *at = end;
        if (**at != ':')
            break;
        ++*at;
    }
    *ret = sign * sum;
    return sum <= 167 * 3600;
}

static bool read_rule(const char **at, struct day_rule *ret)
{
    int used = 0;
    *ret = (struct day_rule){.time = 7200};
    if (*(*at)++ != ',')
        return false;
    if (sscanf(*at, "M%2d.%1d.%1d%n", &ret->month, &ret->week, &ret->day, &used) == 3)
        ret->kind = 'M';
    else if (sscanf(*at, "J%3d%n", &ret->day, &used) == 1)
        ret->kind = 'J';
    else if (sscanf(*at, "%3d%n", &ret->day, &used) == 1)
        ret->kind = 'N';
    *at += used;
    bool good = ret->kind == 'M' ? ret->month >= 1 && ret->month <= 12 && ret->week >= 1 &&
                                       ret->week <= 5 && ret->day >= 0 && ret->day <= 6
                                 : ret->kind && ret->day >= 0 && ret->day <= 365;
    if (!good || **at != '/')
        return good;
    ++*at;
    return read_time(at, &ret->time);
}

static void read_last_line(struct zone *z, const char *at)
{
    int64_t west;
    if (!read_name(&at) || !read_time(&at, &west))
        return;
    z->standard = -west;
    z->saving = z->standard + 3600;
    z->ruled = !*at;
    if (!*at || !read_name(&at))
        return;
    if (*at != ',' && read_time(&at, &west))
        z->saving = -west;
    z->summer = z->ruled = read_rule(&at, &z->begin) && read_rule(&at, &z->end) && !*at;
}

/* --- reading the file --- */

static int64_t number(const unsigned char *at, int bytes)
{
    uint64_t value = at[0] & 0x80 ? UINT64_MAX : 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return (int64_t)value;
}

struct counts {
    int64_t utc, standard, leap, times, types, letters;
};

static bool read_header(const unsigned char *at, size_t left, struct counts *ret)
{
    if (left < HEADER || memcmp(at, "TZif", 4) != 0)
        return false;
    int64_t *fields[] = {&ret->utc, &ret->standard, &ret->leap,
                         &ret->times, &ret->types, &ret->letters};
    for (int i = 0; i < 6; i++) {
        *fields[i] = number(at + 20 + 4 * i, 4);
        if (*fields[i] < 0 || *fields[i] > FILE_MAX)
            return false;
    }
    return ret->types > 0;
}

static size_t block_size(const struct counts *c, int width)
{
    return (size_t)(c->times * (width + 1) + c->types * 6 + c->letters + c->leap * (width + 4) +
                    c->standard + c->utc);
}

/* The second block, with times of 64 bits: every zoneinfo of this century has it. */
static bool read_zone(cw_task *t, const unsigned char *data, size_t size, struct zone *z)
{
    struct counts c;
    if (!read_header(data, size, &c) || data[4] < '2' || HEADER + block_size(&c, 4) > size)
        return false;
    const unsigned char *at = data + HEADER + block_size(&c, 4);
    size_t left = size - HEADER - block_size(&c, 4);
    if (!read_header(at, left, &c) || HEADER + block_size(&c, 8) > left)
        return false;
    at += HEADER;
    const unsigned char *index = at + c.times * 8, *types = index + c.times;
    z->n = (size_t)c.times;
    z->at = cw_alloc(t, (z->n + 1) * sizeof *z->at);
    z->offset = cw_alloc(t, (z->n + 1) * sizeof *z->offset);
    z->first = number(types, 4);
    for (size_t i = 0; i < z->n; i++) {
        if (index[i] >= c.types)
            return false;
        z->at[i] = number(at + 8 * i, 8);
        z->offset[i] = number(types + (size_t)6 * index[i], 4);
        if (i && z->at[i] < z->at[i - 1])
            return false;
    }
    char line[256];
    const unsigned char *end = at + block_size(&c, 8);
    left -= HEADER + block_size(&c, 8);
    size_t length = left > 1 && left < sizeof line ? left - 1 : 0;
    memcpy(line, end + (length ? 1 : 0), length);
    line[length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    read_last_line(z, line);
    return true;
}

static bool is_name(const char *name)
{
    if (!isalpha((unsigned char)*name) || strlen(name) > 100 || strstr(name, ".."))
        return false;
    for (const char *at = name; *at; at++)
        if (!isascii(*at) || (!isalnum((unsigned char)*at) && !strchr("/_+-", *at)))
            return false;
    return true;
}

struct zone *zone_open(cw_task *t, const char *name)
{
    struct zone *z = cw_alloc(t, sizeof *z);
    if (!name || strcmp(name, "UTC") == 0)
        return z;
    const char *folder = getenv("TZDIR");
    FILE *file =
        is_name(name)
            ? fopen(cw_printf(t, "%s/%s", folder ? folder : "/usr/share/zoneinfo", name), "re")
            : NULL;
    unsigned char *data = malloc(FILE_MAX);
    size_t size = file && data ? fread(data, 1, FILE_MAX, file) : 0;
    bool good = size && read_zone(t, data, size, z);
    if (file)
        fclose(file);
    free(data);
    if (good)
        return z;
    cw_problem(t, false, "ValueError", "there is no time zone \"%.100s\" (is tzdata installed?)",
               name);
    return NULL;
}
