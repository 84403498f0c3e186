/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/zap_lease.h"

#include "tasks/lib/check.h"
#include "tasks/lib/mongo.h"
#include "tasks/lib/targets.h"
#include "tasks/scans/zap.h"

#include <string.h>
#include <strings.h>
#include <unistd.h>

/* A document of zap_daemons, under the daemon's URL, says which task has it and until when (by the
 * store's clock: workers' own ones may differ by more than the lease lasts); it is
 * made longer while the scan runs. A kill -9 leaves it: the same task, come back, takes it at once,
 * another one when the time is over. Whoever finds that the one before did not end well stops what
 * that one had started. */

enum { LEASE_MS = 180000 };
static const double keep_every = 30;

/* Each host, or pod, may have a daemon of its own at the same loopback address. */
static const char *name_of_daemon(cw_task *t)
{
    const char *url = zap_daemon(t), *host = url_host(t, url);
    char here[256] = "";
    if (!target_is_covered(host, "127.0.0.0/8") && !target_is_covered(host, "::1") &&
        strcasecmp(host, "localhost") != 0)
        return url;
    gethostname(here, sizeof here - 1);
    return cw_printf(t, "%s on %s", url, here);
}

static bson_t *filter_of(cw_task *t)
{
    bson_t *filter = bson_new();
    doc_put(filter, "_id", name_of_daemon(t), 1000);
    return filter;
}

static bson_t *lease_of(cw_task *t, const char *scan_id, int64_t now)
{
    return BCON_NEW("holder", BCON_UTF8(cw_info(t)->id), "scan_id", BCON_UTF8(scan_id),
                    "leased_until", BCON_DATE_TIME(now + LEASE_MS), "unclean", BCON_BOOL(false));
}

static int insert(cw_task *t, const char *scan_id, int64_t now)
{
    bson_t *document = filter_of(t), *lease = lease_of(t, scan_id, now);
    bson_concat(document, lease);
    int code = mongo_insert(t, "zap_daemons", document);
    bson_destroy(document);
    bson_destroy(lease);
    return code;
}

static int take_over(cw_task *t, const char *scan_id, int64_t now)
{
    bson_t *filter = filter_of(t), *lease = lease_of(t, scan_id, now), update = BSON_INITIALIZER;
    BCON_APPEND(filter, "$or", "[", "{", "holder", BCON_NULL, "}", "{", "holder",
                BCON_UTF8(cw_info(t)->id), "}", "{", "leased_until", "{", "$lt",
                BCON_DATE_TIME(now), "}", "}", "]");
    BSON_APPEND_DOCUMENT(&update, "$set", lease);
    int code = mongo_update(t, "zap_daemons", filter, &update, false);
    bson_destroy(filter);
    bson_destroy(lease);
    bson_destroy(&update);
    return code;
}

static int stop_all(cw_task *t)
{
    return zap_get(t, "spider/action/stopAllScans/", "") &&
                   zap_get(t, "ascan/action/stopAllScans/", "")
               ? 1
               : -1;
}

int zap_claim(cw_task *t, const char *scan_id)
{
    const bson_t *former = NULL;
    int64_t now = mongo_now(t);
    if (now < 0)
        return -1;
    bson_t *filter = filter_of(t);
    int found = mongo_find(t, "zap_daemons", filter, NULL, &former);
    bson_destroy(filter);
    int code = found == 0 ? insert(t, scan_id, now) : found < 0 ? -1 : take_over(t, scan_id, now);
    if (code <= 0 || found == 0)
        return code;
    if (!doc_text(former, "holder") && !doc_bool(former, "unclean", false))
        return 1;
    code = stop_all(t);
    if (code < 0)
        zap_release(t, false);
    return code;
}

static int update_ours(cw_task *t, bson_t *set)
{
    bson_t *filter = filter_of(t), update = BSON_INITIALIZER;
    BSON_APPEND_UTF8(filter, "holder", cw_info(t)->id);
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    int code = mongo_update(t, "zap_daemons", filter, &update, false);
    bson_destroy(filter);
    bson_destroy(set);
    bson_destroy(&update);
    return code;
}

int zap_keep(cw_task *t, double seconds, double *kept_at)
{
    if (seconds - *kept_at < keep_every)
        return 0;
    *kept_at = seconds;
    int64_t now = mongo_now(t);
    if (now < 0)
        return -1;
    int code = update_ours(t, BCON_NEW("leased_until", BCON_DATE_TIME(now + LEASE_MS)));
    return code ? (code < 0 ? -1 : 0)
                : cw_problem(t, true, "RuntimeError", "another scan has taken over ZAP");
}

void zap_release(cw_task *t, bool clean)
{
    bson_t *set = BCON_NEW("holder", BCON_NULL, "unclean", BCON_BOOL(!clean));
    if (update_ours(t, set) < 0)
        cw_log(t, CW_WARNING, "ZAP stays taken for %d s: it could not be given back",
               LEASE_MS / 1000);
}
