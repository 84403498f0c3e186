/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/uuid.h"

#include "proto/base/buf.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void print(unsigned char bytes[16], unsigned char version, char *out)
{
    static const char hex[] = "0123456789abcdef";
    bytes[6] = (bytes[6] & 0x0F) | version;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = hex[bytes[i] >> 4];
        *out++ = hex[bytes[i] & 15];
    }
    *out = '\0';
}

void uuid_derive(const char *text, uint64_t number, char out[37])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    struct buf name = BUF_INIT(SIZE_MAX / 2);
    buf_printf(&name, "%s/%llu", text, (unsigned long long)number);
    EVP_Digest(name.data, name.size, digest, NULL, EVP_sha1(), NULL);
    buf_done(&name);
    print(digest, 0x50, out);
}

void uuid_make(char out[37])
{
    /* Straight from the kernel each time: a pool of our own would be copied by fork(), and two
     * children would hand out the same ids. */
    unsigned char bytes[16];
    if (getentropy(bytes, sizeof bytes) != 0) {
        perror("cworker: getentropy");
        abort();
    }
    print(bytes, 0x40, out);
}
