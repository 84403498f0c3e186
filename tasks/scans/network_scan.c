/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/nmap_xml.h"
#include "tasks/lib/targets.h"
#include "tasks/lib/tool.h"
#include "tasks/scans/native.h"
#include "tasks/scans/scans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* execute_network_scan: nmap over the target of a native scan, its XML read as it is written. An
 * open port is a finding under host and port. */

struct network {
    struct native_scan *s;
    struct nmap_xml *xml;
    const char *argv[20];
    size_t n_argv;
    char phase[81];
    bool unreadable, unstored;
};

/* --- options of the document → options of nmap --- */

static int arguments_make(struct native_scan *s, struct network *n)
{
    size_t i = 0;
    const char *program = cw_setting(s->t, "nmap");
    const char *ports = doc_text(s->document, "options.ports");
    int64_t timing = doc_int(s->document, "options.timing", -1);
    n->argv[i++] = program ? program : "nmap";
    n->argv[i++] = "-oX";
    n->argv[i++] = "-";
    n->argv[i++] = "--stats-every";
    n->argv[i++] = "5s";
    if (ports) {
        if (!*ports || strlen(ports) > 1000 || ports[strspn(ports, "0123456789,-")])
            return cw_problem(s->t, false, "ValueError",
                              "options.ports must be like 22,80,8000-8100");
        n->argv[i++] = "-p";
        n->argv[i++] = ports;
    }
    if (doc_bool(s->document, "options.service_detection", false))
        n->argv[i++] = "-sV";
    if (doc_bool(s->document, "options.scripts", false))
        n->argv[i++] = "-sC";
    if (timing >= 0)
        n->argv[i++] = cw_printf(s->t, "-T%d", (int)timing);
    n->n_argv = i;
    return 0;
}

/* What is known when the target has been looked up. */
static void arguments_end(struct network *n)
{
    size_t i = n->n_argv;
    if (n->s->only_ipv6)
        n->argv[i++] = "-6";
    n->argv[i++] = "--";
    n->argv[i++] = n->s->target;
    n->argv[i] = NULL;
}

static int prepare(struct native_scan *s)
{
    struct network *n = cw_alloc(s->t, sizeof *n);
    n->s = s;
    s->own = n;
    s->host = s->target;
    if (!s->target || !target_is_valid(s->target))
        return cw_problem(s->t, false, "ValueError",
                          "target must be a host name, an address or a network");
    return arguments_make(s, n);
}

/* --- findings --- */

static void on_port(const struct nmap_port *p, void *arg)
{
    struct network *n = arg;
    bson_t fields = BSON_INITIALIZER;
    if (n->unstored || strcmp(p->state, "open") != 0)
        return;
    BSON_APPEND_UTF8(&fields, "tool", "nmap");
    BSON_APPEND_UTF8(&fields, "type", "open_port");
    doc_put(&fields, "host", p->host, 255);
    BSON_APPEND_INT32(&fields, "port", p->port);
    doc_put(&fields, "protocol", p->protocol, 64);
    doc_put(&fields, "state", p->state, 64);
    doc_put(&fields, "hostname", p->hostname, 255);
    doc_put(&fields, "service", p->service, 255);
    doc_put(&fields, "product", p->product, 255);
    doc_put(&fields, "version", p->version, 255);
    doc_put(&fields, "scripts", p->scripts, 16 << 10);
    char key[128]; /* not the delivery's memory: a network may have millions of ports */
    snprintf(key, sizeof key, "nmap %s %s/%d", p->host, p->protocol, p->port);
    n->unstored = native_finding(n->s, key, "INFO", &fields) < 0;
    bson_destroy(&fields);
}

static void on_progress(double percent, const char *phase, void *arg)
{
    struct network *n = arg;
    n->s->percent = percent;
    snprintf(n->phase, sizeof n->phase, "%s", phase);
    n->s->phase = n->phase;
}

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct network *n = arg;
    (void)t;
    if (!n->unreadable)
        n->unreadable = nmap_xml_feed(n->xml, line, size) < 0 || nmap_xml_feed(n->xml, "\n", 1) < 0;
}

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct network *n = arg;
    (void)t;
    return n->unstored ? -1 : native_tick(n->s, seconds);
}

/* --- the run --- */

static void close_xml(void *xml)
{
    nmap_xml_close(xml);
}

static int run_nmap(struct network *n, struct cw_exit *ret)
{
    struct cw_command command = {
        .argv = n->argv,
        .on_line = on_line,
        .on_tick = on_tick,
        .arg = n,
        .max_output = (size_t)1 << 30,
        .hint = "install it (apt-get install nmap) or set CWORKER_NMAP to its path",
    };
    return tool_run(n->s->t, command, NULL, ret);
}

static int scan(struct native_scan *s)
{
    struct network *n = s->own;
    struct nmap_xml_handlers handlers = {
        .on_port = on_port, .on_progress = on_progress, .arg = n};
    struct cw_exit end;
    n->xml = nmap_xml_open(&handlers);
    if (!n->xml)
        return cw_problem(s->t, true, "MemoryError", "no XML parser");
    cw_defer(s->t, close_xml, n->xml);
    arguments_end(n);
    if (run_nmap(n, &end) < 0 || n->unstored)
        return -1;
    if (end.status || end.signal)
        return cw_problem(s->t, end.signal != 0, "RuntimeError",
                          "nmap failed (status %d, signal %d): %.500s", end.status, end.signal,
                          end.errors);
    if (n->unreadable || nmap_xml_end(n->xml) < 0)
        return cw_problem(s->t, false, "ValueError", "nmap's XML cannot be read: %s",
                          nmap_xml_error(n->xml));
    struct nmap_counts hosts = nmap_xml_counts(n->xml);
    if (hosts.total == 0)
        return cw_problem(s->t, false, "ValueError",
                          "nmap found no host to scan: does %.100s resolve? %.300s", s->target,
                          end.errors);
    BSON_APPEND_INT32(s->summary, "hosts_up", hosts.up);
    BSON_APPEND_INT32(s->summary, "hosts_down", hosts.down);
    BSON_APPEND_INT64(s->summary, "open_ports", s->found);
    return 0;
}

cw_outcome execute_network_scan(cw_task *t)
{
    static const struct field_rule fields[] = {
        {"options", CW_OBJECT, 0, 0},
        {"options.ports", CW_STR, 0, 0},
        {"options.service_detection", CW_BOOL, 0, 0},
        {"options.scripts", CW_BOOL, 0, 0},
        {"options.timing", CW_INT, 0, 5},
        {0}};
    static const struct native_kind kind = {"network", fields, prepare, scan};
    return native_run(t, &kind);
}
