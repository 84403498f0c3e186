/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/targets.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What a team may scan. Addresses are compared as numbers, never as texts: 10.0.0.0/8
 * covers 10.1.2.3, and 2001:db8:0::1 is 2001:db8::1. */

struct network {
    unsigned char address[16];
    int family, bits, prefix;
};

static bool network_read(const char *text, struct network *ret)
{
    char address[64];
    size_t size = strcspn(text, "/");
    if (size >= sizeof address)
        return false;
    memcpy(address, text, size);
    address[size] = '\0';
    memset(ret, 0, sizeof *ret);
    ret->family = strchr(address, ':') ? AF_INET6 : AF_INET;
    ret->bits = ret->prefix = ret->family == AF_INET6 ? 128 : 32;
    if (inet_pton(ret->family, address, ret->address) != 1)
        return false;
    if (text[size] == '\0')
        return true;
    char *end;
    long prefix = strtol(text + size + 1, &end, 10);
    if (!isdigit((unsigned char)text[size + 1]) || *end || prefix > ret->bits)
        return false;
    ret->prefix = (int)prefix;
    return true;
}

static bool same_bits(const unsigned char *a, const unsigned char *b, int bits)
{
    int bytes = bits / 8, rest = bits % 8;
    return memcmp(a, b, (size_t)bytes) == 0 && (!rest || (a[bytes] ^ b[bytes]) >> (8 - rest) == 0);
}

/* A slash may only stand before the prefix of an address: nmap would resolve name/8 and scan around
 * it. */
bool target_is_valid(const char *target)
{
    struct network network;
    size_t size = strlen(target);
    if (network_read(target, &network))
        return true;
    if (!size || size > 253 || !isalnum((unsigned char)target[0]))
        return false;
    bool letter = false;
    for (const char *at = target; *at; at++) {
        letter = letter || isalpha((unsigned char)*at);
        if (!isalnum((unsigned char)*at) && *at != '.' && *at != '-' && *at != '_')
            return false;
    }
    return letter;
}

bool target_is_ipv6(const char *target)
{
    return strchr(target, ':');
}

bool target_is_metadata(const char *address)
{
    static const char *const networks[] = {
        "169.254.0.0/16", "fe80::/10", "::ffff:169.254.0.0/112", "fd00:ec2::/32",
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0/8", "::"};
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++)
        if (target_is_covered(address, networks[i]))
            return true;
    return false;
}

bool target_is_covered(const char *target, const char *approved)
{
    struct network inner, outer;
    if (!network_read(target, &inner) || !network_read(approved, &outer))
        return strcasecmp(target, approved) == 0;
    return inner.family == outer.family && inner.prefix >= outer.prefix &&
           same_bits(inner.address, outer.address, outer.prefix);
}
