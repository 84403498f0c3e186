/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/threat_feeds/indicator.h"

#include "tasks/lib/url.h"

#include <arpa/inet.h>
#include <bson/bson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Validation and normalisation of indicators. Addresses go through inet_pton and back, so every
 * spelling of one is one value; private, loopback and reserved ones are refused, because a feed
 * that names them would make its readers block themselves. */

enum { HOST_SIZE = 254 };

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static void lower(char *text)
{
    for (; *text; text++)
        *text = *text >= 'A' && *text <= 'Z' ? (char)(*text | 32) : *text;
}

/* --- addresses and networks --- */

/* `text` becomes canonical; 4 or 6, 0 when it is no address. ::ffff:1.2.3.4 is an IPv4 address. */
static int address_normalise(const char *text, unsigned char bytes[16], char ret[INET6_ADDRSTRLEN])
{
    static const unsigned char mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    if (inet_pton(AF_INET, text, bytes) == 1)
        return inet_ntop(AF_INET, bytes, ret, INET6_ADDRSTRLEN) ? 4 : 0;
    if (inet_pton(AF_INET6, text, bytes) != 1)
        return 0;
    if (memcmp(bytes, mapped, sizeof mapped) == 0) {
        memmove(bytes, bytes + 12, 4);
        return inet_ntop(AF_INET, bytes, ret, INET6_ADDRSTRLEN) ? 4 : 0;
    }
    return inet_ntop(AF_INET6, bytes, ret, INET6_ADDRSTRLEN) ? 6 : 0;
}

static bool read_ip(const char *text, struct indicator *ret)
{
    unsigned char bytes[16];
    ret->type = "ip";
    return address_normalise(text, bytes, ret->value) && cw_is_public_address(ret->value);
}

static bool bits_equal(const unsigned char *a, const unsigned char *b, int bits)
{
    int whole = bits / 8, rest = bits % 8;
    return memcmp(a, b, (size_t)whole) == 0 && (!rest || (a[whole] ^ b[whole]) >> (8 - rest) == 0);
}

/* A wide network is refused when one of our walls stands inside it. */
static bool covers_private(const unsigned char *bytes, int bits)
{
    static const unsigned char closed[][4] = {{10},      {100, 64},  {127},    {169, 254},
                                              {172, 16}, {192, 168}, {198, 18}};
    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++)
        if (bits_equal(bytes, closed[i], bits))
            return true;
    return false;
}

static bool read_cidr(const char *text, struct indicator *ret)
{
    unsigned char bytes[16];
    char address[INET6_ADDRSTRLEN + 1], *end;
    const char *slash = strchr(text, '/');
    if (!slash || slash - text >= INET6_ADDRSTRLEN || slash[1] < '0' || slash[1] > '9')
        return false;
    snprintf(address, sizeof address, "%.*s", (int)(slash - text), text);
    bool mapped = strncasecmp(address, "::ffff:", 7) == 0;
    int family = address_normalise(address, bytes, address);
    long bits = strtol(slash + 1, &end, 10) - (mapped && family == 4 ? 96 : 0);
    int width = family == 4 ? 32 : 128;
    if (!family || *end || bits < (family == 4 ? 8 : 16) || bits > width)
        return false;
    for (int i = 0; i < width / 8; i++) {
        int keep = (int)bits - 8 * i;
        bytes[i] &= keep >= 8 ? 0xFF : keep <= 0 ? 0 : (unsigned char)(0xFF << (8 - keep));
    }
    if (!inet_ntop(family == 4 ? AF_INET : AF_INET6, bytes, address, sizeof address) ||
        !cw_is_public_address(address) || (family == 4 && covers_private(bytes, (int)bits)))
        return false;
    if (bits == width)
        return read_ip(address, ret);
    ret->type = "cidr";
    snprintf(ret->value, sizeof ret->value, "%s/%ld", address, bits);
    return true;
}

/* --- domains --- */

static bool label_is_valid(const char *label, size_t size)
{
    if (size < 1 || size > 63 || label[0] == '-' || label[size - 1] == '-')
        return false;
    for (size_t i = 0; i < size; i++)
        if (!is_alnum(label[i]) && label[i] != '-' && label[i] != '_')
            return false;
    return true;
}

/* Names that only mean something inside a network; a feed has nothing to say about them. */
static bool is_local_name(const char *last)
{
    static const char *const local[] = {"localhost", "local", "internal", "localdomain", "lan",
                                        "arpa",      "home",  "corp",     NULL};
    for (size_t i = 0; local[i]; i++)
        if (strcmp(last, local[i]) == 0)
            return true;
    return false;
}

/* Names beyond ASCII become the xn-- labels that are looked up: one spelling. */
static bool host_normalise(const char *name, char host[HOST_SIZE])
{
    if (!host_to_ascii(name, host))
        return false;
    lower(host);
    size_t size = strlen(host);
    if (size && host[size - 1] == '.')
        host[--size] = '\0';
    if (size < 3 || size > 253)
        return false;
    const char *label = host, *last = host;
    int labels = 0;
    for (;; label++) {
        size_t length = strcspn(label, ".");
        if (!label_is_valid(label, length))
            return false;
        last = label;
        labels++;
        label += length;
        if (!*label)
            break;
    }
    bool numeric = last[strspn(last, "0123456789")] == '\0';
    return labels >= 2 && !numeric && !is_local_name(last);
}

static bool read_domain(const char *text, struct indicator *ret)
{
    if (strncmp(text, "*.", 2) == 0)
        text += 2;
    ret->type = "domain";
    return host_normalise(text, ret->value);
}

/* --- URLs --- */

static bool read_host(char *host, char *ret, size_t size)
{
    unsigned char bytes[16];
    char address[INET6_ADDRSTRLEN], name[HOST_SIZE];
    size_t length = strlen(host);
    bool bracketed = length > 2 && host[0] == '[' && host[length - 1] == ']';
    if (bracketed) {
        host[length - 1] = '\0';
        host++;
    }
    int family = address_normalise(host, bytes, address);
    if (family) {
        snprintf(ret, size, family == 6 ? "[%s]" : "%s", address);
        return cw_is_public_address(address);
    }
    if (bracketed || !host_normalise(host, name))
        return false;
    snprintf(ret, size, "%s", name);
    return true;
}

/* "host", "host:port" or "[address]:port"; the scheme's own port is dropped. */
static bool read_authority(char *text, const char *own_port, char *ret, size_t size)
{
    char *after = *text == '[' ? strchr(text, ']') : text;
    char *colon = after ? strchr(after, ':') : NULL;
    long port = -1;
    if (colon) {
        char *end;
        *colon = '\0';
        port = strtol(colon + 1, &end, 10);
        if (*end || port < 1 || port > 65535)
            return false;
    }
    if (!read_host(text, ret, size))
        return false;
    size_t used = strlen(ret);
    if (colon && strtol(own_port, NULL, 10) != port)
        snprintf(ret + used, size - used, ":%ld", port);
    return true;
}

/* Up to the fragment; bytes beyond ASCII as browsers send them. */
static bool put_path(const char *path, char *out, const char *end)
{
    for (size_t left = strcspn(path, "#"); left; left--, path++) {
        bool plain = (unsigned char)*path < 0x80;
        if (end - out < (plain ? 2 : 4))
            return false;
        out += plain ? (*out = *path, 1) : snprintf(out, 4, "%%%02X", (unsigned char)*path);
    }
    *out = '\0';
    return true;
}

static bool read_url(const char *text, struct indicator *ret)
{
    static const struct scheme {
        const char *name, *alias, *port;
    } schemes[] = {{"http", "hxxp", "80"}, {"https", "hxxps", "443"}, {"ftp", "fxp", "21"}};
    const char *colon = strstr(text, "://");
    const struct scheme *scheme = NULL;
    for (size_t i = 0; colon && i < sizeof schemes / sizeof *schemes; i++) {
        size_t size = (size_t)(colon - text);
        if ((size == strlen(schemes[i].name) && strncasecmp(text, schemes[i].name, size) == 0) ||
            (size == strlen(schemes[i].alias) && strncasecmp(text, schemes[i].alias, size) == 0))
            scheme = &schemes[i];
    }
    if (!scheme)
        return false;
    const char *host = colon + 3, *path = host + strcspn(host, "/?#");
    for (const char *at = host; at < path; at++) /* a user's name does not make another place */
        if (*at == '@')
            host = at + 1;
    char authority[300], place[300];
    if ((size_t)(path - host) >= sizeof authority)
        return false;
    snprintf(authority, sizeof authority, "%.*s", (int)(path - host), host);
    if (!read_authority(authority, scheme->port, place, sizeof place))
        return false;
    ret->type = "url";
    int size = snprintf(ret->value, sizeof ret->value, "%s://%s%s", scheme->name, place,
                        *path == '/' ? "" : "/");
    return put_path(path, ret->value + size, ret->value + sizeof ret->value);
}

/* --- hashes --- */

static bool read_hash(const char *text, struct indicator *ret)
{
    static const struct length {
        size_t size;
        const char *algorithm;
    } lengths[] = {{32, "md5"}, {40, "sha1"}, {64, "sha256"}, {128, "sha512"}};
    size_t size = strlen(text);
    if (text[strspn(text, "0123456789abcdefABCDEF")])
        return false;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        if (size != lengths[i].size)
            continue;
        ret->type = "hash";
        ret->algorithm = lengths[i].algorithm;
        snprintf(ret->value, sizeof ret->value, "%s", text);
        lower(ret->value);
        return true;
    }
    return false;
}

/* --- the feeds' words for types --- */

enum form { ADDRESS, NETWORK, DOMAIN, URL, HASH };
enum part { WHOLE, BEFORE_BAR, AFTER_BAR, BEFORE_PORT };

static const struct word {
    const char *word;
    enum form form;
    enum part part;
} words[] = {
    {"ip", ADDRESS, WHOLE},
    {"ipv4", ADDRESS, WHOLE},
    {"ipv6", ADDRESS, WHOLE},
    {"ipv4-addr", ADDRESS, WHOLE},
    {"ipv6-addr", ADDRESS, WHOLE},
    {"ip-src", ADDRESS, WHOLE},
    {"ip-dst", ADDRESS, WHOLE},
    {"ip-src|port", ADDRESS, BEFORE_BAR},
    {"ip-dst|port", ADDRESS, BEFORE_BAR},
    {"ip:port", ADDRESS, BEFORE_PORT},
    {"domain|ip", DOMAIN, BEFORE_BAR},
    {"cidr", NETWORK, WHOLE},
    {"netblock", NETWORK, WHOLE},
    {"domain", DOMAIN, WHOLE},
    {"domain-name", DOMAIN, WHOLE},
    {"hostname", DOMAIN, WHOLE},
    {"host", DOMAIN, WHOLE},
    {"hostname|port", DOMAIN, BEFORE_BAR},
    {"url", URL, WHOLE},
    {"uri", URL, WHOLE},
    {"link", URL, WHOLE},
    {"hash", HASH, WHOLE},
    {"md5", HASH, WHOLE},
    {"sha1", HASH, WHOLE},
    {"sha256", HASH, WHOLE},
    {"sha512", HASH, WHOLE},
    {"sha-1", HASH, WHOLE},
    {"sha-256", HASH, WHOLE},
    {"sha-512", HASH, WHOLE},
    {"md5_hash", HASH, WHOLE},
    {"sha1_hash", HASH, WHOLE},
    {"sha256_hash", HASH, WHOLE},
    {"filehash-md5", HASH, WHOLE},
    {"filehash-sha1", HASH, WHOLE},
    {"filehash-sha256", HASH, WHOLE},
    {"filename|md5", HASH, AFTER_BAR},
    {"filename|sha1", HASH, AFTER_BAR},
    {"filename|sha256", HASH, AFTER_BAR},
    {"filename|sha512", HASH, AFTER_BAR},
};

/* No blanks, no control characters, and nothing that is no UTF-8. */
static bool is_plain(const char *text)
{
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at <= ' ' || *at == 0x7F)
            return false;
    return bson_utf8_validate(text, strlen(text), false);
}

static bool read_as(const char *text, enum form form, struct indicator *ret)
{
    if (!is_plain(text))
        return false;
    switch (form) {
    case ADDRESS: /* feeds write networks under an address's word, and addresses under a network's
                   */
    case NETWORK:
        return strchr(text, '/') ? read_cidr(text, ret) : read_ip(text, ret);
    case DOMAIN:
        return read_domain(text, ret);
    case URL:
        return read_url(text, ret);
    case HASH:
        return read_hash(text, ret);
    }
    return false;
}

static void cut_port(char *text)
{
    size_t size = strlen(text);
    char *colon = strrchr(text, ':');
    if (*text == '[') {
        char *end = strchr(text, ']');
        if (end) {
            memmove(text, text + 1, size);
            end[-1] = '\0';
        }
    } else if (colon && strchr(text, ':') == colon) {
        *colon = '\0';
    }
}

static enum indicator_verdict read_word(char *text, const char *kind, struct indicator *ret)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(kind, words[i].word) != 0)
            continue;
        char *bar = strchr(text, '|');
        if (words[i].part == BEFORE_BAR && bar)
            *bar = '\0';
        else if (words[i].part == AFTER_BAR && bar)
            text = strrchr(text, '|') + 1;
        else if (words[i].part == BEFORE_PORT)
            cut_port(text);
        return read_as(text, words[i].form, ret) ? INDICATOR_GOOD : INDICATOR_BAD;
    }
    return INDICATOR_OTHER;
}

static bool read_guessed(char *text, struct indicator *ret)
{
    if (strstr(text, "://"))
        return read_url(text, ret);
    if (strchr(text, '/'))
        return read_cidr(text, ret);
    if (read_hash(text, ret) || read_ip(text, ret))
        return true;
    char copy[INDICATOR_MAX + 1];
    snprintf(copy, sizeof copy, "%s", text);
    cut_port(copy);
    return read_ip(copy, ret) || read_domain(copy, ret);
}

/* "evil[.]example" and the like: lists are written so that nobody clicks on them. */
static void undo_defang(char *text)
{
    char *out = text;
    for (const char *at = text; *at; at++) {
        if (strncmp(at, "[.]", 3) == 0 || strncmp(at, "(.)", 3) == 0 ||
            strncmp(at, "[:]", 3) == 0) {
            *out++ = at[1];
            at += 2;
        } else {
            *out++ = *at;
        }
    }
    *out = '\0';
}

enum indicator_verdict indicator_read(const char *text, size_t size, const char *kind,
                                      struct indicator *ret)
{
    char copy[INDICATOR_MAX + 1];
    ret->type = ret->algorithm = NULL;
    while (size && is_blank(*text))
        text++, size--;
    while (size && is_blank(text[size - 1]))
        size--;
    if (!size || size > INDICATOR_MAX)
        return INDICATOR_BAD;
    memcpy(copy, text, size);
    copy[size] = '\0';
    undo_defang(copy);
    if (kind && *kind)
        return read_word(copy, kind, ret);
    return is_plain(copy) && read_guessed(copy, ret) ? INDICATOR_GOOD : INDICATOR_BAD;
}
