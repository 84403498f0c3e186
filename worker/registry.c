/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/registry.h"

#include "proto/base/mem.h"
#include "tasks/tables.h"
#include "worker/native.h"
#include "worker/plugin.h"
#include "worker/task/task_private.h"

#include <stdlib.h>
#include <string.h>

/* The list of tasks and three ways to a place in it: by name, by alias, by the last part of a
 * built-in name. Each way is a small hash of texts, filled at the start and only read afterwards,
 * so that children and threads share it without a lock. */

struct name {
    const char *text; /* NULL: free */
    size_t size;
    int index;
};

struct names {
    struct name *slots;
    size_t capacity, used; /* capacity: a power of two */
};

struct registry_entry *registry;
int registry_size;
static int registry_capacity;
static struct names exact, last_parts, aliases;
static bool use_last_parts;

static size_t hash(const char *text, size_t size)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3;
    return (size_t)(h ^ h >> 32);
}

/* The slot that holds text, or the free one where it belongs. */
static struct name *name_slot(const struct names *n, const char *text, size_t size)
{
    size_t mask = n->capacity - 1, at = hash(text, size) & mask;
    while (n->slots[at].text &&
           (n->slots[at].size != size || memcmp(n->slots[at].text, text, size) != 0))
        at = (at + 1) & mask;
    return &n->slots[at];
}

static int name_find(const struct names *n, const char *text)
{
    if (!n->capacity)
        return -1;
    const struct name *slot = name_slot(n, text, strlen(text));
    return slot->text ? slot->index : -1;
}

static void grow(struct names *n)
{
    struct names larger = {.capacity = n->capacity ? 2 * n->capacity : 64, .used = n->used};
    larger.slots = mem_zalloc(larger.capacity * sizeof *larger.slots);
    for (size_t i = 0; i < n->capacity; i++)
        if (n->slots[i].text)
            *name_slot(&larger, n->slots[i].text, n->slots[i].size) = n->slots[i];
    free(n->slots);
    *n = larger;
}

/* `text` must live as long as the registry. A name that is there already keeps its index. */
static void name_add(struct names *n, const char *text, int index)
{
    if (2 * (n->used + 1) > n->capacity)
        grow(n);
    struct name *slot = name_slot(n, text, strlen(text));
    if (slot->text)
        return;
    *slot = (struct name){text, strlen(text), index};
    n->used++;
}

static int check_unique(const struct cw_def *def, struct error *err)
{
    if (def->unique_for < 0 || def->unique_for > 1e9)
        return error_set(err, ERROR_INVALID, "task %s: unique_for is no number of seconds",
                         def->name);
    if (def->flags & CW_ANY_ARGS)
        return 0;
    for (const char *const *name = def->unique_key; name && *name; name++) {
        const struct cw_arg *arg = def->args;
        while (arg && arg->name && strcmp(arg->name, *name) != 0)
            arg++;
        if (!arg || !arg->name)
            return error_set(err, ERROR_INVALID,
                             "task %s: unique_key names %.60s, which is none of its "
                             "arguments",
                             def->name, *name);
    }
    return 0;
}

static int check_def(const struct cw_def *def, struct error *err)
{
    if (!def->run)
        return error_set(err, ERROR_INVALID, "task %s has no function", def->name);
    if (name_find(&exact, def->name) >= 0)
        return error_set(err, ERROR_INVALID, "task %s exists already", def->name);
    for (const struct cw_arg *arg = def->args; arg && arg->name; arg++) {
        struct error why = {0};
        cJSON *value =
            arg->fallback ? json_parse(arg->fallback, strlen(arg->fallback), &why) : NULL;
        cJSON_Delete(value);
        if (arg->fallback && !value)
            return error_set(err, ERROR_INVALID,
                             "task %s, argument %s: the fallback is not JSON: %s", def->name,
                             arg->name, why.text);
    }
    return check_unique(def, err);
}

static void add(struct registry_entry entry)
{
    if (registry_size == registry_capacity) {
        registry_capacity = registry_capacity ? 2 * registry_capacity : 64;
        registry = mem_realloc(registry, (size_t)registry_capacity * sizeof *registry);
    }
    int index = registry_size++;
    registry[index] = entry;
    registry[index].soft_limit = entry.def->soft_limit;
    registry[index].hard_limit = entry.def->hard_limit;
    name_add(&exact, entry.def->name, index);
    const char *dot = strrchr(entry.def->name, '.');
    if (entry.builtin)
        name_add(&last_parts, dot ? dot + 1 : entry.def->name, index);
}

static int add_table(const struct cw_table *table, bool builtin, struct error *err)
{
    if (table->api != CW_API)
        return error_set(
            err, ERROR_UNSUPPORTED,
            "made for task API %d, this cworker speaks %d: build it against its cworker.h",
            table->api, CW_API);
    for (const struct cw_def *def = table->defs; def && def->name; def++) {
        if (check_def(def, err) < 0)
            return err->code;
        add((struct registry_entry){.table = table, .def = def, .builtin = builtin});
    }
    return 0;
}

int registry_add_builtin(void)
{
    struct error err = {0};
    if (add_table(&celery_table, false, &err) < 0)
        return err.code;
    for (int i = 0; i < registry_size; i++)
        registry[i].native = native_find(registry[i].def->name);
    for (const struct cw_table *const *table = builtin_tables; *table; table++)
        if (add_table(*table, true, &err) < 0)
            return err.code;
    return 0;
}

int registry_add_table(const struct cw_table *table, struct error *err)
{
    return add_table(table, false, err);
}

int registry_load_plugin(const char *path, struct error *err)
{
    struct error own = {0};
    err = err ? err : &own;
    const struct cw_table *const *tables = plugin_open(path, err);
    if (!tables)
        return err->code;
    for (; *tables; tables++)
        if (registry_add_table(*tables, err) < 0)
            return error_wrap(err, "%s", path);
    return 0;
}

int registry_add_commands(const cJSON *rows, struct error *err)
{
    struct error own = {0};
    err = err ? err : &own;
    if (!rows || cJSON_IsNull(rows))
        return 0;
    if (!cJSON_IsArray(rows))
        return error_set(err, ERROR_INVALID, "setting tasks must be a list of programs");
    int number = 1;
    for (const cJSON *row = rows->child; row; row = row->next, number++) {
        struct registry_entry entry;
        if (command_task_read(row, number, &entry, err) < 0)
            return err->code;
        if (check_def(entry.def, err) < 0) {
            command_task_free(&entry);
            return err->code;
        }
        add(entry);
    }
    return 0;
}

/* An alias leads to one name, so it is settled here; one whose task is not loaded leads nowhere. */
const char *registry_set_aliases(const cJSON *object, bool by_last_part)
{
    const char *lost = NULL;
    use_last_parts = by_last_part;
    for (const cJSON *alias = object ? object->child : NULL; alias; alias = alias->next) {
        int index = cJSON_IsString(alias) ? name_find(&exact, alias->valuestring) : -1;
        if (index >= 0 && alias->string)
            name_add(&aliases, mem_dup(alias->string), index);
        else
            lost = alias->string;
    }
    return lost;
}

static bool is_among(const char *name, char *const *list)
{
    while (*list && strcmp(*list, name) != 0)
        list++;
    return *list != NULL;
}

int registry_prefetch(char *const *queues, const char *default_queue)
{
    int least = 0;
    for (int i = 0; i < registry_size; i++) {
        const struct cw_table *table = registry[i].table;
        int asked = table ? table->prefetch_multiplier : 0;
        if (asked > 0 && (least == 0 || asked < least) &&
            is_among(table->queue ? table->queue : default_queue, queues))
            least = asked;
    }
    return least;
}

int registry_tasks_per_child(char *const *queues)
{
    enum { BUILTIN = 100 };
    for (int i = 0; i < registry_size; i++) {
        const struct cw_table *table = registry[i].builtin ? registry[i].table : NULL;
        if (table && table->queue && is_among(table->queue, queues))
            return BUILTIN;
    }
    return 0;
}

int registry_find(const char *name)
{
    int index = name_find(&exact, name);
    if (index < 0)
        index = name_find(&aliases, name);
    if (index < 0 && use_last_parts) {
        const char *dot = strrchr(name, '.');
        index = name_find(&last_parts, dot ? dot + 1 : name);
    }
    return index;
}

cJSON *registry_argument(const struct cw_def *def, const char *name, const cJSON *args,
                         const cJSON *kwargs)
{
    const cJSON *value = json_get(kwargs, name);
    const struct cw_arg *arg = def->args;
    for (int place = 0; !value && arg && arg->name; arg++, place++) {
        if (strcmp(arg->name, name) != 0)
            continue;
        value = cJSON_GetArrayItem(args, place);
        cJSON *fallback = value || !arg->fallback
                              ? NULL
                              : json_parse(arg->fallback, strlen(arg->fallback), NULL);
        if (fallback)
            return fallback;
    }
    return value ? cJSON_Duplicate(value, true) : cJSON_CreateNull();
}
