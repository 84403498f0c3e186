/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/digest.h"

#include <openssl/evp.h>

static void digest(struct slice text, const EVP_MD *kind, char *out)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_Digest(text.at, text.size, bytes, &size, kind, NULL);
    for (unsigned i = 0; i < size; i++) {
        *out++ = hex[bytes[i] >> 4];
        *out++ = hex[bytes[i] & 15];
    }
    *out = '\0';
}

void digest_sha1(struct slice text, char out[41])
{
    digest(text, EVP_sha1(), out);
}

void digest_sha256(struct slice text, char out[65])
{
    digest(text, EVP_sha256(), out);
}
