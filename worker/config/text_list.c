/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/text_list.h"

#include "proto/base/mem.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

char **text_list_add(char **list, const char *text, size_t size)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    list = mem_realloc(list, (n + 2) * sizeof *list);
    list[n] = mem_ndup(text, size);
    list[n + 1] = NULL;
    return list;
}

char **text_list_split(const char *text, const char *separators)
{
    char **list = NULL;
    while (text && *text) {
        text += strspn(text, " \t");
        size_t size = strcspn(text, separators), kept = size;
        while (kept > 0 && isspace((unsigned char)text[kept - 1]))
            kept--;
        if (kept > 0)
            list = text_list_add(list, text, kept);
        text += size + (text[size] != '\0');
    }
    return list;
}

bool text_list_has(char *const *list, const char *text)
{
    for (; list && *list; list++)
        if (strcmp(*list, text) == 0)
            return true;
    return false;
}

void text_list_free(char **list)
{
    for (char **at = list; at && *at; at++)
        free(*at);
    free(list);
}
