/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_SETTINGS_PRIVATE_H
#define WORKER_SETTINGS_PRIVATE_H

/* What the parts of the settings share: settings.c has the rows and a setter for each type,
 * settings_check.c knows which values are right, settings_json.c takes JSON, settings_load.c reads
 * the file and the environment. */

#include "worker/config/settings.h"

struct setting_row {
    const char *name;
    enum setting_type type;
    size_t offset; /* of the field in struct settings */
    const char *fallback, *unit, *help;
};

extern const struct setting_row setting_rows[N_SETTINGS];

const struct setting_row *setting_find(const char *name); /* NULL: none of ours */
void *setting_field(const struct settings *s, const struct setting_row *row);
void setting_clear(struct settings *s, const struct setting_row *row);

/* --- is this value right? --- */
int setting_check_number(const struct setting_row *row, double value, struct error *err);
int setting_check_text(const struct setting_row *row, const char *value, struct error *err);
int setting_check_steps(char **list, struct error *err); /* priority_steps */

/* --- setters; the field stays as it was when the value is wrong --- */
/* Any type from its text. */
int setting_set_text(struct settings *s, const struct setting_row *row, const char *value,
                     struct error *err);
/* Takes list. */
int setting_set_list(struct settings *s, const struct setting_row *row, char **list,
                     struct error *err);
int setting_set_tree(struct settings *s, const struct setting_row *row, const cJSON *value,
                     struct error *err);
void setting_set_default(struct settings *s, const struct setting_row *row);
/* A name that is none of ours: Celery's own that mean nothing here are noted, others INVALID. */
int setting_set_foreign(struct settings *s, const char *name, const char *value, struct error *err);

#endif
