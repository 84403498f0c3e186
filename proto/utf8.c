/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/utf8.h"

#include <string.h>

size_t utf8_read(const char *text, const char *end, uint32_t *ret_point)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t size = *at < 0xC0 ? 0 : *at < 0xE0 ? 2 : *at < 0xF0 ? 3 : *at < 0xF5 ? 4 : 0;
    if (!size || (size_t)(end - text) < size)
        return 0;
    uint32_t point = *at & (0x7Fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
        point = point << 6 | (at[i] & 0x3Fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if ((point < least[size] && !(point == 0 && size == 2)) || point > 0x10FFFF)
        return 0;
    *ret_point = point;
    return size;
}

size_t utf8_strict(const char *text, const char *end)
{
    uint32_t point;
    size_t size = utf8_read(text, end, &point);
    bool is_surrogate = size == 3 && point >= 0xD800 && point <= 0xDFFF;
    return size && point && !is_surrogate ? size : 0;
}

bool utf8_is_valid(const char *text, size_t size)
{
    const char *end = text + size;
    while (text < end) {
        uint64_t word = UINT64_C(0x8080808080808080);
        if (end - text >= 8)
            memcpy(&word, text, sizeof word);
        size_t step = !(word & UINT64_C(0x8080808080808080)) ? 8
                      : (unsigned char)*text < 0x80          ? 1
                                                             : utf8_strict(text, end);
        if (!step)
            return false;
        text += step;
    }
    return true;
}
