/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_NMAP_XML_H
#define TASKS_LIB_NMAP_XML_H

#include <stdbool.h>
#include <stddef.h>

/* One port of one host, as nmap's XML tells it. Texts are empty when nmap says nothing. */
struct nmap_port {
    char host[64], hostname[256], protocol[16], state[32], service[64], product[128], version[64];
    char *scripts; /* "id: output" lines; NULL: none */
    int port;
};

struct nmap_host {
    bool up;
    char address[64], mac[32], vendor[128], hostname[256];
};

struct nmap_xml_handlers {
    void (*on_port)(const struct nmap_port *port, void *arg); /* NULL: ports are not wanted */
    void (*on_host)(const struct nmap_host *host, void *arg); /* after its ports; or NULL */
    void (*on_progress)(double percent, const char *phase, void *arg);
    void *arg;
};

struct nmap_xml;

/* Reads as it comes: feed it any pieces. feed and end return 0 or < 0 when it is not nmap's XML. */
struct nmap_xml *nmap_xml_open(const struct nmap_xml_handlers *handlers);
int nmap_xml_feed(struct nmap_xml *x, const char *data, size_t size);
int nmap_xml_end(struct nmap_xml *x);
/* After the end: what it looked at. Hosts that are down have no element of their own, and a name
 * that does not resolve is a scan of no host that ends well. */
struct nmap_counts {
    int up, down, total;
};
struct nmap_counts nmap_xml_counts(const struct nmap_xml *x);
const char *nmap_xml_error(const struct nmap_xml *x);
void nmap_xml_close(struct nmap_xml *x);

#endif
