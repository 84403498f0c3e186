/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_NET_GUARD_H
#define WORKER_NET_GUARD_H

#include <stdbool.h>
#include <sys/socket.h>

/* May a request whose URL came out of a document connect there? False for loopback, private,
 * shared, link-local (cloud metadata), multicast and reserved addresses, in IPv4, IPv6 and IPv4
 * inside IPv6. */
bool address_is_public(const struct sockaddr *address);

#endif
