/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/targets.h"
#include "tasks/lib/tool.h"
#include "tasks/scans/native.h"
#include "tasks/scans/scans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

/* execute_ssl_scan: testssl.sh over one host and port. Its exit status and its JSON together tell
 * how it went: a host that cannot be reached still gives a well-formed file, with a FATAL
 * scanProblem in it. */

struct ssl {
    struct native_scan *s;
    const char *port;
    char problem[512]; /* "": none */
    char *protocols;
    int64_t not_after; /* ms; 0: not seen */
    bool heard;        /* it wrote anything at all */
    bool complete;     /* it said how long it took */
};

/* --- the target: host, host:port, [v6]:port or an https URL --- */

static int read_target(struct native_scan *s, struct ssl *x)
{
    const char *text = s->target ? s->target : "";
    if (check_url(text)) {
        const char *slashes = strstr(text, "//");
        text = cw_printf(s->t, "%.*s", (int)strcspn(slashes + 2, "/?#"), slashes + 2);
    }
    const char *close = *text == '[' ? strchr(text, ']') : NULL;
    const char *colon = strchr(close ? close : text, ':');
    bool bare6 = !close && colon && strchr(colon + 1, ':');
    if (close)
        s->host = cw_printf(s->t, "%.*s", (int)(close - text - 1), text + 1);
    else
        s->host = colon && !bare6 ? cw_printf(s->t, "%.*s", (int)(colon - text), text) : text;
    x->port = colon && !bare6
                  ? colon + 1
                  : cw_printf(s->t, "%lld", (long long)doc_int(s->document, "options.port", 443));
    bool digits = *x->port && !x->port[strspn(x->port, "0123456789")];
    long port = digits ? strtol(x->port, NULL, 10) : 0;
    bool tail = close && close[1] && close[1] != ':';
    if (tail || !target_is_valid(s->host) || strchr(s->host, '/') || port < 1 || port > 65535)
        return cw_problem(s->t, false, "ValueError",
                          "target must be a host, host:port or https URL, with a port up to 65535");
    return 0;
}

static int prepare(struct native_scan *s)
{
    struct ssl *x = cw_alloc(s->t, sizeof *x);
    x->s = s;
    x->protocols = cw_printf(s->t, "%s", "");
    s->own = x;
    s->host = "";
    return read_target(s, x);
}

/* Which parts to test; all when options.checks is absent. */
static const char *part_of(const char *name)
{
    static const struct part {
        const char *name, *option;
    } parts[] = {
        {"protocols", "-p"},       {"server_defaults", "-S"}, {"headers", "-h"},
        {"vulnerabilities", "-U"}, {"ciphers", "-s"},         {"preferences", "-P"},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(parts[i].name, name) == 0)
            return parts[i].option;
    return NULL;
}

static int arguments_make(struct ssl *x, const char *path, const char *argv[40])
{
    cw_task *t = x->s->t;
    const char *program = cw_setting(t, "testssl"), *name;
    size_t n = 0;
    bson_iter_t at, list;
    argv[n++] = program ? program : "testssl";
    static const char *const always[] = {
        "--quiet",          "--color",           "0", "--warnings",        "off", "--openssl",
        "/usr/bin/openssl", "--connect-timeout", "5", "--openssl-timeout", "5",   "--jsonfile"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        argv[n++] = always[i];
    argv[n++] = path;
    if (x->s->only_ipv6)
        argv[n++] = "-6";
    if (doc_find(x->s->document, "options.checks", &at) && BSON_ITER_HOLDS_ARRAY(&at) &&
        bson_iter_recurse(&at, &list))
        while ((name = doc_next_text(&list))) {
            const char *option = part_of(name);
            if (!option || n > 30)
                return cw_problem(t, false, "ValueError", "options.checks holds \"%.40s\"", name);
            argv[n++] = option;
        }
    argv[n++] = strchr(x->s->host, ':') ? cw_printf(t, "[%s]:%s", x->s->host, x->port)
                                        : cw_printf(t, "%s:%s", x->s->host, x->port);
    argv[n] = NULL;
    return 0;
}

/* --- its JSON --- */

static int64_t date_of(const char *text)
{
    struct tm day = {0};
    const char *end = text ? strptime(text, "%Y-%m-%d %H:%M", &day) : NULL;
    return end ? (int64_t)timegm(&day) * 1000 : 0;
}

/* Is it one of those between commas? */
static bool has_word(const char *list, const char *word)
{
    size_t size = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, size) == 0 && (at[size] == ',' || !at[size]))
            return true;
    }
    return false;
}

/* What the summary tells of protocols and certificate: of all addresses of the host. */
static void note(struct ssl *x, const char *id, const char *finding)
{
    bool protocol =
        strncmp(id, "TLS1", 4) == 0 || strcmp(id, "SSLv2") == 0 || strcmp(id, "SSLv3") == 0;
    if (protocol && strncmp(finding, "offered", 7) == 0 && !has_word(x->protocols, id))
        x->protocols = cw_printf(x->s->t, "%s%s%s", x->protocols, *x->protocols ? "," : "", id);
    if (strncmp(id, "cert_notAfter", 13) == 0 && date_of(finding) &&
        (!x->not_after || date_of(finding) < x->not_after))
        x->not_after = date_of(finding);
    if (strcmp(id, "scanTime") == 0)
        x->complete = strcmp(finding, "Scan interrupted") != 0;
}

static int on_element(cw_task *t, const cJSON *element, void *arg)
{
    struct ssl *x = arg;
    const char *id = tree_text(element, "id"), *finding = tree_text(element, "finding");
    const char *severity = tree_text(element, "severity"), *host = tree_text(element, "ip");
    if (!id || !severity)
        return cw_problem(t, false, "ValueError", "testssl: a finding without id or severity");
    finding = finding ? finding : "";
    x->heard = true;
    note(x, id, finding);
    if (strcmp(severity, "FATAL") == 0)
        snprintf(x->problem, sizeof x->problem, "%s", finding);
    if (strcmp(severity, "FATAL") == 0 || strcmp(severity, "DEBUG") == 0 ||
        strcmp(id, "engine_problem") == 0 || strcmp(id, "scanTime") == 0)
        return 0;
    bson_t fields = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&fields, "tool", "testssl");
    BSON_APPEND_UTF8(&fields, "type", "tls");
    doc_put(&fields, "host", x->s->host, 255);
    BSON_APPEND_INT32(&fields, "port", (int32_t)strtol(x->port, NULL, 10));
    doc_put(&fields, "check_id", id, 255);
    doc_put(&fields, "result", severity, 64);
    doc_put(&fields, "finding", finding, 8 << 10);
    doc_put(&fields, "cve", tree_text(element, "cve"), 1024);
    doc_put(&fields, "cwe", tree_text(element, "cwe"), 64);
    char key[600]; /* not the delivery's memory: there may be any number of them */
    snprintf(key, sizeof key, "testssl %.300s %s %.200s", host ? host : "", x->port, id);
    int code = native_finding(x->s, key, severity, &fields);
    bson_destroy(&fields);
    return code;
}

static void put_summary(struct ssl *x)
{
    bson_t list;
    char room[16], *rest = x->protocols;
    const char *name;
    uint32_t n = 0;
    BSON_APPEND_ARRAY_BEGIN(x->s->summary, "protocols", &list);
    for (char *one; (one = strsep(&rest, ",")) && *one;) {
        bson_uint32_to_string(n++, &name, room, sizeof room);
        bson_append_utf8(&list, name, -1, one, -1);
    }
    bson_append_array_end(x->s->summary, &list);
    if (!x->not_after)
        return;
    BSON_APPEND_DATE_TIME(x->s->summary, "certificate_not_after", x->not_after);
    BSON_APPEND_INT64(x->s->summary, "certificate_days_left",
                      (x->not_after - doc_now()) / 86400000);
}

/* --- the run --- */

static int judge(struct ssl *x, const struct cw_exit *end)
{
    cw_task *t = x->s->t;
    if (end->signal)
        return cw_problem(t, true, "RuntimeError", "testssl was ended by signal %d", end->signal);
    if (end->status == 246)
        return cw_problem(t, true, "ConnectionError", "%s",
                          *x->problem ? x->problem : "testssl cannot connect");
    if (end->status == 247)
        return cw_problem(t, false, "ValueError", "%s",
                          *x->problem ? x->problem : "the host cannot be resolved");
    if (end->status == 1 && x->heard) /* without a word in its file it failed by itself */
        return cw_problem(t, false, "ValueError", "%s:%s does not speak TLS", x->s->host, x->port);
    if (end->status || *x->problem || !x->complete)
        return cw_problem(t, false, "RuntimeError", "testssl failed (status %d): %.500s",
                          end->status, *x->problem ? x->problem : end->errors);
    return 0;
}

static int scan(struct native_scan *s)
{
    struct ssl *x = s->own;
    const char *argv[40], *folder = cw_tmpdir(s->t);
    struct cw_exit end;
    if (!folder)
        return -1;
    const char *path = cw_printf(s->t, "%s/testssl.json", folder);
    struct json_stream_options options = {.on_element = on_element, .arg = x};
    struct cw_command command = {
        .argv = argv,
        .on_tick = native_on_tick,
        .arg = s,
        .hint = "install it (apt-get install testssl.sh) or set CWORKER_TESTSSL to its path",
    };
    unlink(path);
    if (arguments_make(x, path, argv) < 0 || tool_run(s->t, command, NULL, &end) < 0)
        return -1;
    bool there = access(path, R_OK) == 0;
    if (!there || end.signal)
        return judge(x, &end) < 0
                   ? -1
                   : cw_problem(s->t, false, "FileNotFoundError", "testssl wrote no findings");
    if (json_stream_file(s->t, path, &options, NULL) < 0 || judge(x, &end) < 0)
        return -1;
    put_summary(x);
    return 0;
}

cw_outcome execute_ssl_scan(cw_task *t)
{
    static const struct field_rule fields[] = {
        {"options", CW_OBJECT, 0, 0},
        {"options.port", CW_INT, 1, 65535},
        {"options.checks", CW_LIST, 0, 0},
        {0}};
    static const struct native_kind kind = {"ssl", fields, prepare, scan};
    return native_run(t, &kind);
}
