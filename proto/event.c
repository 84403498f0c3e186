/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/event.h"
#include "proto/time.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* Fields are written straight into the text: thousands of events a second leave no time for
 * trees. */

static void put_name(struct buf *out, const char *name)
{
    buf_add(out, ", \"", 3);
    buf_str(out, name);
    buf_add(out, "\": ", 3);
}

static void put_string(struct buf *out, const char *value)
{
    json_print_string(value, strlen(value), out);
}

void event_begin(const struct event *e, struct buf *out)
{
    buf_str(out, "{\"hostname\": ");
    put_string(out, e->hostname);
    event_int(out, "utcoffset", event_utcoffset(e->timestamp));
    event_int(out, "pid", e->pid);
    event_int(out, "clock", e->clock);
}

void event_text(struct buf *out, const char *name, const char *value)
{
    put_name(out, name);
    if (value)
        put_string(out, value);
    else
        buf_str(out, "null");
}

void event_int(struct buf *out, const char *name, int64_t value)
{
    put_name(out, name);
    buf_printf(out, "%lld", (long long)value);
}

void event_real(struct buf *out, const char *name, double value)
{
    put_name(out, name);
    cJSON number = {.type = cJSON_Number, .valuedouble = value};
    json_print(&number, out);
    if (value == floor(value) && fabs(value) < 1e15)
        buf_str(out, ".0");
}

void event_flag(struct buf *out, const char *name, bool value)
{
    put_name(out, name);
    buf_str(out, value ? "true" : "false");
}

void event_time(struct buf *out, const char *name, int64_t time)
{
    char text[40];
    event_text(out, name, time == TIME_NONE ? NULL : time_print(time, text));
}

void event_end(const struct event *e, struct buf *out)
{
    put_name(out, "timestamp");
    buf_printf(out, "%lld.%06lld", (long long)(e->timestamp / 1000000),
               (long long)(e->timestamp % 1000000));
    event_text(out, "type", e->type);
    buf_char(out, '}');
}

void event_sent(const struct event *e, const struct message *m, const char *queue, struct buf *out)
{
    event_begin(e, out);
    event_text(out, "uuid", m->id);
    event_text(out, "root_id", m->root_id);
    event_text(out, "parent_id", m->parent_id);
    event_text(out, "name", m->task);
    event_text(out, "args", m->argsrepr ? m->argsrepr : "");
    event_text(out, "kwargs", m->kwargsrepr ? m->kwargsrepr : "");
    event_int(out, "retries", m->retries);
    event_time(out, "eta", m->eta);
    event_time(out, "expires", m->expires);
    event_text(out, "queue", queue);
    event_text(out, "exchange", m->exchange ? m->exchange : "");
    event_text(out, "routing_key", m->routing_key ? m->routing_key : queue);
    event_end(e, out);
}

int event_utcoffset(int64_t timestamp)
{
    static time_t known_until; /* zones change at full quarters of an hour */
    static int hours;
    time_t seconds = (time_t)(timestamp / 1000000);
    if (seconds >= known_until || seconds < known_until - 900) {
        struct tm tm = {0};
        localtime_r(&seconds, &tm);
        hours = (int)floor((double)-tm.tm_gmtoff / 3600);
        known_until = seconds - seconds % 900 + 900;
    }
    return hours;
}
