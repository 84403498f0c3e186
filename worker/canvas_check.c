/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a signature is one, through and through. The one idea: messages are written by anybody,
 * and what works on signatures (canvas.c, canvas_apply.c) takes every part of them for an object;
 * so they are looked through once, before. */

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
    bool chord = canvas_is(signature, "chord");
    if (!cJSON_IsObject(signature) || !options_are_sound(json_get(signature, "options")))
        return false;
    if (!chord && !canvas_is(signature, "chain") && !canvas_is(signature, "group"))
        return true;
    const cJSON *kwargs = json_get(signature, "kwargs");
    const cJSON *tasks = json_get(kwargs, chord ? "header" : "tasks");
    if (chord && !canvas_is_sound(json_get(kwargs, "body")))
        return false;
    if (chord && cJSON_IsObject(tasks)) /* a header may be a group's signature */
        return canvas_is_sound(tasks);
    return (is_absent(tasks) || cJSON_IsArray(tasks)) && canvas_are_sound(tasks);
}
