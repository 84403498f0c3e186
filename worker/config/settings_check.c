/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings_private.h"

#include "broker/url.h"
#include "worker/pool/lane.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Which values are right, each looked at alone, and what is said of those that are not. */

/* Numbers are 0 or more; these are narrower (or wider than an int). */
static const struct bounds {
    const char *name;
    double min, max;
} bounds[] = {
    {"visibility_timeout", 1, 1e9},
    {"unacked_mutex_expire", 1, 1e9},
    {"unacked_restore_limit", 0, 1e9},
    {"worker_lease", 1, 86400},
    {"worker_concurrency", 0, LANES_MAX},
    {"task_max_deliveries", 1, 1e6},
    {"worker_max_memory_per_child", 0, 1e12},
    {"result_spool_size", 0, 1e15},
    {"message_max_size", 1024, 512.0 * 1024 * 1024},
};

/* Texts that are one of a few words. */
static const struct choice {
    const char *name, *words;
} choices[] = {
    {"worker_log_color", "auto true false"},
    {"queue_order_strategy", "round_robin priority sorted"},
};

int setting_check_number(const struct setting_row *row, double value, struct error *err)
{
    double min = 0, max = row->type == SETTING_INT ? INT32_MAX : 1e12;
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (strcmp(bounds[i].name, row->name) == 0) {
            min = bounds[i].min;
            max = bounds[i].max;
        }
    if (value >= min && value <= max)
        return 0;
    return error_set(err, ERROR_INVALID, "%s: %.15g is too %s: it goes from %.15g to %.15g%s%s",
                     row->name, value, value < min ? "small" : "large", min, max,
                     *row->unit ? " " : "", row->unit);
}

static int choice_check(const char *name, const char *words, const char *value, struct error *err)
{
    size_t size = strlen(value);
    for (const char *at = words; *at;) {
        size_t length = strcspn(at, " ");
        if (length == size && memcmp(at, value, size) == 0)
            return 0;
        at += length + (at[length] == ' ');
    }
    return error_set(err, ERROR_INVALID, "%s: \"%.60s\" is none of: %s", name, value, words);
}

static int pool_check(const char *value, struct error *err)
{
    if (strcmp(value, "eventlet") == 0 || strcmp(value, "gevent") == 0)
        return error_set(err, ERROR_UNSUPPORTED,
                         "worker_pool: %s is a pool of Python's; use prefork, or threads for tasks "
                         "that mostly wait",
                         value);
    return choice_check("worker_pool", "prefork processes threads solo", value, err);
}

bool settings_number(const char *text, size_t size, double *ret_number)
{
    char digits[64], *end = digits;
    size_t n = 0;
    for (; size && isspace((unsigned char)*text); text++)
        size--;
    while (size && isspace((unsigned char)text[size - 1]))
        size--;
    if (size && *text == '+') {
        text++;
        size--;
    }
    for (size_t i = 0; i < size && n < sizeof digits - 1; i++) {
        bool between = i && i + 1 < size && isdigit((unsigned char)text[i - 1]) &&
                       isdigit((unsigned char)text[i + 1]);
        if (text[i] != '_' || !between)
            digits[n++] = text[i];
    }
    digits[n] = '\0';
    bool decimal = n && n < sizeof digits - 1 && *digits != '+' && *digits != '-' &&
                   strspn(digits, "0123456789.eE+-") == n;
    *ret_number = decimal ? strtod(digits, &end) : -1;
    return decimal && !*end && isfinite(*ret_number);
}

/* Without a unit, or with a slash alone, it is a second, as in Celery. */
bool settings_rate(const char *text, double *ret_per_second)
{
    const char *slash = text ? strchr(text, '/') : NULL, *unit = slash ? slash + 1 : "";
    *ret_per_second = 0;
    if (!text || !*text)
        return true;
    if (*unit && (!strchr("smh", *unit) || unit[1]))
        return false;
    if (!settings_number(text, slash ? (size_t)(slash - text) : strlen(text), ret_per_second))
        return false;
    *ret_per_second /= *unit == 'h' ? 3600 : *unit == 'm' ? 60 : 1;
    return true;
}

static int rate_check(const char *value, struct error *err)
{
    double ignored;
    if (settings_rate(value, &ignored))
        return 0;
    return error_set(err, ERROR_INVALID,
                     "task_default_rate_limit: \"%.40s\" is no rate: write 10/s, 10/m or 10/h",
                     value);
}

static bool scheme_is(const char *url, const char *words)
{
    size_t size = strcspn(url, ":+");
    for (const char *at = words; *at;) {
        size_t length = strcspn(at, " ");
        if (length == size && strncasecmp(at, url, size) == 0)
            return true;
        at += length + (at[length] == ' ');
    }
    return false;
}

static int broker_check(const char *value, struct error *err)
{
    if (!strstr(value, "://"))
        return error_set(err, ERROR_INVALID,
                         "broker_url: this is no URL; it looks like redis://127.0.0.1:6379/0");
    if (scheme_is(value,
                  "amqp amqps pyamqp librabbitmq sqs memory filesystem sqla zookeeper consul "
                  "mongodb pyro qpid etcd azureservicebus azurestoragequeues gcpubsub "
                  "confluentkafka kafka slmq"))
        return error_set(err, ERROR_UNSUPPORTED,
                         "broker_url: cworker speaks Redis only: redis://, rediss:// or "
                         "redis+socket://, not %.*s://",
                         (int)strcspn(value, ":"), value);
    struct redis_url url;
    struct error why = {0};
    int code = redis_url_parse(value, &url, &why);
    if (code != 0)
        return error_set(err, code, "broker_url: %s", why.text);
    redis_url_done(&url);
    return 0;
}

static int backend_check(const char *value, struct error *err)
{
    bool known = scheme_is(value, "redis rediss unix sentinel mongodb file disabled");
    if (known && strstr(value, "://"))
        return 0;
    if (known)
        return error_set(err, ERROR_INVALID,
                         "result_backend: this is no URL; it looks like "
                         "mongodb://127.0.0.1/jobs or redis://127.0.0.1:6379/0");
    return error_set(
        err, ERROR_UNSUPPORTED,
        "result_backend: results go to mongodb://, redis://, sentinel:// or file://, or nowhere "
        "(disabled://); not to %.*s",
        (int)(strstr(value, ":") ? strcspn(value, ":") : 0), value);
}

int setting_check_text(const struct setting_row *row, const char *value, struct error *err)
{
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (strcmp(choices[i].name, row->name) == 0)
            return choice_check(row->name, choices[i].words, value, err);
    if (strcmp(row->name, "worker_pool") == 0)
        return pool_check(value, err);
    if (strcmp(row->name, "task_default_rate_limit") == 0)
        return rate_check(value, err);
    if (strcmp(row->name, "broker_url") == 0)
        return broker_check(value, err);
    if (strcmp(row->name, "result_backend") == 0)
        return backend_check(value, err);
    if (strcmp(row->name, "result_serializer") == 0 && strcmp(value, "json") != 0)
        return error_set(
            err, ERROR_UNSUPPORTED,
            "result_serializer: results are written as json only, \"%.40s\" is none of "
            "cworker's (pickle would run code of whoever can write to the store)",
            value);
    return 0;
}

enum { MOST_STEPS = 10 }; /* as many as a channel can have */

int setting_check_steps(char **list, struct error *err)
{
    long before = -1;
    int n = 0;
    for (; list[n]; n++) {
        char *end;
        long step = strtol(list[n], &end, 10);
        if (*end || end == list[n] || step <= before || step > 255)
            break;
        before = step;
    }
    if (n == 0 || n > MOST_STEPS || list[n])
        return error_set(err, ERROR_INVALID,
                         "priority_steps: must be 1 to %d rising whole numbers, as in 0,3,6,9",
                         MOST_STEPS);
    return 0;
}
