/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings_private.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Settings from the --config file and the environment. broker_transport_options comes first in
 * both: a member by its own name is more specific than the dictionary it also fits in. */

enum { LARGEST_FILE = 16 << 20 };

static int file_read(const char *path, struct buf *out, struct error *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_SYSTEM, "%s: %s", path,
                         strerror(errno));
    char chunk[8192];
    size_t size;
    while (!out->failed && (size = fread(chunk, 1, sizeof chunk, file)) > 0)
        buf_add(out, chunk, size);
    bool broken = ferror(file);
    fclose(file);
    if (broken)
        return error_set(err, ERROR_SYSTEM, "%s: cannot be read", path);
    return out->failed ? error_set(err, ERROR_TOO_BIG, "%s: larger than 16 MiB", path) : 0;
}

static int load_members(struct settings *s, const cJSON *file, struct error *err)
{
    const cJSON *options = json_get(file, "broker_transport_options");
    int code = options ? settings_set_json(s, "broker_transport_options", options, err) : 0;
    for (const cJSON *at = file->child; at && code == 0; at = at->next)
        if (at != options)
            code = settings_set_json(s, at->string, at, err);
    return code;
}

/* "… at byte 30" as an editor counts: people look for the line. */
static int not_json(const char *path, const struct buf *text, struct error *err)
{
    char *place = strstr(err->text, " at byte ");
    size_t at = place ? strtoul(place + strlen(" at byte "), NULL, 10) : 0;
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < text->size; i++) {
        line += text->data[i] == '\n';
        column = text->data[i] == '\n' ? 1 : column + 1;
    }
    if (place)
        snprintf(place, sizeof err->text - (size_t)(place - err->text), " at line %zu, column %zu",
                 line, column);
    error_wrap(err, "%s is not JSON", path);
    return ERROR_INVALID;
}

int settings_load_file(struct settings *s, const char *path, struct error *err)
{
    struct buf text = BUF_INIT(LARGEST_FILE);
    int code = file_read(path, &text, err);
    cJSON *file = NULL;
    if (code == 0 && !(file = json_parse(text.data ? text.data : "", text.size, err))) {
        code = not_json(path, &text, err);
    } else if (code == 0 && !cJSON_IsObject(file)) {
        code = error_set(err, ERROR_INVALID, "%s: must hold one JSON object of settings", path);
    } else if (code == 0) {
        code = load_members(s, file, err);
        if (code != 0)
            error_wrap(err, "%s", path);
    }
    cJSON_Delete(file);
    buf_done(&text);
    return code;
}

static int load_variable(struct settings *s, const struct setting_row *row, const char *variable,
                         struct error *err)
{
    const char *value = getenv(variable);
    if (!value || !*value) /* composed environments leave empty variables behind */
        return 0;
    int code = setting_set_text(s, row, value, err);
    return code == 0 ? 0 : error_wrap(err, "environment %s", variable);
}

static int load_row(struct settings *s, const struct setting_row *row, struct error *err)
{
    char variable[96] = "CWORKER_";
    size_t at = strlen(variable);
    for (const char *c = row->name; *c && at < sizeof variable - 1; c++)
        variable[at++] = (char)toupper((unsigned char)*c);
    variable[at] = '\0';
    return load_variable(s, row, variable, err);
}

int settings_load_environment(struct settings *s, struct error *err)
{
    const struct setting_row *options = setting_find("broker_transport_options");
    int code = load_variable(s, setting_find("broker_url"), "CELERY_BROKER_URL", err);
    if (code == 0)
        code = load_variable(s, setting_find("result_backend"), "CELERY_RESULT_BACKEND", err);
    if (code == 0)
        code = load_row(s, options, err);
    for (int i = 0; i < N_SETTINGS && code == 0; i++)
        if (&setting_rows[i] != options)
            code = load_row(s, &setting_rows[i], err);
    return code;
}
