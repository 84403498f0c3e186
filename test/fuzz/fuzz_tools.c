/* SPDX-License-Identifier: Apache-2.0 */
/* What tools and feeds hand to the built-in tasks: nmap's XML, CSV and lists, names and targets. Fed in
 * pieces whose sizes come from the text itself, as a pipe would. */
#include "test/fuzz/fuzz.h"

#include "proto/base/mem.h"
#include "tasks/lib/date.h"
#include "tasks/lib/nmap_xml.h"
#include "tasks/lib/targets.h"
#include "tasks/lib/url.h"
#include "tasks/threat_feeds/indicator.h"
#include "tasks/threat_feeds/rows.h"
#include "tasks/threat_feeds/stix.h"

static size_t piece(const uint8_t *data, size_t left)
{
    size_t n = 1 + data[0] % 61;
    return n < left ? n : left;
}

static void on_port(const struct nmap_port *port, void *arg)
{
    size_t *total = arg;
    *total += strlen(port->host) + strlen(port->service) + strlen(port->scripts ? port->scripts : "");
}

static void on_host(const struct nmap_host *host, void *arg)
{
    size_t *total = arg;
    *total += strlen(host->address) + strlen(host->hostname);
}

static void check_xml(const uint8_t *data, size_t size)
{
    size_t total = 0;
    struct nmap_xml_handlers handlers = {.on_port = on_port, .on_host = on_host, .arg = &total};
    struct nmap_xml *x = nmap_xml_open(&handlers);
    int code = 0;
    for (size_t at = 0, n; at < size && code == 0; at += n) {
        n = piece(data + at, size - at);
        code = nmap_xml_feed(x, (const char *)data + at, n);
    }
    if (code == 0)
        code = nmap_xml_end(x);
    if (code < 0 && !nmap_xml_error(x)[0])
        abort();
    nmap_xml_close(x);
}

static int on_row(char *const *fields, int n, void *arg)
{
    size_t *total = arg;
    for (int i = 0; i < n; i++)
        *total += strlen(fields[i]);
    return 0;
}

static void check_rows(const uint8_t *data, size_t size, char delimiter)
{
    size_t total = 0;
    struct rows_options options = {.delimiter = delimiter, .on_row = on_row, .arg = &total};
    struct rows *r = rows_open(&options);
    for (size_t at = 0, n; at < size; at += n) {
        n = piece(data + at, size - at);
        if (rows_feed(r, (const char *)data + at, n) != 0)
            abort();
    }
    if (rows_end(r) != 0 || total > size)
        abort();
    rows_close(r);
}

/* What passes as a target is never an option to the program that gets it. */
static void check_names(const uint8_t *data, size_t size)
{
    char *text = mem_ndup((const char *)data, size < 300 ? size : 300), ascii[254];
    if (target_is_valid(text) && (text[0] == '-' || strpbrk(text, " \t\r\n;|&$`")))
        abort();
    target_is_covered(text, "10.0.0.0/8");
    target_is_covered("10.1.2.3", text);
    if (host_to_ascii(text, ascii) && strlen(ascii) >= sizeof ascii)
        abort();
    free(text);
}

/* What is canonical stays as it is when it is read again. */
static void check_indicator(const char *text, size_t size, const char *kind)
{
    struct indicator one, two;
    if (indicator_read(text, size, kind, &one) != INDICATOR_GOOD)
        return;
    if (indicator_read(one.value, strlen(one.value), one.type, &two) != INDICATOR_GOOD ||
        strcmp(one.type, two.type) != 0 || strcmp(one.value, two.value) != 0) {
        fprintf(stderr, "%s %s: %s\n", one.type, one.value, two.value);
        abort();
    }
}

static void on_value(const char *kind, const char *value, size_t size, void *arg)
{
    ++*(int *)arg;
    check_indicator(value, size, kind);
}

static void check_lines(const uint8_t *data, size_t size)
{
    static const char *const kinds[] = {NULL, "ip", "cidr", "domain", "url", "hash", "ip:port"};
    for (size_t at = 0, n; at < size; at += n + 1) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        n = end ? (size_t)(end - data) - at : size - at;
        char *line = mem_ndup((const char *)data + at, n);
        int given = 0;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            check_indicator(line, strlen(line), kinds[i]);
        if (stix_pattern_read(line, on_value, &given) != given)
            abort();
        date_read(line);
        free(line);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_xml(data, size);
    check_rows(data, size, ',');
    check_rows(data, size, '\0');
    check_names(data, size);
    check_lines(data, size);
    return 0;
}
