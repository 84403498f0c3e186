/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/onprem.h"

#include "tasks/discovery/identity.h"
#include "tasks/lib/fields.h"
#include "tasks/lib/nmap_xml.h"
#include "tasks/lib/targets.h"
#include "tasks/lib/tool.h"

#include <stdlib.h>
#include <string.h>

/* A host is known by its network card where nmap sees it (the same segment, as root), else by its
 * address. nmap asks the names of the hosts that are up, since an address alone identifies nothing.
 */

enum { BITS_MAX = 16 }; /* a /16 of IPv4 */

struct network {
    cw_task *t;
    const bson_t *document;
    const char *id, *target;
    struct nmap_xml *xml;
    struct mongo_bulk *assets;
    struct onprem_counts *counts;
    int64_t started;
    bool unreadable, unstored;
};

/* --- what may be scanned --- */

struct approval {
    const char *target;
    bool found;
};

static int on_approved(cw_task *t, const bson_t *document, void *arg)
{
    struct approval *a = arg;
    const char *entry = doc_text(document, "target");
    (void)t;
    a->found = a->found || (entry && target_is_covered(a->target, entry));
    return 0;
}

static int check_approved(cw_task *t, const char *team, const char *target)
{
    struct approval approval = {target, false};
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "team_id", team);
    int code = mongo_each(t, "approved_targets", &filter, NULL, on_approved, &approval);
    bson_destroy(&filter);
    if (code < 0)
        return -1;
    return approval.found
               ? 0
               : cw_problem(t, false, "PermissionError",
                            "%s is not covered by the team's approved_targets", target);
}

static int check_network(cw_task *t, const char *target)
{
    char room[46];
    const char *address = target ? cw_printf(t, "%.*s", (int)strcspn(target, "/"), target) : "";
    if (!target || !target_is_valid(target) || !ip_read(address, room))
        return cw_problem(t, false, "ValueError", "%.80s is not a network like 10.1.0.0/24",
                          target ? target : "null");
    const char *slash = strchr(target, '/');
    int bits = target_is_ipv6(target) ? 128 : 32;
    int prefix = slash ? (int)strtol(slash + 1, NULL, 10) : bits;
    return bits - prefix <= BITS_MAX
               ? 0
               : cw_problem(t, false, "ValueError", "%s is larger than 65536 addresses", target);
}

/* --- hosts --- */

static void put_texts(bson_t *set, const char *field, const char *text)
{
    bson_t list;
    BSON_APPEND_ARRAY_BEGIN(set, field, &list);
    doc_put(&list, "0", text, 255);
    bson_append_array_end(set, &list);
}

static void on_host(const struct nmap_host *host, void *arg)
{
    struct network *n = arg;
    char mac[18] = "", ip[46] = "";
    if (!host->up || n->unstored || !ip_read(host->address, ip))
        return;
    bool known = mac_read(host->mac, mac);
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    doc_copy(&key, "team_id", n->document, "team_id");
    BSON_APPEND_UTF8(&key, "provider", "onprem");
    char *own = bson_strdup_printf("%s/%s", n->id, known ? mac : ip);
    doc_put(&key, "resource_id", own, 512);
    bson_free(own);
    BSON_APPEND_UTF8(&set, "source", "nmap");
    BSON_APPEND_UTF8(&set, "resource_type", "host");
    doc_put(&set, "network_id", n->id, 255);
    doc_put(&set, "name", host->hostname[0] ? host->hostname : ip, 255);
    put_texts(&set, "ips", ip);
    put_texts(&set, "macs", known ? mac : "");
    put_texts(&set, "hostnames", host->hostname);
    doc_put(&set, "vendor", host->vendor, 128);
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    BSON_APPEND_BOOL(&set, "gone", false);
    BSON_APPEND_DATE_TIME(&once, "first_seen", doc_now());
    n->unstored = mongo_bulk_upsert(n->assets, &key, &set, &once) < 0;
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&once);
    n->counts->hosts++;
}

static int mark_gone(struct network *n)
{
    bson_t filter = BSON_INITIALIZER;
    doc_copy(&filter, "team_id", n->document, "team_id");
    BSON_APPEND_UTF8(&filter, "provider", "onprem");
    BSON_APPEND_UTF8(&filter, "network_id", n->id);
    BCON_APPEND(&filter, "gone", "{", "$ne", BCON_BOOL(true), "}", "last_seen", "{", "$lt",
                BCON_DATE_TIME(n->started), "}");
    bson_t *update =
        BCON_NEW("$set", "{", "gone", BCON_BOOL(true), "gone_at", BCON_DATE_TIME(doc_now()), "}");
    int64_t gone = mongo_update_many(n->t, "assets", &filter, update);
    bson_destroy(&filter);
    bson_destroy(update);
    n->counts->gone += gone > 0 ? gone : 0;
    return gone < 0 ? -1 : 0;
}

/* --- nmap --- */

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct network *n = arg;
    (void)t;
    n->unreadable = n->unreadable || nmap_xml_feed(n->xml, line, size) < 0 ||
                    nmap_xml_feed(n->xml, "\n", 1) < 0;
}

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct network *n = arg;
    if ((int64_t)seconds % 5 == 0) {
        cJSON *meta = cJSON_CreateObject();
        cJSON_AddStringToObject(meta, "network", n->target);
        cJSON_AddNumberToObject(meta, "hosts", (double)n->counts->hosts);
        cw_progress(t, meta);
    }
    return n->unstored ? -1 : 0;
}

static void close_xml(void *xml)
{
    nmap_xml_close(xml);
}

static int run_nmap(struct network *n)
{
    const char *program = cw_setting(n->t, "nmap"), *argv[10];
    size_t i = 0;
    argv[i++] = program ? program : "nmap";
    argv[i++] = "-sn";
    argv[i++] = "-oX";
    argv[i++] = "-";
    if (target_is_ipv6(n->target))
        argv[i++] = "-6";
    argv[i++] = "--";
    argv[i++] = n->target;
    argv[i] = NULL;
    struct cw_command command = {
        .argv = argv,
        .on_line = on_line,
        .on_tick = on_tick,
        .arg = n,
        .max_output = (size_t)1 << 30,
        .hint = "install it (apt-get install nmap) or set CWORKER_NMAP to its path",
    };
    struct cw_exit end;
    if (tool_run(n->t, command, NULL, &end) < 0 || n->unstored)
        return -1;
    if (end.status || end.signal)
        return cw_problem(n->t, end.signal != 0, "RuntimeError",
                          "nmap failed (status %d, signal %d): %.500s", end.status, end.signal,
                          end.errors);
    if (n->unreadable || nmap_xml_end(n->xml) < 0)
        return cw_problem(n->t, false, "ValueError", "nmap's XML cannot be read: %s",
                          nmap_xml_error(n->xml));
    return mongo_bulk_flush(n->assets);
}

static int discover_network(struct network *n, const char *team)
{
    static const struct field_rule rules[] = {
        {"enabled", CW_BOOL, 0, 0}, {"network", CW_STR, 0, 0}, {0}};
    struct nmap_xml_handlers handlers = {.on_host = on_host, .arg = n};
    if (!*n->id)
        return cw_problem(n->t, false, "ValueError",
                          "its _id is neither text, ObjectId, number nor UUID");
    if (fields_check(n->t, n->document, rules) < 0 || check_network(n->t, n->target) < 0 ||
        check_approved(n->t, team, n->target) < 0)
        return -1;
    n->xml = nmap_xml_open(&handlers);
    if (!n->xml)
        return cw_problem(n->t, true, "MemoryError", "no XML parser");
    cw_defer(n->t, close_xml, n->xml);
    n->started = doc_now();
    return run_nmap(n) < 0 ? -1 : mark_gone(n);
}

/* --- all networks --- */

struct walk {
    const char *team;
    cJSON *errors;
    struct onprem_counts *counts;
    const bson_t **list; /* read before the first one is scanned: no cursor waits for nmap */
    size_t n, room;
};

static int keep_network(cw_task *t, const bson_t *document, void *arg)
{
    struct walk *w = arg;
    if (w->n == w->room) {
        const bson_t **more = cw_alloc(t, (w->room = 2 * w->room + 64) * sizeof *more);
        if (w->n)
            memcpy(more, w->list, w->n * sizeof *more);
        w->list = more;
    }
    bson_t *copy = mongo_bson(t);
    bson_concat(copy, document);
    w->list[w->n++] = copy;
    return 0;
}

/* Trouble of the moment and a missing nmap end the task; what is wrong with a network is told. */
static int scan_network(cw_task *t, struct walk *w, const bson_t *document)
{
    char room[DOC_ID_SIZE];
    const char *id = doc_id(document, "_id", room);
    struct network *n = cw_alloc(t, sizeof *n);
    bool transient = false;
    if (!doc_bool(document, "enabled", true))
        return 0;
    *n = (struct network){.t = t, .document = document, .counts = w->counts};
    n->id = cw_printf(t, "%s", id ? id : "");
    n->target = doc_text(document, "network");
    n->assets = mongo_bulk_open(t, "assets");
    if (!n->assets)
        return -1;
    w->counts->networks++;
    if (discover_network(n, w->team) == 0)
        return 0;
    const char *why = cw_problem_text(t, &transient);
    if (transient || !why || strncmp(why, "FileNotFoundError", 17) == 0)
        return -1;
    cJSON_AddItemToArray(w->errors,
                         cJSON_CreateString(cw_printf(t, "network %s: %s", n->id, why)));
    return 0;
}

int onprem_discover(cw_task *t, const char *team, cJSON *errors, struct onprem_counts *ret)
{
    struct walk walk = {.team = team, .errors = errors, .counts = ret};
    bson_t filter = BSON_INITIALIZER;
    *ret = (struct onprem_counts){0};
    doc_match_id(&filter, "team_id", team);
    int code = mongo_each(t, "onprem_networks", &filter, NULL, keep_network, &walk);
    bson_destroy(&filter);
    for (size_t i = 0; code >= 0 && i < walk.n; i++)
        code = scan_network(t, &walk, walk.list[i]);
    return code < 0 ? -1 : 0;
}
