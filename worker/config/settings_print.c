/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings.h"

#include "broker/url.h"
#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Settings as people read them: as one object for `report` and `inspect conf`, and as help. What is
 * shown may be pasted into a bug report, so every text that is a URL loses its password here, and
 * every member of a dictionary whose name speaks of a secret loses its value. */

static bool name_is_secret(const char *name)
{
    static const char *const words[] = {"pass",       "secret",  "token",
                                        "credential", "api_key", "apikey"};
    for (size_t i = 0; name && i < sizeof words / sizeof *words; i++)
        if (strcasestr(name, words[i]))
            return true;
    return false;
}

static cJSON *masked_text(const char *text)
{
    if (!text)
        return cJSON_CreateNull();
    char *masked = strstr(text, "://") ? url_mask(text) : mem_dup(text);
    cJSON *value = cJSON_CreateString(masked);
    free(masked);
    return value;
}

static cJSON *masked_list(char **list)
{
    if (!list)
        return cJSON_CreateNull();
    cJSON *value = cJSON_CreateArray();
    for (; *list; list++)
        cJSON_AddItemToArray(value, masked_text(*list));
    return value;
}

/* The depth is that of the parser, which bounds it. */
static cJSON *masked_tree(const cJSON *tree)
{
    if (cJSON_IsString(tree))
        return masked_text(tree->valuestring);
    if (!cJSON_IsArray(tree) && !cJSON_IsObject(tree))
        return tree ? cJSON_Duplicate(tree, true) : cJSON_CreateNull();
    cJSON *copy = cJSON_IsArray(tree) ? cJSON_CreateArray() : cJSON_CreateObject();
    for (const cJSON *at = tree->child; at; at = at->next) {
        cJSON *value =
            name_is_secret(at->string) ? cJSON_CreateString("********") : masked_tree(at);
        if (cJSON_IsArray(tree))
            cJSON_AddItemToArray(copy, value);
        else
            json_set(copy, at->string, value);
    }
    return copy;
}

static cJSON *dump_TEXT(char *value)
{
    return masked_text(value);
}

static cJSON *dump_INT(int64_t value)
{
    return json_int(value);
}

static cJSON *dump_REAL(double value)
{
    return value == (double)(int64_t)value ? json_int((int64_t)value) : cJSON_CreateNumber(value);
}

static cJSON *dump_FLAG(bool value)
{
    return cJSON_CreateBool(value);
}

static cJSON *dump_LIST(char **value)
{
    return masked_list(value);
}

static cJSON *dump_JSON(cJSON *value)
{
    return masked_tree(value);
}

static cJSON *dump_all(const struct settings *s)
{
    cJSON *all = cJSON_CreateObject();
#define SETTING_DUMP(name, type, fallback, unit, help) json_set(all, #name, dump_##type(s->name));
    SETTINGS(SETTING_DUMP)
#undef SETTING_DUMP
    return all;
}

cJSON *settings_dump(const struct settings *s, bool with_defaults)
{
    cJSON *all = dump_all(s);
    if (with_defaults)
        return all;
    struct settings defaults;
    settings_init(&defaults);
    cJSON *usual = dump_all(&defaults);
    settings_done(&defaults);
    for (cJSON *at = all->child, *next; at; at = next) {
        next = at->next;
        if (cJSON_Compare(at, json_get(usual, at->string), true))
            cJSON_Delete(cJSON_DetachItemViaPointer(all, at));
    }
    cJSON_Delete(usual);
    return all;
}

void settings_print_help(void *file)
{
    static const struct {
        const char *name, *type, *fallback, *unit, *help;
    } rows[] = {
#define SETTING_HELP(name, type, fallback, unit, help) {#name, #type, fallback, unit, help},
        SETTINGS(SETTING_HELP)
#undef SETTING_HELP
    };
    static const struct {
        const char *type, *words;
    } types[] = {
        {"TEXT", "text"},         {"INT", "whole number"},    {"REAL", "number"},
        {"FLAG", "true or false"}, {"LIST", "comma-separated"}, {"JSON", "JSON"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *words = "";
        for (size_t j = 0; j < sizeof types / sizeof *types; j++)
            words = strcmp(types[j].type, rows[i].type) == 0 ? types[j].words : words;
        fprintf(file, "  %s (%s%s%s%s%s)\n        %s\n", rows[i].name, words,
                *rows[i].unit ? ", " : "", rows[i].unit, rows[i].fallback ? ", default " : "",
                rows[i].fallback ? rows[i].fallback : "", rows[i].help);
    }
}
