/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REMOTE_TABLE_H
#define WORKER_REMOTE_TABLE_H

/* Celery's remote control commands, as far as a person types them: data only. */

enum remote_kind { REMOTE_INSPECT, REMOTE_CONTROL };
enum remote_type { REMOTE_TEXT, REMOTE_INT, REMOTE_REAL, REMOTE_FLAG };

struct remote_command {
    const char *name;
    enum remote_kind kind;
    struct {
        const char *name;
        enum remote_type type;
    } args[4];
    const char *variadic; /* takes all further words as a list; NULL: none */
    const char *signature, *help;
};

extern const struct remote_command remote_commands[];
extern const int n_remote_commands;

#endif
