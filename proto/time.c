/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/time.h"

#include "proto/base/error.h"

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

enum { SECOND = 1000000 };

struct reader {
    const char *at, *end;
};

static bool take(struct reader *r, char c)
{
    if (r->at == r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

/* Exactly `count` digits, within the bounds. */
static bool number(struct reader *r, int count, int least, int most, int *ret_value)
{
    int value = 0;
    if (r->end - r->at < count)
        return false;
    for (int i = 0; i < count; i++, r->at++) {
        if (*r->at < '0' || *r->at > '9')
            return false;
        value = value * 10 + (*r->at - '0');
    }
    *ret_value = value;
    return value >= least && value <= most;
}

static bool is_digit_next(const struct reader *r)
{
    return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

static int days_of_month(int year, int month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar, years from 1 on. */
static int64_t days_since_epoch(int year, int month, int day)
{
    int64_t past = year - 1, days = past * 365 + past / 4 - past / 100 + past / 400;
    for (int i = 1; i < month; i++)
        days += days_of_month(year, i);
    return days + day - 1 - 719162;
}

/* YYYY-MM-DD or YYYYMMDD */
static bool read_date(struct reader *r, int64_t *ret_days)
{
    int year, month, day;
    if (!number(r, 4, 1, 9999, &year))
        return false;
    bool dashes = take(r, '-');
    if (!number(r, 2, 1, 12, &month) || (dashes && !take(r, '-')) ||
        !number(r, 2, 1, days_of_month(year, month), &day))
        return false;
    *ret_days = days_since_epoch(year, month, day);
    return true;
}

/* Digits after the point; those beyond microseconds are dropped, as Python does. */
static bool read_fraction(struct reader *r, int64_t *ret_micros)
{
    int64_t unit = SECOND;
    *ret_micros = 0;
    if (!is_digit_next(r))
        return false;
    for (; is_digit_next(r); r->at++) {
        unit /= 10;
        *ret_micros += unit * (*r->at - '0');
    }
    return true;
}

/* hh[:mm[:ss[.f]]] or hh[mm[ss[.f]]] */
static bool read_clock(struct reader *r, int most_hours, int64_t *ret_micros)
{
    int hours, minutes = 0, seconds = 0;
    int64_t fraction = 0;
    if (!number(r, 2, 0, most_hours, &hours))
        return false;
    bool colons = take(r, ':');
    if (colons || is_digit_next(r)) {
        if (!number(r, 2, 0, 59, &minutes))
            return false;
        if (colons ? take(r, ':') : is_digit_next(r)) {
            if (!number(r, 2, 0, 59, &seconds))
                return false;
            if ((take(r, '.') || take(r, ',')) && !read_fraction(r, &fraction))
                return false;
        }
    }
    *ret_micros = (hours * 3600 + minutes * 60 + seconds) * (int64_t)SECOND + fraction;
    return true;
}

static bool read_offset(struct reader *r, int64_t *ret_offset)
{
    *ret_offset = 0;
    if (r->at == r->end || take(r, 'Z') || take(r, 'z'))
        return true;
    bool minus = take(r, '-');
    if ((!minus && !take(r, '+')) || !read_clock(r, 23, ret_offset))
        return false;
    if (minus)
        *ret_offset = -*ret_offset;
    return true;
}

int time_parse(const char *text, size_t size, int64_t *ret_time)
{
    struct reader r = {text, text + size};
    int64_t days, clock = 0, offset = 0;
    if (!read_date(&r, &days))
        return ERROR_INVALID;
    if (r.at < r.end) {
        bool mark = take(&r, 'T') || take(&r, ' ') || take(&r, 't');
        if (!mark || !read_clock(&r, 23, &clock) || !read_offset(&r, &offset) || r.at < r.end)
            return ERROR_INVALID;
    }
    *ret_time = days * 86400 * (int64_t)SECOND + clock - offset;
    return 0;
}

char *time_print(int64_t time, char out[40])
{
    int64_t micros = time % SECOND;
    if (micros < 0)
        micros += SECOND;
    time_t seconds = (time - micros) / SECOND;
    struct tm tm = {0};
    gmtime_r(&seconds, &tm);
    size_t used = (size_t)snprintf(out, 40, "%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900,
                                   tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
    if (micros)
        used += (size_t)snprintf(out + used, 40 - used, ".%06d", (int)micros);
    snprintf(out + used, 40 - used, "+00:00");
    return out;
}
