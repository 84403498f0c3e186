/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/digest.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* SHA-256 over parts. It runs once for each finding of a synchronisation, so one buffer holds what
 * is usual and the digest is computed in one call. */

enum { USUAL = 1024 };

static size_t escaped_size(const char *part)
{
    size_t size = 0;
    for (; *part; part++)
        size += *part == '\n' || *part == '\\' ? 2 : 1;
    return size;
}

static char *put_part(char *out, const char *part)
{
    for (; *part; part++) {
        if (*part == '\n' || *part == '\\')
            *out++ = '\\';
        *out++ = *part == '\n' ? 'n' : *part;
    }
    *out++ = '\n';
    return out;
}

void digest_bytes(const char *const *parts, unsigned char ret[DIGEST_BYTES])
{
    char usual[USUAL], *text = usual, *large = NULL;
    size_t size = 0;
    for (const char *const *part = parts; *part; part++)
        size += escaped_size(*part) + 1;
    if (size > sizeof usual) {
        text = large = malloc(size);
        if (!large)
            abort();
    }
    char *end = text;
    for (const char *const *part = parts; *part; part++)
        end = put_part(end, *part);
    if (!EVP_Digest(text, (size_t)(end - text), ret, NULL, EVP_sha256(), NULL))
        abort();
    free(large);
}

void digest_hex(const char *const *parts, char ret[DIGEST_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[DIGEST_BYTES];
    digest_bytes(parts, bytes);
    for (int i = 0; i < 32; i++) {
        ret[2 * i] = digits[bytes[i] >> 4];
        ret[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret[64] = '\0';
}

void digest_id(const char *const *parts, char ret[CW_ID_SIZE])
{
    unsigned char b[DIGEST_BYTES];
    digest_bytes(parts, b);
    b[6] = (unsigned char)((b[6] & 0x0F) | 0x80);
    b[8] = (unsigned char)((b[8] & 0x3F) | 0x80);
    snprintf(ret, CW_ID_SIZE,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
             b[15]);
}
