/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/native.h"

#include "tasks/lib/failure.h"
#include "tasks/lib/mirror.h"
#include "tasks/lib/targets.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>

/* The way of a native scan. Its document moves PENDING → RUNNING → COMPLETED or FAILED, each step
 * an update that does not touch a cancelled one, each followed by the mirror; findings are upserts.
 * So a kill -9 anywhere leaves a RUNNING scan whose task comes back and writes the same findings
 * again; those of the attempt before that did not come back are taken away at the end. */

enum { MAX_FAILURES = 3 };
static const double tell_every = 3, look_again = 15;

static const char *status_of(const bson_t *document)
{
    const char *status = doc_text(document, "status");
    return status ? status : "PENDING";
}

static int save_completed(struct native_scan *s)
{
    bson_t set = BSON_INITIALIZER, by;
    BSON_APPEND_INT64(s->summary, "findings", s->stored);
    BSON_APPEND_DOCUMENT_BEGIN(s->summary, "by_severity", &by);
    for (int i = 0; i < N_SEVERITIES; i++)
        bson_append_int64(&by, severities[i], -1, s->severities[i]);
    bson_append_document_end(s->summary, &by);
    BSON_APPEND_UTF8(&set, "status", "COMPLETED");
    BSON_APPEND_DATE_TIME(&set, "finished_at", doc_now());
    BSON_APPEND_NULL(&set, "error");
    BSON_APPEND_INT32(&set, "failures", 0);
    BSON_APPEND_DOCUMENT(&set, "summary", s->summary);
    int code = scan_state_set(&s->state, &set);
    bson_destroy(&set);
    return code;
}

/* What is known as text, raised for good. */
static cw_outcome give_up(struct native_scan *s, const char *why)
{
    const char *colon = strstr(why, ": ");
    return cw_raise(s->t, colon ? cw_printf(s->t, "%.*s", (int)(colon - why), why) : "RuntimeError",
                    "%s", colon ? colon + 2 : why);
}

static void put_failure(bson_t *set, const char *why, int64_t failures, bool again)
{
    BSON_APPEND_UTF8(set, "status", again ? "RUNNING" : "FAILED");
    doc_put(set, "error", why, 4000);
    BSON_APPEND_INT64(set, "failures", again ? failures : 0);
    if (!again)
        BSON_APPEND_DATE_TIME(set, "finished_at", doc_now());
}

/* The document says FAILED with the reason, or keeps RUNNING where a further attempt follows. Where
 * coming back is also how a scan waits for its tool, retries do not tell how often it failed. */
static cw_outcome failed(struct native_scan *s, const struct native_kind *kind)
{
    struct failure f = failure_read(s->t);
    int64_t failures = doc_int(s->document, "failures", 0) + 1;
    bool again = kind->claim ? f.transient && failures <= MAX_FAILURES : f.again;
    if (cw_stopping(s->t) == CW_SHUTDOWN)
        return f.outcome;
    cw_outcome outcome = f.again && !again ? give_up(s, f.why) : f.outcome;
    bson_t set = BSON_INITIALIZER;
    put_failure(&set, f.why, failures, again);
    int code = scan_state_set(&s->state, &set);
    bson_destroy(&set);
    if (code < 0)
        cw_log(s->t, CW_WARNING, "native scan %s: its failure could not be recorded", s->state.id);
    return s->state.ended ? cw_return_str(s->t, s->state.ended) : outcome;
}

/* --- what may be scanned --- */

struct approval {
    const char *host;
    bool given;
};

static int on_approved(cw_task *t, const bson_t *row, void *arg)
{
    struct approval *a = arg;
    const char *target = doc_text(row, "target");
    (void)t;
    a->given = a->given || (target && target_is_covered(a->host, target));
    return 0;
}

/* 1 approved, 0 not, -1 failed. */
static int is_approved(struct native_scan *s, const char *host)
{
    struct approval a = {host, false};
    char room[DOC_ID_SIZE];
    const char *team = doc_id(s->document, "team_id", room);
    bson_t filter = BSON_INITIALIZER;
    if (team)
        doc_match_id(&filter, "team_id", team);
    else
        doc_copy(&filter, "team_id", s->document, "team_id");
    int code = mongo_each(s->t, "approved_targets", &filter, NULL, on_approved, &a);
    bson_destroy(&filter);
    return code < 0 ? -1 : a.given;
}

static int check_address(struct native_scan *s, const struct addrinfo *at)
{
    char text[INET6_ADDRSTRLEN];
    if (getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
        return 0;
    text[strcspn(text, "%")] = '\0';
    int given = target_is_metadata(text) ? is_approved(s, text) : 1;
    if (given)
        return given < 0 ? -1 : 0;
    return cw_problem(s->t, false, "PermissionError",
                      "%.200s leads to %s: a link-local or metadata address, which is not among the "
                      "team's approved targets",
                      s->host, text);
}

/* Whoever owns a name says where it leads, after it was approved as well as before. One that cannot
 * be resolved now is left to the tool. */
static int check_addresses(struct native_scan *s)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int code = 0;
    s->only_ipv6 = target_is_ipv6(s->host);
    if (strchr(s->host, '/') || getaddrinfo(s->host, NULL, &hints, &list) != 0)
        return 0;
    s->only_ipv6 = true;
    for (const struct addrinfo *at = list; at && code == 0; at = at->ai_next) {
        s->only_ipv6 = s->only_ipv6 && at->ai_family == AF_INET6;
        code = check_address(s, at);
    }
    freeaddrinfo(list);
    return code;
}

static int check_approved(struct native_scan *s)
{
    int given = is_approved(s, s->host);
    if (given)
        return given < 0 ? -1 : check_addresses(s);
    return cw_problem(s->t, false, "PermissionError",
                      "%.200s is not among the team's approved targets", s->host);
}

/* --- while it runs --- */

int native_finding(struct native_scan *s, const char *key, const char *severity,
                   const bson_t *fields)
{
    bson_t id = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    int64_t now = doc_now();
    s->found++;
    BSON_APPEND_UTF8(&id, "scan_id", s->state.id);
    doc_put(&id, "key", key, 1000);
    bson_concat(&set, fields);
    doc_copy(&set, "team_id", s->document, "team_id");
    BSON_APPEND_UTF8(&set, "severity", severity_name(severity));
    BSON_APPEND_DATE_TIME(&set, "seen_at", now);
    BSON_APPEND_DATE_TIME(&once, "first_seen", now);
    int code = mongo_bulk_upsert(s->findings, &id, &set, &once);
    bson_destroy(&id);
    bson_destroy(&set);
    bson_destroy(&once);
    return code;
}

int native_tick(struct native_scan *s, double seconds)
{
    if (seconds - s->told_at >= tell_every) {
        cJSON *meta = cJSON_CreateObject();
        s->told_at = seconds;
        cJSON_AddNumberToObject(meta, "percent", s->percent);
        cJSON_AddStringToObject(meta, "phase", s->phase ? s->phase : "");
        cJSON_AddNumberToObject(meta, "findings", (double)s->found);
        cw_progress(s->t, meta);
    }
    return scan_state_watch(&s->state, seconds);
}

int native_on_tick(cw_task *t, double seconds, void *scan)
{
    (void)t;
    return native_tick(scan, seconds);
}

/* --- the whole --- */

static int on_severity(cw_task *t, const bson_t *group, void *arg)
{
    struct native_scan *s = arg;
    int64_t n = doc_int(group, "n", 0);
    (void)t;
    s->stored += n;
    s->severities[severity_index(doc_text(group, "_id"))] += n;
    return 0;
}

/* The documents are what is counted: a tool may tell of one thing twice. */
static int settle_findings(struct native_scan *s)
{
    bson_t stale = BSON_INITIALIZER, all = BSON_INITIALIZER;
    if (mongo_bulk_flush(s->findings) < 0)
        return -1;
    BSON_APPEND_UTF8(&all, "scan_id", s->state.id);
    BSON_APPEND_UTF8(&stale, "scan_id", s->state.id);
    BCON_APPEND(&stale, "seen_at", "{", "$lt", BCON_DATE_TIME(s->began), "}");
    int64_t removed = mongo_remove_many(s->t, "scan_findings", &stale);
    int code = removed < 0 ? -1
                           : mongo_group(s->t, "scan_findings", &all, "severity", on_severity, s);
    bson_destroy(&stale);
    bson_destroy(&all);
    return code;
}

static cw_outcome finish(struct native_scan *s, const struct native_kind *kind)
{
    s->complete = true;
    if (settle_findings(s) < 0 || save_completed(s) < 0)
        return failed(s, kind);
    if (s->state.ended)
        return cw_return_str(s->t, s->state.ended);
    return cw_return(s->t, doc_tree(s->summary));
}

static cw_outcome run(struct native_scan *s, const struct native_kind *kind)
{
    s->began = doc_now();
    if (scan_state_running(&s->state) < 0)
        return failed(s, kind);
    if (s->state.ended)
        return cw_return_str(s->t, s->state.ended);
    return kind->scan(s) < 0 ? failed(s, kind) : finish(s, kind);
}

/* The tool is given back after the document has told how the scan ended: who comes next may be
 * the same scan. */
static cw_outcome claim_and_run(struct native_scan *s, const struct native_kind *kind)
{
    int claimed = kind->claim(s);
    if (claimed < 0)
        return failed(s, kind);
    if (!claimed)
        return cw_retry(s->t, look_again, "RuntimeError", "%s scan %.80s waits: its tool is busy",
                        kind->type, s->state.id);
    cw_outcome outcome = run(s, kind);
    kind->release(s, s->complete);
    return outcome;
}

static cw_outcome go(struct native_scan *s, const struct native_kind *kind)
{
    s->findings = mongo_bulk_open(s->t, "scan_findings");
    s->summary = mongo_bson(s->t);
    const char *what = cw_printf(s->t, "native scan %.80s", s->state.id);
    if (!s->findings || field_id(s->t, s->document, what, "team_id", true) < 0 ||
        fields_check(s->t, s->document, kind->fields) < 0 || kind->prepare(s) < 0 ||
        check_approved(s) < 0)
        return failed(s, kind);
    return kind->claim ? claim_and_run(s, kind) : run(s, kind);
}

cw_outcome native_run(cw_task *t, const struct native_kind *kind)
{
    struct native_scan *s = cw_alloc(t, sizeof *s);
    s->t = t;
    s->state = (struct scan_state){.t = t, .collection = "native_scans", .label = "native scan",
                                   .type = kind->type, .id = cw_str(t, "scan_id")};
    s->document = mongo_load(t, "native_scans", "native scan", s->state.id);
    if (!s->document)
        return cw_fail(t);
    s->state.document = s->document;
    const char *status = status_of(s->document);
    if (strcmp(status, "COMPLETED") == 0 || strcmp(status, "CANCELLED") == 0) {
        if (mirror_to_unified_scan_results(t, s->state.collection, s->document, kind->type) < 0)
            return cw_fail(t);
        return cw_return_str(t, status);
    }
    s->target = doc_text(s->document, "target");
    return go(s, kind);
}
