/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/targets.h"
#include "tasks/scans/native.h"
#include "tasks/scans/scans.h"
#include "tasks/scans/zap.h"
#include "tasks/scans/zap_lease.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* execute_web_scan: OWASP ZAP over one URL: spider, passive rules, active ones where options.active
 * says so, then its alerts under that URL. One scan at a time has the daemon: others come back. Each
 * has a session of its own, else it would find what others, and former ones, had found. ZAP
 * works on its own while we ask how far it is, so that a cancelled or late scan stops ZAP's too;
 * after a kill, or a revocation, the next one that gets the daemon does. */

enum { ORIGIN_SIZE = 300 };

struct web {
    struct native_scan *s;
    double started, kept_at;
    bool lost; /* the daemon is not ours any more */
    bool late;
    const char *url; /* escaped, for queries */
    char origin[ORIGIN_SIZE];
    const char *path; /* of the target, with which those of its alerts begin */
    size_t path_size;
};

static double clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* "http://host:port", in lower case and without the scheme's own port, as ZAP may or may not write
 * it; where the path begins. */
static const char *origin_read(const char *url, char ret[ORIGIN_SIZE])
{
    const char *slashes = strstr(url, "://"), *host = slashes ? slashes + 3 : url;
    const char *end = host + strcspn(host, "/?#");
    size_t size = (size_t)(end - url);
    size = size < ORIGIN_SIZE ? size : ORIGIN_SIZE - 1;
    for (size_t i = 0; i < size; i++)
        ret[i] = (char)tolower((unsigned char)url[i]);
    ret[size] = '\0';
    const char *port = strncmp(ret, "https:", 6) == 0 ? ":443" : ":80";
    size_t n = strlen(port);
    if (size > n && strcmp(ret + size - n, port) == 0)
        ret[size - n] = '\0';
    return end;
}

static int prepare(struct native_scan *s)
{
    struct web *w = cw_alloc(s->t, sizeof *w);
    w->s = s;
    w->started = clock_seconds();
    s->own = w;
    s->host = "";
    if (!s->target || !check_url(s->target))
        return cw_problem(s->t, false, "ValueError", "target must be an http or https URL");
    s->host = url_host(s->t, s->target);
    if (!target_is_valid(s->host) || strchr(s->host, '/'))
        return cw_problem(s->t, false, "ValueError", "target must be an http or https URL");
    w->path = origin_read(s->target, w->origin);
    /* A host in capitals is another one to ZAP than that of the links that it finds there. */
    w->url = url_escape(s->t, cw_printf(s->t, "%s%.*s", w->origin, (int)strcspn(w->path, "#"),
                                        w->path));
    w->path_size = strcspn(w->path, "?#");
    w->path_size = w->path_size == 1 ? 0 : w->path_size;
    return 0;
}

/* --- ZAP's steps --- */

static void stop_scan(struct web *w, const char *kind, int64_t id)
{
    zap_get(w->s->t, cw_printf(w->s->t, "%s/action/stop/", kind),
            cw_printf(w->s->t, "scanId=%lld", (long long)id));
}

static int keep(struct web *w)
{
    w->lost = zap_keep(w->s->t, clock_seconds() - w->started, &w->kept_at) < 0;
    return w->lost ? -1 : 0;
}

/* Once the task's own limit has come ZAP could not be told to stop any more. */
static bool is_late(const struct web *w)
{
    static const double reserve = 20;
    int64_t limit = doc_int(w->s->document, "options.max_minutes", 50) * 60;
    return clock_seconds() - w->started > (double)limit || cw_time_left(w->s->t) < reserve;
}

static int too_late(const struct web *w)
{
    return cw_problem(w->s->t, false, "TimeoutError",
                      "ZAP's %s took more than options.max_minutes, or than the task may last",
                      w->s->phase);
}

static int rest(struct web *w)
{
    w->late = is_late(w);
    if (w->late)
        return too_late(w);
    if (cw_sleep(w->s->t, 1) < 0 || keep(w) < 0)
        return -1;
    return native_tick(w->s, clock_seconds() - w->started);
}

/* Starts a spider or an active scan and waits until it says 100. */
static int run_step(struct web *w, const char *kind, const char *options, double from, double to)
{
    cw_task *t = w->s->t;
    w->s->phase = kind;
    const cJSON *reply = zap_get(t, cw_printf(t, "%s/action/scan/", kind),
                                 cw_printf(t, "url=%s%s", w->url, options));
    int64_t id = zap_number(reply, "scan", -1);
    if (!reply || id < 0)
        return reply ? cw_problem(t, false, "ValueError", "ZAP's %s gives no scan id", kind) : -1;
    for (;;) {
        reply = zap_get(t, cw_printf(t, "%s/view/status/", kind),
                        cw_printf(t, "scanId=%lld", (long long)id));
        int64_t percent = zap_number(reply, "status", -1);
        if (!reply)
            return -1;
        if (percent < 0) {
            stop_scan(w, kind, id);
            return cw_problem(t, false, "ValueError", "ZAP's %s does not say how far it is", kind);
        }
        w->s->percent = from + (to - from) * (double)percent / 100;
        if (percent >= 100)
            return 0;
        if (rest(w) == 0)
            continue;
        if (w->lost || cw_stopping(t) != CW_GO)
            return -1;
        stop_scan(w, kind, id);
        return w->late             ? too_late(w)
               : w->s->state.ended ? cw_problem(t, false, "RuntimeError", "the scan was cancelled")
                                   : -1;
    }
}

static int wait_passive(struct web *w)
{
    w->s->phase = "passive";
    for (;;) {
        const cJSON *reply = zap_get(w->s->t, "pscan/view/recordsToScan/", "");
        int64_t left = zap_number(reply, "recordsToScan", -1);
        if (!reply)
            return -1;
        if (left < 0)
            return cw_problem(w->s->t, false, "ValueError",
                              "ZAP does not say how much its passive rules have to read");
        if (left == 0)
            return 0;
        if (rest(w) < 0)
            return -1;
    }
}

/* ZAP's spider comes to its end at a site that is down too: that is no clean one. */
static int check_reached(const struct web *w)
{
    cw_task *t = w->s->t;
    const cJSON *reply = zap_get(t, "core/view/sites/", "");
    const cJSON *sites = cJSON_GetObjectItemCaseSensitive(reply, "sites");
    if (!reply)
        return -1;
    return cJSON_IsArray(sites) && !sites->child
               ? cw_problem(t, true, "ConnectionError", "ZAP reached nothing at %.300s", w->origin)
               : 0;
}

/* --- findings --- */

static bool is_of_target(const struct web *w, const char *url)
{
    char origin[ORIGIN_SIZE];
    const char *path = origin_read(url, origin);
    return strcmp(origin, w->origin) == 0 && strncmp(path, w->path, w->path_size) == 0;
}

static int on_alert(cw_task *t, const cJSON *alert, void *arg)
{
    static const struct field {
        const char *field, *member;
        size_t max;
    } fields[] = {
        {"check_id", "pluginId", 64},
        {"title", "name", 300},
        {"confidence", "confidence", 64},
        {"url", "url", 2048},
        {"method", "method", 16},
        {"param", "param", 300},
        {"attack", "attack", 1024},
        {"evidence", "evidence", 1024},
        {"description", "description", 8192},
        {"solution", "solution", 8192},
        {"cwe", "cweid", 16},
    };
    struct web *w = arg;
    const char *plugin = tree_text(alert, "pluginId"), *url = tree_text(alert, "url");
    const char *method = tree_text(alert, "method"), *param = tree_text(alert, "param");
    if (!plugin || !url)
        return cw_problem(t, false, "ValueError", "ZAP: an alert without pluginId or url");
    if (!is_of_target(w, url))
        return keep(w);
    bson_t set = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&set, "tool", "zap");
    BSON_APPEND_UTF8(&set, "type", "web");
    doc_put(&set, "host", w->s->host, 255);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        doc_put(&set, fields[i].field, tree_text(alert, fields[i].member), fields[i].max);
    char key[1024]; /* not the delivery's memory: a hundred thousand long URLs */
    snprintf(key, sizeof key, "zap %.40s %.16s %.*s %.200s", plugin, method ? method : "",
             (int)strcspn(url, "?#"), url, param ? param : "");
    int code = native_finding(w->s, key, tree_text(alert, "risk"), &set);
    bson_destroy(&set);
    return code < 0 ? -1 : keep(w);
}

static int scan(struct native_scan *s)
{
    struct web *w = s->own;
    bool active = doc_bool(s->document, "options.active", false);
    const cJSON *version = zap_get(s->t, "core/view/version/", "");
    if (!version || !zap_get(s->t, "core/action/newSession/", "") ||
        run_step(w, "spider", "&recurse=true&subtreeOnly=true", 0, active ? 30 : 90) < 0 ||
        check_reached(w) < 0 || wait_passive(w) < 0)
        return -1;
    if (active && (run_step(w, "ascan", "&recurse=true", 30, 90) < 0 || wait_passive(w) < 0))
        return -1;
    int more = zap_each_alert(s->t, on_alert, w);
    if (more < 0)
        return -1;
    doc_put(s->summary, "zap_version", tree_text(version, "version"), 64);
    BSON_APPEND_BOOL(s->summary, "active", active);
    BSON_APPEND_BOOL(s->summary, "truncated", more > 0);
    return 0;
}

static int claim(struct native_scan *s)
{
    return zap_claim(s->t, s->state.id);
}

static void release(struct native_scan *s, bool clean)
{
    zap_release(s->t, clean);
}

cw_outcome execute_web_scan(cw_task *t)
{
    static const struct field_rule fields[] = {
        {"options", CW_OBJECT, 0, 0},
        {"options.active", CW_BOOL, 0, 0},
        {"options.max_minutes", CW_INT, 1, 1440},
        {0}};
    static const struct native_kind kind = {"web", fields, prepare, scan, claim, release};
    return native_run(t, &kind);
}
