/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a signature is one, through and through, and what is to be sent can be. The one idea:
 * messages and records are written by anybody, a child runs foreign code, and what works on
 * signatures (canvas.c, canvas_apply.c) and on rows (follow.c, finish.c) takes every part of them
 * for what it should be; so they are looked through once, before. */

#include "worker/canvas.h"

bool canvas_are_sound(const cJSON *list)
{
    for (const cJSON *one = list ? list->child : NULL; one; one = one->next)
        if (!canvas_is_sound(one))
            return false;
    return true;
}

static bool is_absent(const cJSON *value)
{
    return !value || cJSON_IsNull(value);
}

/* One signature, or a list of them. */
static bool links_are_sound(const cJSON *links)
{
    return is_absent(links) ||
           (cJSON_IsArray(links) ? canvas_are_sound(links) : canvas_is_sound(links));
}

static bool options_are_sound(const cJSON *options)
{
    static const char *const links[] = {"link", "link_error", "chain"};
    if (!is_absent(options) && !cJSON_IsObject(options))
        return false;
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (!links_are_sound(json_get(options, links[i])))
            return false;
    const cJSON *chord = json_get(options, "chord");
    return is_absent(chord) || canvas_is_sound(chord);
}

bool canvas_is_sound(const cJSON *signature)
{
    if (!cJSON_IsObject(signature) || !options_are_sound(json_get(signature, "options")))
        return false;
    bool plain = !json_get_string(signature, "subtask_type"); /* as most are */
    bool chord = !plain && canvas_is(signature, "chord");
    if (plain || (!chord && !canvas_is(signature, "chain") && !canvas_is(signature, "group")))
        return true;
    const cJSON *kwargs = json_get(signature, "kwargs");
    const cJSON *tasks = json_get(kwargs, chord ? "header" : "tasks");
    if (chord && !canvas_is_sound(json_get(kwargs, "body")))
        return false;
    if (chord && cJSON_IsObject(tasks)) /* a header may be a group's signature */
        return canvas_is_sound(tasks);
    return (is_absent(tasks) || cJSON_IsArray(tasks)) && canvas_are_sound(tasks);
}

/* --- rows of what is to be sent --- */

static bool is_message(const cJSON *row)
{
    return json_get_string(row, "queue") && json_get_string(row, "text") &&
           json_get_string(row, "id");
}

bool canvas_are_messages(const cJSON *rows)
{
    for (const cJSON *row = cJSON_IsArray(rows) ? rows->child : NULL; row; row = row->next)
        if (!is_message(row))
            return false;
    return cJSON_IsArray(rows);
}

static bool revoke_is_sound(const cJSON *what)
{
    const cJSON *ids = json_get(what, "ids");
    for (const cJSON *id = cJSON_IsArray(ids) ? ids->child : NULL; id; id = id->next)
        if (!cJSON_IsString(id))
            return false;
    return cJSON_IsArray(ids);
}

/* Signatures are looked at where they are applied. */
static bool row_is_sound(const cJSON *row)
{
    if (json_get(row, "part") || json_get(row, "apply") || json_get(row, "replace"))
        return true;
    return json_get(row, "revoke") ? revoke_is_sound(json_get(row, "revoke")) : is_message(row);
}

bool canvas_rows_are_sound(const cJSON *rows)
{
    for (const cJSON *row = cJSON_IsArray(rows) ? rows->child : NULL; row; row = row->next)
        if (!row_is_sound(row))
            return false;
    return cJSON_IsArray(rows);
}
