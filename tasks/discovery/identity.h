/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_IDENTITY_H
#define TASKS_DISCOVERY_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

/* Which records are about one real thing. Each record has identities; records that share one are
 * joined, unless that would join two things that something stronger tells apart. */

/* The strongest first. */
enum identity_kind {
    IDENTITY_INSTANCE, /* an instance's id at its provider */
    IDENTITY_CLOUD,    /* an ARN or another resource id */
    IDENTITY_MAC,
    IDENTITY_K8S,  /* a cluster's object */
    IDENTITY_SELF, /* a network's host, so that each record has one */
    IDENTITY_HOST, /* address and name together: an address alone is nobody's for long */
};

/* Of a text only its digest is kept: twenty bytes, whatever a million things are called. */
enum { IDENTITY_DIGEST = 15 };
struct identity {
    unsigned char kind; /* enum identity_kind */
    unsigned char digest[IDENTITY_DIGEST];
    int record;
};
struct identity identity_of(enum identity_kind kind, const char *text, int record);

/* ret_group[record]: the smallest record that is the same thing. Sorts the identities. False when
 * memory is short. */
bool identity_join(struct identity *list, size_t n, int records, int *ret_group);

/* Canonical forms into `room`; false when it is none that identifies anything. */
bool mac_read(const char *text, char room[18]);
bool hostname_read(const char *text, char room[254]);
bool ip_read(const char *text, char room[46]);

#endif
