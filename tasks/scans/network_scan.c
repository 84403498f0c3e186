/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/nmap_xml.h"
#include "tasks/scans/scans.h"
#include "tasks/lib/targets.h"

#include <mongoc/mongoc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* execute_network_scan: nmap over the target of a native scan. Findings are upserts under (scan_id,
 * host, port, protocol) and the scan's document moves by its own state, so that a second delivery
 * at any instant ends in the same documents. */

enum { BULK = 500 };

struct scan {
    cw_task *t;
    const char *id;
    bson_t document,
        selector; /* the native_scans row; {_id} of it unless it is cancelled meanwhile */
    const char *target, *status;
    bson_iter_t team;
    mongoc_collection_t *scans, *unified, *findings;
    mongoc_bulk_operation_t *bulk;
    struct nmap_xml *xml;
    int pending, hosts_up, hosts_down, open_ports;
    bool broken; /* the XML, or the store: see error */
    bson_error_t error;
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- the store's errors --- */

/* What a further attempt may mend: the network, an election, no server at all. */
static bool is_transient(const bson_error_t *e)
{
    return e->domain == MONGOC_ERROR_STREAM || e->domain == MONGOC_ERROR_SERVER_SELECTION ||
           (e->domain == MONGOC_ERROR_SERVER &&
            (e->code == 91 || e->code == 189 || e->code == 10107 || e->code == 11600 ||
             e->code == 11602 || e->code == 13435 || e->code == 13436));
}

static cw_outcome store_failed(struct scan *s)
{
    if (is_transient(&s->error))
        return cw_retry(s->t, -1, "ConnectionError", "MongoDB: %s", s->error.message);
    return cw_raise(s->t, "RuntimeError", "MongoDB: %s", s->error.message);
}

/* --- the scan's document --- */

static void destroy_bson(void *document)
{
    bson_destroy(document);
}

static int load_by(struct scan *s, bson_t *selector)
{
    bson_t *options = BCON_NEW("limit", BCON_INT64(1));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(s->scans, selector, options, NULL);
    const bson_t *found;
    int code = mongoc_cursor_next(cursor, &found)       ? 1
               : mongoc_cursor_error(cursor, &s->error) ? -1
                                                        : 0;
    if (code == 1) {
        bson_copy_to(found, &s->document);
        bson_copy_to(selector, &s->selector);
        BCON_APPEND(&s->selector, "status", "{", "$ne", BCON_UTF8("CANCELLED"), "}");
        cw_defer(s->t, destroy_bson, &s->document);
        cw_defer(s->t, destroy_bson, &s->selector);
    }
    mongoc_cursor_destroy(cursor);
    bson_destroy(options);
    return code;
}

/* 1 found, 0 unknown, -1 the store failed. Ids are texts; 24 hexadecimal digits may be an ObjectId.
 */
static int load(struct scan *s)
{
    bson_t *selector = BCON_NEW("_id", BCON_UTF8(s->id));
    int code = load_by(s, selector);
    bson_destroy(selector);
    if (code == 0 && bson_oid_is_valid(s->id, strlen(s->id))) {
        bson_oid_t oid;
        bson_oid_init_from_string(&oid, s->id);
        selector = BCON_NEW("_id", BCON_OID(&oid));
        code = load_by(s, selector);
        bson_destroy(selector);
    }
    return code;
}

static const char *text_of(const bson_t *document, const char *field)
{
    bson_iter_t at;
    if (!bson_iter_init_find(&at, document, field) || !BSON_ITER_HOLDS_UTF8(&at))
        return NULL;
    return bson_iter_utf8(&at, NULL);
}

static bool update_scan(struct scan *s, const bson_t *set, bool *ret_matched)
{
    bson_t reply;
    bson_iter_t at;
    bool good = mongoc_collection_update_one(s->scans, &s->selector, set, NULL, &reply, &s->error);
    *ret_matched = bson_iter_init_find(&at, &reply, "matchedCount") && bson_iter_as_int64(&at) > 0;
    bson_destroy(&reply);
    return good;
}

/* {"$set": fields} on the scan's document and on its mirror, the mirror made when absent. */
static int save(struct scan *s, const bson_t *fields)
{
    bool matched;
    bson_t set = BSON_INITIALIZER, mirror = BSON_INITIALIZER, whole = BSON_INITIALIZER;
    bson_t *upsert = BCON_NEW("upsert", BCON_BOOL(true));
    bson_t *key = BCON_NEW("scan_id", BCON_UTF8(s->id));
    BSON_APPEND_DOCUMENT(&set, "$set", fields);
    bson_concat(&whole, fields);
    bson_append_iter(&whole, "team_id", -1, &s->team);
    BSON_APPEND_UTF8(&whole, "scan_type", "network");
    BSON_APPEND_UTF8(&whole, "target", s->target);
    BSON_APPEND_DOCUMENT(&mirror, "$set", &whole);
    bool good = update_scan(s, &set, &matched) &&
                (!matched ||
                 mongoc_collection_update_one(s->unified, key, &mirror, upsert, NULL, &s->error));
    bson_destroy(&set);
    bson_destroy(&whole);
    bson_destroy(&mirror);
    bson_destroy(upsert);
    bson_destroy(key);
    return good ? 0 : -1;
}

static int save_state(struct scan *s, const char *status, const char *time_field, const char *error)
{
    bson_t fields = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&fields, "status", status);
    BSON_APPEND_DATE_TIME(&fields, time_field, now_ms());
    if (error)
        BSON_APPEND_UTF8(&fields, "error", error);
    int code = save(s, &fields);
    bson_destroy(&fields);
    return code;
}

/* The scan itself is at fault: it ends as FAILED, and its document says why. */
static cw_outcome refuse(struct scan *s, const char *type, const char *why)
{
    if (save_state(s, "FAILED", "finished_at", why) < 0)
        return store_failed(s);
    return cw_raise(s->t, type, "%s", why);
}

/* --- what may be scanned --- */

/* 1 covered, 0 not, -1 the store failed. */
static int is_approved(struct scan *s)
{
    mongoc_collection_t *approved = cw_collection(s->t, "approved_targets");
    bson_t filter = BSON_INITIALIZER;
    bson_append_iter(&filter, "team_id", -1, &s->team);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(approved, &filter, NULL, NULL);
    const bson_t *row;
    int code = 0;
    while (code == 0 && mongoc_cursor_next(cursor, &row)) {
        const char *target = text_of(row, "target");
        code = target && target_is_covered(s->target, target);
    }
    if (mongoc_cursor_error(cursor, &s->error))
        code = -1;
    mongoc_cursor_destroy(cursor);
    bson_destroy(&filter);
    return code;
}

/* --- options of the document → options of nmap --- */

static bool option_find(const struct scan *s, const char *name, bson_iter_t *ret)
{
    bson_iter_t at;
    return bson_iter_init_find(&at, &s->document, "options") && BSON_ITER_HOLDS_DOCUMENT(&at) &&
           bson_iter_recurse(&at, ret) && bson_iter_find(ret, name);
}

/* Fills argv; what is wrong with an option, or NULL. */
static const char *arguments_make(struct scan *s, const char *argv[16])
{
    size_t n = 0;
    bson_iter_t at;
    const char *program = cw_setting(s->t, "nmap");
    argv[n++] = program ? program : "nmap";
    argv[n++] = "-oX";
    argv[n++] = "-";
    argv[n++] = "--stats-every";
    argv[n++] = "5s";
    if (option_find(s, "ports", &at)) {
        const char *ports = BSON_ITER_HOLDS_UTF8(&at) ? bson_iter_utf8(&at, NULL) : "";
        if (!*ports || strlen(ports) > 1000 || ports[strspn(ports, "0123456789,-")])
            return "options.ports must be like 22,80,8000-8100";
        argv[n++] = "-p";
        argv[n++] = ports;
    }
    if (option_find(s, "service_detection", &at) && bson_iter_as_bool(&at))
        argv[n++] = "-sV";
    if (option_find(s, "timing", &at)) {
        int64_t timing = BSON_ITER_HOLDS_INT(&at) ? bson_iter_as_int64(&at) : -1;
        if (timing < 0 || timing > 5)
            return "options.timing must be 0 to 5";
        argv[n++] = cw_printf(s->t, "-T%d", (int)timing);
    }
    if (target_is_ipv6(s->target))
        argv[n++] = "-6";
    argv[n++] = "--";
    argv[n++] = s->target;
    argv[n] = NULL;
    return NULL;
}

/* --- findings --- */

static void flush(struct scan *s)
{
    bson_t reply;
    if (!s->bulk)
        return;
    if (s->pending && !mongoc_bulk_operation_execute(s->bulk, &reply, &s->error))
        s->broken = true;
    if (s->pending)
        bson_destroy(&reply);
    mongoc_bulk_operation_destroy(s->bulk);
    s->bulk = NULL;
    s->pending = 0;
}

static void put_text(bson_t *document, const char *field, const char *text)
{
    if (text && *text)
        bson_append_utf8(document, field, -1, text, -1);
}

static void on_port(const struct nmap_port *p, void *arg)
{
    struct scan *s = arg;
    if (s->broken || strcmp(p->state, "open") != 0)
        return;
    bson_t set = BSON_INITIALIZER, update = BSON_INITIALIZER;
    bson_t *key = BCON_NEW("scan_id", BCON_UTF8(s->id), "host", BCON_UTF8(p->host), "port",
                           BCON_INT32(p->port), "protocol", BCON_UTF8(p->protocol));
    bson_t *upsert = BCON_NEW("upsert", BCON_BOOL(true));
    bson_append_iter(&set, "team_id", -1, &s->team);
    BSON_APPEND_UTF8(&set, "type", "open_port");
    BSON_APPEND_UTF8(&set, "state", p->state);
    put_text(&set, "hostname", p->hostname);
    put_text(&set, "service", p->service);
    put_text(&set, "product", p->product);
    put_text(&set, "version", p->version);
    put_text(&set, "scripts", p->scripts);
    BSON_APPEND_DATE_TIME(&set, "seen_at", now_ms());
    BSON_APPEND_DOCUMENT(&update, "$set", &set);
    if (!s->bulk)
        s->bulk = mongoc_collection_create_bulk_operation_with_opts(s->findings, NULL);
    if (!mongoc_bulk_operation_update_one_with_opts(s->bulk, key, &update, upsert, &s->error))
        s->broken = true;
    s->open_ports++;
    bson_destroy(&set);
    bson_destroy(&update);
    bson_destroy(key);
    bson_destroy(upsert);
    if (++s->pending >= BULK)
        flush(s);
}

static void on_host(bool up, void *arg)
{
    struct scan *s = arg;
    s->hosts_up += up;
    s->hosts_down += !up;
}

static void on_progress(double percent, const char *phase, void *arg)
{
    struct scan *s = arg;
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddNumberToObject(meta, "percent", percent);
    cJSON_AddStringToObject(meta, "phase", phase);
    cJSON_AddNumberToObject(meta, "hosts", s->hosts_up);
    cw_progress(s->t, meta);
}

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct scan *s = arg;
    (void)t;
    if (!s->broken && (nmap_xml_feed(s->xml, line, size) < 0 || nmap_xml_feed(s->xml, "\n", 1) < 0))
        s->broken = true;
}

/* --- the way of a scan --- */

static cJSON *summary_of(const struct scan *s)
{
    cJSON *summary = cJSON_CreateObject();
    cJSON_AddNumberToObject(summary, "hosts_up", s->hosts_up);
    cJSON_AddNumberToObject(summary, "hosts_down", s->hosts_down);
    cJSON_AddNumberToObject(summary, "open_ports", s->open_ports);
    return summary;
}

static cw_outcome finish(struct scan *s)
{
    bson_t fields = BSON_INITIALIZER, summary;
    BSON_APPEND_UTF8(&fields, "status", "COMPLETED");
    BSON_APPEND_DATE_TIME(&fields, "finished_at", now_ms());
    BSON_APPEND_NULL(&fields, "error");
    BSON_APPEND_DOCUMENT_BEGIN(&fields, "summary", &summary);
    BSON_APPEND_INT32(&summary, "hosts_up", s->hosts_up);
    BSON_APPEND_INT32(&summary, "hosts_down", s->hosts_down);
    BSON_APPEND_INT32(&summary, "open_ports", s->open_ports);
    bson_append_document_end(&fields, &summary);
    int code = save(s, &fields);
    bson_destroy(&fields);
    return code < 0 ? store_failed(s) : cw_return(s->t, summary_of(s));
}

static void close_xml(void *xml)
{
    nmap_xml_close(xml);
}

static cw_outcome run_nmap(struct scan *s, const char *const *argv)
{
    struct nmap_xml_handlers handlers = {on_port, on_host, on_progress, s};
    struct cw_command command = {
        .argv = argv,
        .on_line = on_line,
        .arg = s,
        .max_output = (size_t)1 << 30,
        .hint = "install it (apt-get install nmap) or set CWORKER_NMAP to its path",
    };
    struct cw_exit end;
    s->xml = nmap_xml_open(&handlers);
    if (!s->xml)
        return cw_raise(s->t, "MemoryError", "no XML parser");
    cw_defer(s->t, close_xml, s->xml);
    int code = cw_exec(s->t, &command, &end);
    bool ended = code == 0 && !s->broken && nmap_xml_end(s->xml) == 0;
    flush(s);
    if (s->error.domain)
        return store_failed(s);
    if (code < 0) {
        /* A further attempt, if there is one, sets RUNNING again. */
        save_state(s, "FAILED", "finished_at", "nmap did not run to its end");
        return cw_fail(s->t);
    }
    if (end.status || end.signal)
        return refuse(s, "RuntimeError",
                      cw_printf(s->t, "nmap failed (status %d, signal %d): %.500s", end.status,
                                end.signal, end.errors));
    if (!ended)
        return refuse(s, "ValueError",
                      cw_printf(s->t, "nmap's XML cannot be read: %s", nmap_xml_error(s->xml)));
    return finish(s);
}

static cw_outcome run(struct scan *s)
{
    const char *argv[16];
    if (!s->target || !target_is_valid(s->target))
        return refuse(s, "ValueError", "target must be a host name, an address or a network");
    int approved = is_approved(s);
    if (approved < 0)
        return store_failed(s);
    if (!approved)
        return refuse(s, "PermissionError",
                      cw_printf(s->t, "%s is not among the team's approved targets", s->target));
    const char *wrong = arguments_make(s, argv);
    if (wrong)
        return refuse(s, "ValueError", wrong);
    if (save_state(s, "RUNNING", "started_at", NULL) < 0)
        return store_failed(s);
    return run_nmap(s, argv);
}

cw_outcome execute_network_scan(cw_task *t)
{
    struct scan *s = cw_alloc(t, sizeof *s);
    s->t = t;
    s->id = cw_str(t, "scan_id");
    s->scans = cw_collection(t, "native_scans");
    if (!s->scans)
        return cw_fail(t);
    s->unified = cw_collection(t, "unified_scan_results");
    s->findings = cw_collection(t, "scan_findings");
    int found = load(s);
    if (found < 0)
        return store_failed(s);
    if (!found)
        return cw_raise(t, "LookupError", "no native scan %.80s", s->id);
    s->target = text_of(&s->document, "target");
    s->status = text_of(&s->document, "status");
    if (s->status && (strcmp(s->status, "COMPLETED") == 0 || strcmp(s->status, "CANCELLED") == 0))
        return cw_return_str(t, s->status);
    if (!bson_iter_init_find(&s->team, &s->document, "team_id"))
        return cw_raise(t, "ValueError", "native scan %.80s has no team_id", s->id);
    return run(s);
}
