/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Members by their names, where many are looked up. The one idea: looking one up in cJSON's list
 * takes as long as the list is, and a stranger chooses that; so a long one is sorted once. Sorting
 * instead of hashing: nobody can choose names that make it slow. */

enum { FEW = 16 };

static const char *name_of(const cJSON *item)
{
    return item->string ? item->string : cJSON_IsString(item) ? item->valuestring : "";
}

static int compare_slots(const void *a, const void *b)
{
    const struct json_slot *left = a, *right = b;
    int order = strcmp(left->name, right->name);
    return order ? order : left->place < right->place ? -1 : 1;
}

static bool are_few(const cJSON *item)
{
    int n = 0;
    for (; item && n <= FEW; item = item->next)
        n++;
    return n <= FEW;
}

static void sort(struct json_index *x, cJSON *first)
{
    for (const cJSON *item = first; item; item = item->next)
        x->n++;
    x->sorted = mem_alloc(x->n * sizeof *x->sorted);
    cJSON *item = first;
    for (size_t i = 0; i < x->n; i++, item = item->next)
        x->sorted[i] = (struct json_slot){name_of(item), item, i};
    qsort(x->sorted, x->n, sizeof *x->sorted, compare_slots);
}

struct json_index json_index(const cJSON *container)
{
    struct json_index x = {.first = container ? container->child : NULL};
    if (!are_few(x.first))
        sort(&x, x.first);
    return x;
}

/* The first of that name. */
static struct json_slot *find(const struct json_index *x, const char *name)
{
    size_t low = 0, high = x->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(x->sorted[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < x->n && strcmp(x->sorted[low].name, name) == 0 ? &x->sorted[low] : NULL;
}

cJSON *json_index_get(const struct json_index *x, const char *name)
{
    if (x->sorted) {
        const struct json_slot *slot = find(x, name);
        return slot ? slot->item : NULL;
    }
    cJSON *item = x->first;
    while (item && strcmp(name_of(item), name) != 0)
        item = item->next;
    return item;
}

void json_index_done(struct json_index *x)
{
    free(x->sorted);
    *x = (struct json_index){0};
}

/* Members bring their names along: cJSON would copy these. */
static void merge_few(cJSON *object, cJSON *over)
{
    while (over->child) {
        cJSON *item = cJSON_DetachItemViaPointer(over, over->child);
        cJSON *old = json_get(object, item->string);
        if (old)
            cJSON_ReplaceItemViaPointer(object, old, item);
        else
            cJSON_AddItemToArray(object, item);
    }
}

static void merge_many(cJSON *object, cJSON *over)
{
    struct json_index own = {0};
    sort(&own, object->child);
    while (over->child) {
        cJSON *item = cJSON_DetachItemViaPointer(over, over->child);
        struct json_slot *slot = find(&own, item->string);
        if (slot) {
            cJSON_ReplaceItemViaPointer(object, slot->item, item);
            *slot = (struct json_slot){item->string, item, slot->place};
        } else {
            cJSON_AddItemToArray(object, item);
        }
    }
    json_index_done(&own);
}

void json_merge(cJSON *object, cJSON *over)
{
    if (are_few(object->child) && are_few(over->child))
        merge_few(object, over);
    else
        merge_many(object, over);
    cJSON_Delete(over);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(cJSON *const *)a)->string, (*(cJSON *const *)b)->string);
}

void json_sort_members(cJSON *value)
{
    size_t n = 0;
    for (cJSON *e = value ? value->child : NULL; e; e = e->next, n++)
        json_sort_members(e);
    if (!cJSON_IsObject(value) || n < 2)
        return;
    cJSON **members = mem_alloc(n * sizeof *members);
    for (size_t i = 0; i < n; i++)
        members[i] = cJSON_DetachItemViaPointer(value, value->child);
    qsort(members, n, sizeof *members, compare_names);
    for (size_t i = 0; i < n; i++)
        cJSON_AddItemToObject(value, members[i]->string, members[i]);
    free(members);
}
