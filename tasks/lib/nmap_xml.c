/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/nmap_xml.h"

#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* nmap's XML as a stream: a /16 scan is never held in memory, only the port that is being read. The
 * text comes from machines on the network being scanned, so entities are refused and every field is
 * cut. */

enum { SCRIPTS_MAX = 16 << 10 };

struct nmap_xml {
    struct nmap_xml_handlers handlers;
    XML_Parser parser;
    struct nmap_host host;
    struct nmap_port port;
    bool in_port, finished;
    struct nmap_counts counts;
};

static const char *attribute(const XML_Char **list, const char *name)
{
    for (; list[0]; list += 2)
        if (strcmp(list[0], name) == 0)
            return list[1];
    return "";
}

#define PUT(field, text) snprintf((field), sizeof(field), "%s", (text))

static int number(const XML_Char **list, const char *name)
{
    return (int)strtol(attribute(list, name), NULL, 10);
}

static void begin_host(struct nmap_xml *x)
{
    free(x->port.scripts); /* of a port that never ended */
    x->host = (struct nmap_host){0};
    x->port = (struct nmap_port){0};
    x->in_port = false;
}

static void begin_port(struct nmap_xml *x, const XML_Char **list)
{
    struct nmap_port *p = &x->port;
    x->in_port = true;
    p->port = number(list, "portid");
    PUT(p->protocol, attribute(list, "protocol"));
    p->state[0] = p->service[0] = p->product[0] = p->version[0] = '\0';
}

static void add_script(struct nmap_xml *x, const XML_Char **list)
{
    const char *id = attribute(list, "id"), *output = attribute(list, "output");
    const char *before = x->port.scripts ? x->port.scripts : "";
    char *joined = NULL;
    if (strlen(before) + strlen(id) + strlen(output) > SCRIPTS_MAX ||
        asprintf(&joined, "%s%s: %s\n", before, id, output) < 0)
        return;
    free(x->port.scripts);
    x->port.scripts = joined;
}

static void add_address(struct nmap_xml *x, const XML_Char **list)
{
    if (strcmp(attribute(list, "addrtype"), "mac") == 0) {
        PUT(x->host.mac, attribute(list, "addr"));
        PUT(x->host.vendor, attribute(list, "vendor"));
    } else if (strncmp(attribute(list, "addrtype"), "ip", 2) == 0) {
        PUT(x->host.address, attribute(list, "addr"));
        PUT(x->port.host, attribute(list, "addr"));
    }
}

static void in_host(struct nmap_xml *x, const char *name, const XML_Char **list)
{
    if (strcmp(name, "address") == 0) {
        add_address(x, list);
    } else if (strcmp(name, "hostname") == 0 && !x->host.hostname[0]) {
        PUT(x->host.hostname, attribute(list, "name"));
        PUT(x->port.hostname, attribute(list, "name"));
    } else if (strcmp(name, "status") == 0) {
        x->host.up = strcmp(attribute(list, "state"), "up") == 0;
    } else if (strcmp(name, "port") == 0) {
        begin_port(x, list);
    }
}

static void in_port(struct nmap_xml *x, const char *name, const XML_Char **list)
{
    struct nmap_port *p = &x->port;
    if (strcmp(name, "state") == 0) {
        PUT(p->state, attribute(list, "state"));
    } else if (strcmp(name, "service") == 0) {
        PUT(p->service, attribute(list, "name"));
        PUT(p->product, attribute(list, "product"));
        PUT(p->version, attribute(list, "version"));
    } else if (strcmp(name, "script") == 0) {
        add_script(x, list);
    }
}

static void XMLCALL on_begin(void *arg, const XML_Char *name, const XML_Char **list)
{
    struct nmap_xml *x = arg;
    if (strcmp(name, "host") == 0)
        begin_host(x);
    else if (strcmp(name, "finished") == 0)
        x->finished = strcmp(attribute(list, "exit"), "success") == 0;
    else if (strcmp(name, "hosts") == 0)
        x->counts = (struct nmap_counts){number(list, "up"), number(list, "down"),
                                         number(list, "total")};
    else if (strcmp(name, "taskprogress") == 0 && x->handlers.on_progress)
        x->handlers.on_progress(strtod(attribute(list, "percent"), NULL), attribute(list, "task"),
                                x->handlers.arg);
    else if (x->in_port)
        in_port(x, name, list);
    else
        in_host(x, name, list);
}

static void XMLCALL on_end(void *arg, const XML_Char *name)
{
    struct nmap_xml *x = arg;
    if (strcmp(name, "host") == 0) {
        if (x->handlers.on_host)
            x->handlers.on_host(&x->host, x->handlers.arg);
    } else if (strcmp(name, "port") == 0 && x->in_port) {
        if (x->handlers.on_port)
            x->handlers.on_port(&x->port, x->handlers.arg);
        free(x->port.scripts);
        x->port.scripts = NULL;
        x->in_port = false;
    }
}

/* nmap declares no entities; a text that does is not from nmap. */
static void XMLCALL on_entity(void *arg, const XML_Char *name, int is_parameter,
                              const XML_Char *value, int size, const XML_Char *base,
                              const XML_Char *system, const XML_Char *public,
                              const XML_Char *notation)
{
    struct nmap_xml *x = arg;
    (void)name, (void)is_parameter, (void)value, (void)size;
    (void)base, (void)system, (void)public, (void)notation;
    XML_StopParser(x->parser, XML_FALSE);
}

struct nmap_xml *nmap_xml_open(const struct nmap_xml_handlers *handlers)
{
    struct nmap_xml *x = calloc(1, sizeof *x);
    if (!x || !(x->parser = XML_ParserCreate(NULL))) {
        free(x);
        return NULL;
    }
    x->handlers = *handlers;
    XML_SetUserData(x->parser, x);
    XML_SetElementHandler(x->parser, on_begin, on_end);
    XML_SetEntityDeclHandler(x->parser, on_entity);
    return x;
}

int nmap_xml_feed(struct nmap_xml *x, const char *data, size_t size)
{
    return XML_Parse(x->parser, data, (int)size, 0) == XML_STATUS_OK ? 0 : -1;
}

int nmap_xml_end(struct nmap_xml *x)
{
    return XML_Parse(x->parser, "", 0, 1) == XML_STATUS_OK && x->finished ? 0 : -1;
}

struct nmap_counts nmap_xml_counts(const struct nmap_xml *x)
{
    return x->counts;
}

const char *nmap_xml_error(const struct nmap_xml *x)
{
    enum XML_Error code = XML_GetErrorCode(x->parser);
    return code == XML_ERROR_NONE ? "it does not say that the scan finished"
                                  : XML_ErrorString(code);
}

void nmap_xml_close(struct nmap_xml *x)
{
    if (!x)
        return;
    free(x->port.scripts);
    XML_ParserFree(x->parser);
    free(x);
}
