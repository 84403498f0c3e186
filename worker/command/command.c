/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/command.h"

#include "proto/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* How commands read their own part of the command line: it was checked and put into one form by
 * options.c, so looking it up is all that is left. */

const char *command_value(const struct options *o, const char *name)
{
    const char *value = NULL;
    size_t size = strlen(name);
    for (int i = 0; i < o->n_rest && strcmp(o->rest[i], "--") != 0; i++)
        if (strncmp(o->rest[i] + 2, name, size) == 0 && o->rest[i][2 + size] == '=')
            value = o->rest[i] + 3 + size; /* the last one counts */
    return value;
}

bool command_flag(const struct options *o, const char *name)
{
    for (int i = 0; i < o->n_rest && strcmp(o->rest[i], "--") != 0; i++)
        if (strcmp(o->rest[i] + 2, name) == 0)
            return true;
    return false;
}

const char *command_word(const struct options *o, int index)
{
    int i = 0;
    while (i < o->n_rest && strcmp(o->rest[i], "--") != 0)
        i++;
    return index < o->n_rest - i - 1 ? o->rest[i + 1 + index] : NULL;
}

char *command_clean(const char *text, bool one_line)
{
    char *copy = mem_dup(text);
    for (char *at = copy; at && *at; at++)
        if (((unsigned char)*at < ' ' && *at != '\t' && (*at != '\n' || one_line)) || *at == 127)
            *at = ' ';
    return copy;
}

int command_usage(const struct options *o, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "cworker %s: ", o->command);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_USAGE;
}
