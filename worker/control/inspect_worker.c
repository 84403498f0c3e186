/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/mailbox.h"

#include "broker/url.h"
#include "proto/base/mem.h"
#include "worker/autoscale.h"
#include "worker/events.h"
#include "worker/log.h"
#include "worker/pool/lane.h"
#include "worker/registry.h"
#include "worker/report.h"
#include "worker/revoked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* What a worker says of itself: ping, clock, stats, report, conf, memory. The keys are Celery's, so
 * that Flower and exporters read them; a value that Python alone could have is the nearest that is
 * true. */

cJSON *call_ping(struct call *call)
{
    (void)call;
    return call_ok("pong");
}

cJSON *call_clock(struct call *call)
{
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddItemToObject(reply, "clock", json_int(call->worker->clock.value));
    return reply;
}

cJSON *call_report(struct call *call)
{
    char *text = report_text(call->worker->options);
    cJSON *reply = call_ok("%s", text);
    free(text);
    return reply;
}

/* What Celery's workers tell in any case, whether it differs from the default or not. */
static void add_always(const struct settings *s, cJSON *conf)
{
    static const char *const names[] = {"broker_url", "result_backend", "timezone", "enable_utc",
                                        "accept_content", "include", "broker_heartbeat",
                                        "deprecated_settings", "worker_hijack_root_logger",
                                        "worker_log_color"};
    cJSON *all = settings_dump(s, true);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!json_get(conf, names[i]))
            json_set(conf, names[i],
                     cJSON_DetachItemFromObjectCaseSensitive(all, names[i]) ?: cJSON_CreateNull());
    cJSON_Delete(all);
}

cJSON *call_conf(struct call *call)
{
    const struct settings *s = &call->worker->options->settings;
    cJSON *conf = settings_dump(s, call_flag(call, "with_defaults"));
    add_always(s, conf);
    return conf;
}

/* --- stats ------------------------------------------------------------------------------------ */

static cJSON *totals(const struct worker *w)
{
    cJSON *total = cJSON_CreateObject();
    for (int i = 0; i < registry_size; i++)
        if (w->totals[i])
            cJSON_AddItemToObject(total, registry[i].def->name, json_int((int64_t)w->totals[i]));
    return total;
}

static void add_share(struct buf *out, double part, double whole)
{
    buf_printf(out, "%s%.2f", out->size ? ", " : "", whole > 0 ? part / whole : 0);
}

/* How the jobs were spread over the children. */
static cJSON *pool_writes(const struct pool *p)
{
    uint64_t counts[LANES_MAX], total = 0;
    int n = pool_counts(p, counts, LANES_MAX);
    struct buf all = BUF_INIT(1 << 16), raw = BUF_INIT(1 << 16), average = BUF_INIT(64);
    for (int i = 0; i < n; i++)
        total += counts[i];
    for (int i = 0; i < n; i++) {
        add_share(&all, (double)counts[i], (double)total);
        buf_printf(&raw, "%s%llu", i ? ", " : "", (unsigned long long)counts[i]);
    }
    add_share(&average, n ? (double)total / n : 0, (double)total);
    cJSON *writes = cJSON_CreateObject(), *queues;
    cJSON_AddItemToObject(writes, "total", json_int((int64_t)total));
    cJSON_AddStringToObject(writes, "avg", average.data);
    cJSON_AddStringToObject(writes, "all", all.data ? all.data : "");
    cJSON_AddStringToObject(writes, "raw", raw.data ? raw.data : "");
    cJSON_AddStringToObject(writes, "strategy", "fair");
    queues = cJSON_AddObjectToObject(writes, "inqueues");
    cJSON_AddItemToObject(queues, "total", json_int(n));
    cJSON_AddItemToObject(queues, "active", json_int(pool_running(p) < n ? pool_running(p) : n));
    buf_done(&all);
    buf_done(&raw);
    buf_done(&average);
    return writes;
}

static cJSON *number_of(double value)
{
    return value == (double)(int64_t)value ? json_int((int64_t)value) : cJSON_CreateNumber(value);
}

static cJSON *processes_of(const struct pool *p, bool solo)
{
    pid_t pids[LANES_MAX];
    int n = solo ? 0 : pool_pids(p, pids, LANES_MAX);
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(list, json_int(pids[i]));
    if (solo)
        cJSON_AddItemToArray(list, json_int(getpid()));
    return list;
}

static cJSON *prefork_stats(const struct worker *w, cJSON *stats)
{
    const struct settings *s = &w->options->settings;
    int64_t most = s->worker_max_tasks_per_child;
    cJSON_AddItemToObject(stats, "processes", processes_of(w->pool, false));
    cJSON_AddItemToObject(stats, "max-tasks-per-child",
                          most > 0 ? json_int(most) : cJSON_CreateString("N/A"));
    cJSON_AddFalseToObject(stats, "put-guarded-by-semaphore");
    cJSON *timeouts = cJSON_AddArrayToObject(stats, "timeouts");
    cJSON_AddItemToArray(timeouts, number_of(s->task_soft_time_limit));
    cJSON_AddItemToArray(timeouts, number_of(s->task_time_limit));
    cJSON_AddItemToObject(stats, "writes", pool_writes(w->pool));
    return stats;
}

/* Celery's pools each have their own keys. */
static cJSON *pool_stats(const struct worker *w)
{
    const char *kind = w->options->settings.worker_pool;
    bool solo = strcmp(kind, "solo") == 0, threads = strcmp(kind, "threads") == 0;
    cJSON *stats = cJSON_CreateObject();
    cJSON_AddStringToObject(stats, "implementation",
                            solo      ? "celery.concurrency.solo:TaskPool"
                            : threads ? "celery.concurrency.thread:TaskPool"
                                      : "celery.concurrency.prefork:TaskPool");
    cJSON_AddItemToObject(stats, "max-concurrency", json_int(pool_lanes(w->pool)));
    if (threads) {
        cJSON_AddItemToObject(stats, "threads", json_int(pool_lanes(w->pool)));
        return stats;
    }
    if (!solo)
        return prefork_stats(w, stats);
    cJSON_AddItemToObject(stats, "processes", processes_of(w->pool, true));
    cJSON_AddNullToObject(stats, "max-tasks-per-child");
    cJSON_AddTrueToObject(stats, "put-guarded-by-semaphore");
    cJSON_AddArrayToObject(stats, "timeouts");
    return stats;
}

static void add_text_or_null(cJSON *object, const char *key, const char *text)
{
    cJSON_AddItemToObject(object, key, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static cJSON *broker_stats(const struct settings *s)
{
    struct redis_url url = {0};
    cJSON *stats = cJSON_CreateObject();
    char db[16] = "0";
    if (settings_broker(s, &url, NULL) == 0)
        snprintf(db, sizeof db, "%d", url.db);
    add_text_or_null(stats, "hostname", url.socket_path ? url.socket_path : url.host);
    add_text_or_null(stats, "userid", url.user);
    cJSON_AddStringToObject(stats, "virtual_host", db);
    cJSON_AddItemToObject(stats, "port", url.socket_path ? cJSON_CreateNull() : json_int(url.port));
    cJSON_AddFalseToObject(stats, "insist");
    cJSON_AddItemToObject(stats, "ssl", cJSON_CreateBool(url.tls));
    cJSON_AddStringToObject(stats, "transport", url.tls ? "rediss" : "redis");
    cJSON_AddItemToObject(stats, "connect_timeout", json_int(4));
    cJSON_AddObjectToObject(stats, "transport_options");
    cJSON_AddNullToObject(stats, "login_method");
    cJSON_AddNullToObject(stats, "uri_prefix");
    cJSON_AddItemToObject(stats, "heartbeat", json_number("120.0"));
    cJSON_AddStringToObject(stats, "failover_strategy", "round-robin");
    cJSON_AddArrayToObject(stats, "alternates");
    cJSON_AddNullToObject(stats, "credential_provider");
    redis_url_done(&url);
    return stats;
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static cJSON *rusage_stats(void)
{
    struct rusage u;
    cJSON *stats = cJSON_CreateObject();
    getrusage(RUSAGE_SELF, &u);
    cJSON_AddNumberToObject(stats, "utime", seconds_of(u.ru_utime));
    cJSON_AddNumberToObject(stats, "stime", seconds_of(u.ru_stime));
    const struct {
        const char *name;
        long value;
    } rows[] = {
        {"maxrss", u.ru_maxrss},   {"ixrss", u.ru_ixrss},     {"idrss", u.ru_idrss},
        {"isrss", u.ru_isrss},     {"minflt", u.ru_minflt},   {"majflt", u.ru_majflt},
        {"nswap", u.ru_nswap},     {"inblock", u.ru_inblock}, {"oublock", u.ru_oublock},
        {"msgsnd", u.ru_msgsnd},   {"msgrcv", u.ru_msgrcv},   {"nsignals", u.ru_nsignals},
        {"nvcsw", u.ru_nvcsw},     {"nivcsw", u.ru_nivcsw},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cJSON_AddItemToObject(stats, rows[i].name, json_int(rows[i].value));
    return stats;
}

static cJSON *autoscaler_stats(const struct worker *w)
{
    struct autoscale_range range = autoscale_get(w);
    cJSON *stats = cJSON_CreateObject();
    cJSON_AddItemToObject(stats, "max", json_int(range.max));
    cJSON_AddItemToObject(stats, "min", json_int(range.min));
    cJSON_AddItemToObject(stats, "current", json_int(pool_lanes(w->pool)));
    cJSON_AddItemToObject(stats, "qty", json_int((int64_t)w->n_waiting));
    return stats;
}

static cJSON *events_stats(const struct worker *w)
{
    struct events_count count = events_count(w);
    cJSON *stats = cJSON_CreateObject();
    cJSON_AddItemToObject(stats, "sent", json_int(count.sent));
    cJSON_AddItemToObject(stats, "dropped", json_int(count.dropped));
    cJSON_AddItemToObject(stats, "waiting", json_int(count.waiting));
    return stats;
}

cJSON *call_stats(struct call *call)
{
    const struct worker *w = call->worker;
    const struct settings *s = &w->options->settings;
    cJSON *stats = cJSON_CreateObject();
    char clock[24];
    snprintf(clock, sizeof clock, "%lld", (long long)w->clock.value);
    cJSON_AddItemToObject(stats, "total", totals(w));
    cJSON_AddItemToObject(stats, "pid", json_int(getpid()));
    cJSON_AddStringToObject(stats, "clock", clock);
    cJSON_AddItemToObject(stats, "uptime",
                          json_int((monotonic_now() - call->control->started) / 1000000));
    cJSON_AddItemToObject(stats, "pool", pool_stats(w));
    if (w->autoscale)
        cJSON_AddItemToObject(stats, "autoscaler", autoscaler_stats(w));
    cJSON_AddItemToObject(stats, "broker", broker_stats(s));
    cJSON_AddItemToObject(stats, "prefetch_count",
                          json_int(pool_lanes(w->pool) * s->worker_prefetch_multiplier));
    cJSON_AddItemToObject(stats, "rusage", rusage_stats());
    if (events_count(w).dropped) /* beside Celery's members only when there is something to tell */
        cJSON_AddItemToObject(stats, "events", events_stats(w));
    return stats;
}

/* --- memory ----------------------------------------------------------------------------------- */

enum { SAMPLES_MOST = 1000 };

/* Five digits and a unit, as Celery's humanbytes. */
static char *resident_size(void)
{
    static const char *const units[] = {"KB", "MB", "GB", "TB"};
    long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%*s %lld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    double size = (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
    size_t unit = 0;
    while (size >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        size /= 1024;
        unit++;
    }
    return mem_printf("%.5g%s", size, units[unit]);
}

cJSON *call_memsample(struct call *call)
{
    struct control *c = call->control;
    char *size = resident_size();
    cJSON *reply = cJSON_CreateString(size);
    if (cJSON_GetArraySize(c->samples) >= SAMPLES_MOST)
        cJSON_DeleteItemFromArray(c->samples, 0);
    cJSON_AddItemToArray(c->samples, cJSON_CreateString(size));
    free(size);
    return reply;
}

cJSON *call_memdump(struct call *call)
{
    struct control *c = call->control;
    int64_t most = 10;
    json_as_int(call_argument(call, "samples"), &most);
    struct buf out = BUF_INIT(1 << 20);
    int n = cJSON_GetArraySize(c->samples);
    int step = most > 0 && n > most ? n / (int)most : 1;
    if (n)
        buf_str(&out, "- rss (sample):\n");
    for (int i = 0; i < n; i += step)
        buf_printf(&out, "-    > %s,\n", cJSON_GetArrayItem(c->samples, i)->valuestring);
    char *size = resident_size();
    buf_printf(&out, "- rss (end): %s.\n", size);
    cJSON *reply = cJSON_CreateString(out.data);
    free(size);
    buf_done(&out);
    cJSON_Delete(c->samples);
    c->samples = cJSON_CreateArray();
    return reply;
}

cJSON *call_objgraph(struct call *call)
{
    (void)call;
    return call_raise("NotImplementedError",
                      "objgraph draws Python objects: this worker is written in C and has none");
}

/* --- hello ------------------------------------------------------------------------------------ */

/* {id: [seconds, id]}, as Celery's workers exchange what is revoked; the seconds are those of the
 * epoch, which a Python worker reads as "just now". */
cJSON *revoked_exchange(struct worker *w)
{
    revoked_purge(w->revoked, worker_now(w));
    cJSON *ids = revoked_ids(w->revoked), *all = cJSON_CreateObject();
    while (ids->child) {
        cJSON *when = cJSON_DetachItemViaPointer(ids, ids->child), *pair = cJSON_CreateArray();
        char *id = mem_dup(when->string);
        cJSON_AddItemToArray(pair, when);
        cJSON_AddItemToArray(pair, cJSON_CreateString(id));
        cJSON_AddItemToObject(all, id, pair);
        free(id);
    }
    cJSON_Delete(ids);
    return all;
}

/* From Celery before 5.7 an object, after it a list of ids. */
void revoked_take(struct worker *w, const cJSON *revoked)
{
    revoked_add_ids(w->revoked, revoked, worker_now(w));
    const cJSON *id;
    if (cJSON_IsArray(revoked))
        cJSON_ArrayForEach(id, revoked)
            if (cJSON_IsString(id))
                revoked_add(w->revoked, id->valuestring, worker_now(w));
}

cJSON *call_hello(struct call *call)
{
    struct worker *w = call->worker;
    const char *from = json_get_string(call->arguments, "from_node");
    if (from && strcmp(from, w->options->hostname) == 0)
        return NULL;
    log_info("sync with %s", from ? from : "None");
    revoked_take(w, call_argument(call, "revoked"));
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddItemToObject(reply, "revoked", revoked_exchange(w));
    cJSON_AddItemToObject(reply, "clock", json_int(lamport_forward(&w->clock)));
    return reply;
}
