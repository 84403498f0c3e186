/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void uuid_make(char out[37])
{
    /* Straight from the kernel each time: a pool of our own would be copied by fork(), and two
     * children would hand out the same ids. */
    unsigned char bytes[16];
    if (getentropy(bytes, sizeof bytes) != 0) {
        perror("cworker: getentropy");
        abort();
    }
    bytes[6] = (bytes[6] & 0x0F) | 0x40;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = hex[bytes[i] >> 4];
        *out++ = hex[bytes[i] & 15];
    }
    *out = '\0';
}
