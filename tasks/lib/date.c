/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/date.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Dates as feeds and tools write them. */

static int zone_minutes(const char *text)
{
    int hours = 0, minutes = 0;
    text += strspn(text, " ");
    if (*text != '+' && *text != '-')
        return 0;
    if (sscanf(text + 1, "%2d:%2d", &hours, &minutes) < 2)
        sscanf(text + 1, "%2d%2d", &hours, &minutes);
    return (*text == '-' ? -1 : 1) * (hours * 60 + minutes);
}

static int64_t fraction_ms(const char **text)
{
    int64_t ms = 0;
    int64_t scale = 100;
    if (**text != '.')
        return 0;
    for ((*text)++; **text >= '0' && **text <= '9'; (*text)++, scale /= 10)
        ms += (**text - '0') * scale;
    return ms;
}

int64_t date_read(const char *text)
{
    struct tm tm = {0};
    int used = 0;
    char t = 'T';
    if (!text || !*text)
        return DATE_NONE;
    size_t size = strlen(text);
    if (size <= 12 && !text[strspn(text, "0123456789")] && size > 8)
        return (int64_t)strtoll(text, NULL, 10) * 1000;
    int fields = sscanf(text, "%4d-%2d-%2d%c%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
                        &t, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &used);
    bool dated = fields == 3 || (fields == 7 && (t == 'T' || t == ' ' || t == 't'));
    if (!dated || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 ||
        tm.tm_hour > 24 || tm.tm_min > 59 || tm.tm_sec > 60 || tm.tm_year < 1970)
        return DATE_NONE;
    tm.tm_year -= 1900;
    tm.tm_mon--;
    const char *rest = fields == 7 ? text + used : "";
    int64_t ms = fraction_ms(&rest);
    return ((int64_t)timegm(&tm) - 60 * zone_minutes(rest)) * 1000 + ms;
}
