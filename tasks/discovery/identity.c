/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/identity.h"

#include "tasks/lib/digest.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Union-find over sorted identities, the strong kinds first. A weak identity (MAC, address and
 * name) joins what is not yet told apart: private addresses and names like node-1 exist many times,
 * so two groups that each have an instance, a cluster object or a network card of their own stay
 * two. */

enum anchor { HAS_CLOUD = 1, HAS_MAC = 2, HAS_K8S = 4 };
enum { COMPARED = 8 }; /* groups of one weak identity that are compared: many are a mistake */

struct joining {
    int *parent;
    unsigned char *anchors; /* of a root */
};

static int root_of(struct joining *j, int record)
{
    while (j->parent[record] != record)
        record = j->parent[record] = j->parent[j->parent[record]];
    return record;
}

static void join(struct joining *j, int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;
    j->parent[high] = low;
    j->anchors[low] |= j->anchors[high];
}

static int compare(const void *left, const void *right)
{
    const struct identity *a = left, *b = right;
    int order = a->kind - b->kind;
    order = order ? order : memcmp(a->digest, b->digest, IDENTITY_DIGEST);
    return order ? order : (a->record > b->record) - (a->record < b->record);
}

struct identity identity_of(enum identity_kind kind, const char *text, int record)
{
    struct identity made = {.kind = (unsigned char)kind, .record = record};
    unsigned char digest[DIGEST_BYTES];
    digest_bytes((const char *const[]){text, NULL}, digest);
    memcpy(made.digest, digest, IDENTITY_DIGEST);
    return made;
}

static unsigned char anchor_of(unsigned char kind)
{
    return kind == IDENTITY_INSTANCE || kind == IDENTITY_CLOUD ? HAS_CLOUD
           : kind == IDENTITY_MAC                              ? HAS_MAC
           : kind == IDENTITY_K8S                              ? HAS_K8S
                                                               : 0;
}

static bool may_join(const struct joining *j, unsigned char kind, int a, int b)
{
    unsigned both = j->anchors[a] & j->anchors[b];
    if (kind == IDENTITY_MAC)
        return !(both & (HAS_CLOUD | HAS_K8S));
    return kind == IDENTITY_HOST ? !both : true;
}

/* The records of one identity: each joins the first group that it may. */
static void join_run(struct joining *j, const struct identity *run, size_t n)
{
    int groups[COMPARED];
    size_t known = 0;
    for (size_t i = 0; i < n; i++) {
        int root = root_of(j, run[i].record);
        size_t k = 0;
        for (; k < known; k++) {
            int other = groups[k] = root_of(j, groups[k]);
            if (other == root)
                break;
            if (may_join(j, run->kind, other, root)) {
                join(j, other, root);
                break;
            }
        }
        if (k == known && known < COMPARED)
            groups[known++] = root;
    }
}

bool identity_join(struct identity *list, size_t n, int records, int *ret_group)
{
    struct joining j = {ret_group, calloc((size_t)records + 1, 1)};
    if (!j.anchors)
        return false;
    for (int i = 0; i < records; i++)
        j.parent[i] = i;
    for (size_t i = 0; i < n; i++)
        j.anchors[list[i].record] |= anchor_of(list[i].kind);
    if (n)
        qsort(list, n, sizeof *list, compare);
    for (size_t at = 0, end; at < n; at = end) {
        for (end = at + 1; end < n && list[end].kind == list[at].kind &&
                           memcmp(list[end].digest, list[at].digest, IDENTITY_DIGEST) == 0;)
            end++;
        join_run(&j, list + at, end - at);
    }
    for (int i = 0; i < records; i++)
        ret_group[i] = root_of(&j, i);
    free(j.anchors);
    return true;
}

/* --- canonical forms --- */

/* Neither nobody's (zeros) nor a group's (broadcast, multicast). */
bool mac_read(const char *text, char room[18])
{
    unsigned char bytes[6];
    int n = 0;
    for (; n < 6; n++) {
        if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]))
            return false;
        char pair[3] = {text[0], text[1], '\0'};
        bytes[n] = (unsigned char)strtoul(pair, NULL, 16);
        text += 2;
        if (n < 5 && *text != ':' && *text != '-')
            return false;
        text += n < 5;
    }
    static const unsigned char none[6];
    if (*text || (bytes[0] & 1) || memcmp(bytes, none, 6) == 0)
        return false;
    snprintf(room, 18, "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2], bytes[3],
             bytes[4], bytes[5]);
    return true;
}

bool hostname_read(const char *text, char room[254])
{
    size_t size = strlen(text);
    size -= size && text[size - 1] == '.';
    if (!size || size > 253)
        return false;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!isascii(c) || (!isalnum(c) && c != '.' && c != '-' && c != '_'))
            return false;
        room[i] = (char)tolower(c);
    }
    room[size] = '\0';
    return true;
}

bool ip_read(const char *text, char room[46])
{
    unsigned char address[16];
    int family = strchr(text, ':') ? AF_INET6 : AF_INET;
    return inet_pton(family, text, address) == 1 && inet_ntop(family, address, room, 46);
}
