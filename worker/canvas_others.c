/* SPDX-License-Identifier: Apache-2.0 */
/* Which signatures of a list another one does not have, as Celery's link() asks of every callback.
 * The one idea: a producer chooses how many they are and how large, so their texts are sorted,
 * instead of comparing each with each and each member with all. */

#include "worker/canvas.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

struct text {
    char *text;
    size_t place; /* in both lists, the known ones first */
};

static int compare_texts(const void *a, const void *b)
{
    const struct text *left = a, *right = b;
    int order = strcmp(left->text, right->text);
    return order ? order : left->place < right->place ? -1 : 1;
}

static char *text_of(const cJSON *one)
{
    cJSON *copy = cJSON_Duplicate(one, true);
    json_sort_members(copy);
    char *text = json_text(copy);
    cJSON_Delete(copy);
    return text;
}

static void add_texts(struct text *all, size_t place, const cJSON *list)
{
    for (const cJSON *one = list ? list->child : NULL; one; one = one->next, place++)
        all[place] = (struct text){text_of(one), place};
}

/* Equal ones stand together, and the first of them is a known one, if any is. */
static void mark_others(const struct text *all, size_t n, size_t n_known, bool once, bool *ret_other)
{
    for (size_t i = 0, first = 0; i < n; i++) {
        if (strcmp(all[first].text, all[i].text) != 0)
            first = i;
        ret_other[all[i].place] = all[first].place >= n_known && (i == first || !once);
    }
}

cJSON *canvas_others(const cJSON *list, const cJSON *known, bool once)
{
    cJSON *others = cJSON_CreateArray();
    size_t n_list = list ? (size_t)cJSON_GetArraySize(list) : 0;
    size_t n_known = known ? (size_t)cJSON_GetArraySize(known) : 0, n = n_known + n_list;
    struct text *all = mem_alloc(n * sizeof *all);
    bool *is_other = mem_zalloc(n);
    add_texts(all, 0, known);
    add_texts(all, n_known, list);
    qsort(all, n, sizeof *all, compare_texts);
    mark_others(all, n, n_known, once, is_other);
    const cJSON *one = n_list ? list->child : NULL;
    for (size_t place = n_known; one; one = one->next, place++)
        if (is_other[place])
            cJSON_AddItemToArray(others, cJSON_Duplicate(one, true));
    for (size_t i = 0; i < n; i++)
        free(all[i].text);
    free(is_other);
    free(all);
    return others;
}
