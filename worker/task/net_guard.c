/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/net_guard.h"

#include "tasks/cworker.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

/* Which addresses lie outside of our own walls. It looks at the address a socket is about to
 * connect to, after every look-up, so that a name that changes its answer gains nothing. */

static const struct range4 {
    uint32_t net;
    int bits;
} closed4[] = {
    {0x00000000, 8},  /* this network */
    {0x0A000000, 8},  /* private */
    {0x64400000, 10}, /* shared by carriers; a cloud's metadata lives there too */
    {0x7F000000, 8},  /* loopback */
    {0xA9FE0000, 16}, /* link-local, metadata */
    {0xAC100000, 12}, /* private */
    {0xC0000000, 24}, /* protocol assignments */
    {0xC0A80000, 16}, /* private */
    {0xC6120000, 15}, /* benchmarks */
    {0xE0000000, 3},  /* multicast, reserved, broadcast */
};

static bool is_public4(uint32_t address)
{
    for (size_t i = 0; i < sizeof closed4 / sizeof *closed4; i++)
        if ((address ^ closed4[i].net) >> (32 - closed4[i].bits) == 0)
            return false;
    return true;
}

static uint32_t inner4(const unsigned char *at)
{
    uint32_t address;
    memcpy(&address, at, sizeof address);
    return ntohl(address);
}

static bool is_public6(const unsigned char a[16])
{
    static const unsigned char mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    static const unsigned char nat64[12] = {0x00, 0x64, 0xFF, 0x9B};
    if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0)
        return is_public4(inner4(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02) /* 6to4 */
        return is_public4(inner4(a + 2));
    if (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0 && a[3] == 0) /* Teredo hides an IPv4 address */
        return false;
    return (a[0] & 0xE0) == 0x20; /* global unicast, 2000::/3 */
}

bool address_is_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return is_public4(
            ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    if (address->sa_family == AF_INET6)
        return is_public6(((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr);
    return false;
}

bool cw_is_public_address(const char *address)
{
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, address, &four.sin_addr) == 1)
        return address_is_public((const struct sockaddr *)(const void *)&four);
    return inet_pton(AF_INET6, address, &six.sin6_addr) == 1 &&
           address_is_public((const struct sockaddr *)(const void *)&six);
}
