/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base64.h"

#include "proto/base/error.h"

#include <openssl/evp.h>

/* Decoding is our own: it is on the way of every message, and OpenSSL's EVP_DecodeBlock skips white
 * space, counts padding as data and is several times slower. Encoding is OpenSSL's. */

enum { BAD = 0x80 };

static const uint8_t values[256] = {
    [0x00 ... 0x2A] = BAD, [0x2C ... 0x2E] = BAD, [0x3A ... 0x40] = BAD, [0x5B ... 0x60] = BAD,
    [0x7B ... 0xFF] = BAD, ['+'] = 62, ['/'] = 63, ['0'] = 52, ['1'] = 53, ['2'] = 54, ['3'] = 55,
    ['4'] = 56, ['5'] = 57, ['6'] = 58, ['7'] = 59, ['8'] = 60, ['9'] = 61, ['A'] = 0, ['B'] = 1,
    ['C'] = 2, ['D'] = 3, ['E'] = 4, ['F'] = 5, ['G'] = 6, ['H'] = 7, ['I'] = 8, ['J'] = 9,
    ['K'] = 10, ['L'] = 11, ['M'] = 12, ['N'] = 13, ['O'] = 14, ['P'] = 15, ['Q'] = 16, ['R'] = 17,
    ['S'] = 18, ['T'] = 19, ['U'] = 20, ['V'] = 21, ['W'] = 22, ['X'] = 23, ['Y'] = 24, ['Z'] = 25,
    ['a'] = 26, ['b'] = 27, ['c'] = 28, ['d'] = 29, ['e'] = 30, ['f'] = 31, ['g'] = 32, ['h'] = 33,
    ['i'] = 34, ['j'] = 35, ['k'] = 36, ['l'] = 37, ['m'] = 38, ['n'] = 39, ['o'] = 40, ['p'] = 41,
    ['q'] = 42, ['r'] = 43, ['s'] = 44, ['t'] = 45, ['u'] = 46, ['v'] = 47, ['w'] = 48, ['x'] = 49,
    ['y'] = 50, ['z'] = 51,
};

/* The last group, which may be padded. Returns its bytes, -1 when it is wrong. */
static int decode_last(const unsigned char *in, char *out)
{
    int pad = in[3] != '=' ? 0 : in[2] != '=' ? 1 : 2;
    uint32_t a = values[in[0]], b = values[in[1]];
    uint32_t c = pad == 2 ? 0 : values[in[2]], d = pad ? 0 : values[in[3]];
    if ((a | b | c | d) & BAD)
        return -1;
    uint32_t bits = a << 18 | b << 12 | c << 6 | d;
    for (int i = 0; i < 3 - pad; i++)
        out[i] = (char)(bits >> (16 - 8 * i));
    return 3 - pad;
}

int base64_decode(struct slice in, struct buf *out)
{
    if (in.size % 4)
        return ERROR_INVALID;
    if (in.size == 0)
        return 0;
    char *to = buf_reserve(out, in.size / 4 * 3);
    if (!to)
        return ERROR_TOO_BIG;
    const unsigned char *at = (const unsigned char *)in.at, *last = at + in.size - 4;
    uint32_t bad = 0;
    for (; at < last; at += 4, to += 3) {
        uint32_t a = values[at[0]], b = values[at[1]], c = values[at[2]], d = values[at[3]];
        bad |= a | b | c | d;
        uint32_t bits = a << 18 | b << 12 | c << 6 | d;
        to[0] = (char)(bits >> 16);
        to[1] = (char)(bits >> 8);
        to[2] = (char)bits;
    }
    int rest = decode_last(last, to);
    if ((bad & BAD) || rest < 0) {
        out->data[out->size] = '\0';
        return ERROR_INVALID;
    }
    out->size = (size_t)(to - out->data) + (size_t)rest;
    out->data[out->size] = '\0';
    return 0;
}

void base64_encode(struct slice in, struct buf *out)
{
    /* EVP_EncodeBlock counts in int, so long texts go in pieces of whole groups. */
    const size_t piece = 3u << 20;
    while (in.size) {
        size_t size = in.size < piece ? in.size : piece;
        char *to = buf_reserve(out, (size + 2) / 3 * 4);
        if (!to)
            return;
        int made = EVP_EncodeBlock((unsigned char *)to, (const unsigned char *)in.at, (int)size);
        out->size += (size_t)made;
        in.at += size;
        in.size -= size;
    }
}
