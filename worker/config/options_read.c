/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/options_read.h"

#include "proto/base/mem.h"
#include "worker/command/remote_table.h"
#include "worker/config/settings_names.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* argv into a list of given options and words, by the rows of options_table.c. The command decides
 * which options there are, and it may stand anywhere; so reading goes up to the first word with the
 * options of the worker, and on from there with those of the command that it names. */

enum { LONG_BASE = 256 }; /* beyond all letters */

int options_usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("cworker: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return OPTIONS_EXIT + EXIT_USAGE;
}

static void given_add(struct options_line *p, const struct option_row *row, const char *value)
{
    p->given = mem_realloc(p->given, ((size_t)p->n_given + 1) * sizeof *p->given);
    p->given[p->n_given++] = (struct option_given){row, value};
}

static void word_add(struct options_line *p, const char *word)
{
    p->words = mem_realloc(p->words, ((size_t)p->n_words + 1) * sizeof *p->words);
    p->words[p->n_words++] = word;
}

const struct option_given *options_given(const struct options_line *p, enum option_kind kind)
{
    for (int i = p->n_given - 1; i >= 0; i--)
        if (p->given[i].row->kind == kind)
            return &p->given[i];
    return NULL;
}

static const struct option_row *row_by_letter(int letter, int scope)
{
    for (int i = 0; i < n_option_rows; i++)
        if (option_rows[i].letter == letter && (option_rows[i].scope & scope))
            return &option_rows[i];
    return NULL;
}

static int not_of_command(const char *name, int scope, int command)
{
    int owner = 0;
    while (!(scope & (1 << owner)))
        owner++;
    return options_usage("%s%s is an option of `cworker %s`, not of `cworker %s`",
                         *name == '-' ? "" : "--", name, command_names[owner],
                         command_names[command]);
}

/* The same option as it is for another command; NULL: that has none. */
static const struct option_row *row_for(const struct option_row *row, int command)
{
    for (int i = 0; i < n_option_rows; i++)
        if ((option_rows[i].scope & (1 << command)) && option_rows[i].kind == row->kind &&
            strcmp(option_rows[i].name, row->name) == 0)
            return &option_rows[i];
    return NULL;
}

/* Another command may have what this one lacks; otherwise it is probably misspelt. */
static int unknown_option(const char *token, int command)
{
    char name[80];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(token, "="), token);
    const char *bare = name + strspn(name, "-");
    bool is_short = name[0] == '-' && name[1] != '-';
    const char *names[OPTION_ROWS_MOST];
    int n_names = 0;
    for (int i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        bool same = is_short ? row->letter && row->letter == bare[0] : strcmp(row->name, bare) == 0;
        if (same && !(row->scope & (1 << command)))
            return not_of_command(name, row->scope, command);
        if (row->scope & (1 << command))
            names[n_names++] = row->name;
    }
    const char *near = is_short ? NULL : name_nearest(bare, names, n_names);
    if (near)
        return options_usage("unknown option %s; did you mean --%s?", name, near);
    const char *setting = is_short ? NULL : settings_nearest(bare);
    if (setting)
        return options_usage("unknown option %s; did you mean --set %s=...?", name, setting);
    return options_usage("unknown option %s; `cworker %s --help` lists all", name,
                         command_names[command]);
}

/* Fills getopt's two tables with the rows of a scope. */
static void getopt_tables(int scope, struct option *longs, char *shorts)
{
    int n = 0;
    for (int i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!(row->scope & scope))
            continue;
        longs[n++] = (struct option){row->name, row->argument ? required_argument : no_argument,
                                     NULL, LONG_BASE + i};
        if (row->letter) {
            *shorts++ = row->letter;
            if (row->argument)
                *shorts++ = ':';
        }
    }
    longs[n] = (struct option){0};
    *shorts = '\0';
}

/* `token` is what getopt looked at. Its abbreviations of long names are not taken: they would
 * change meaning with the next option that is added. */
static const struct option_row *row_of(int found, const char *token, int scope)
{
    if (found < LONG_BASE)
        return row_by_letter(found, scope);
    const struct option_row *row = &option_rows[found - LONG_BASE];
    size_t size = strcspn(token, "=") - 2;
    return strlen(row->name) == size ? row : NULL;
}

static int bad_option(int found, const char *token, const struct options_line *p)
{
    if (found == ':')
        return options_usage("%.*s needs a value", (int)strcspn(token, "="), token);
    if (token[0] == '-' && token[1] == '-' && optopt >= LONG_BASE)
        return options_usage("--%s takes no value", option_rows[optopt - LONG_BASE].name);
    if (token[0] == '-' && token[1] == '-')
        return unknown_option(token, p->command);
    char name[3] = {'-', (char)optopt, '\0'};
    return unknown_option(name, p->command);
}

/* Reads argv[1] and on. With `first_word`, stops at the first word and tells where it is. */
static int read_part(struct options_line *p, int argc, char **argv, int *first_word)
{
    struct option longs[OPTION_ROWS_MOST + 1];
    char shorts[2 * OPTION_ROWS_MOST + 3] = "-:";
    int scope = 1 << p->command;
    shorts[0] = first_word ? '+' : '-';
    getopt_tables(scope, longs, shorts + 2);
    opterr = 0;
    optind = 0;
    for (;;) {
        int at = optind ? optind : 1;
        int found = getopt_long(argc, argv, shorts, longs, NULL);
        const char *token = at < argc ? argv[at] : "";
        if (found == -1)
            break;
        if (found == 1) {
            word_add(p, optarg);
            continue;
        }
        const struct option_row *row =
            found == '?' || found == ':' ? NULL : row_of(found, token, scope);
        if (!row)
            return found == ':' || found == '?' ? bad_option(found, token, p)
                                                : unknown_option(token, p->command);
        given_add(p, row, optarg ? optarg : "true");
    }
    if (first_word)
        *first_word = optind;
    for (; !first_word && optind < argc; optind++)
        word_add(p, argv[optind]);
    return 0;
}

static int unknown_command(const char *word)
{
    for (int i = 0; i < n_remote_commands; i++)
        if (strcmp(remote_commands[i].name, word) == 0) {
            const char *kind = remote_commands[i].kind == REMOTE_INSPECT ? "inspect" : "control";
            return options_usage("unknown command %s; did you mean %s %s?", word, kind, word);
        }
    static const char *const theirs[] = {"amqp", "graph", "list", "logtool", "migrate", "multi",
                                         "shell", "upgrade"};
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
        if (strcmp(word, theirs[i]) == 0)
            return options_usage("%s is a command of celery, not of cworker", word);
    if (strcmp(word, "beat") == 0)
        return options_usage("there is no scheduler here: `celery beat` goes on, and cworker runs "
                             "what it sends");
    const char *near = name_nearest(word, command_names, N_COMMANDS);
    if (near)
        return options_usage("unknown command %s; did you mean %s?", word, near);
    return options_usage("unknown command %s; `cworker --help` lists all", word);
}

static int print_help_words(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "settings") == 0) {
        help_print_settings();
        return OPTIONS_EXIT;
    }
    int command = argc > 1 ? command_find(argv[1]) : -1;
    if (argc > 1 && command < 0)
        return unknown_command(argv[1]);
    help_print(command);
    return OPTIONS_EXIT;
}

int options_read(struct options_line *p, int argc, char **argv)
{
    int word = argc;
    p->command = COMMAND_worker;
    int code = read_part(p, argc, argv, &word);
    if (code != 0 || word >= argc)
        return code;
    p->named = true;
    if (strcmp(argv[word], "help") == 0)
        return print_help_words(argc - word, argv + word);
    p->command = command_find(argv[word]);
    if (p->command < 0 && options_given(p, OPTION_QUEUES))
        return options_usage("unknown command %s; several queues are one word: -Q a,b", argv[word]);
    if (p->command < 0)
        return unknown_command(argv[word]);
    for (int i = 0; i < p->n_given; i++) {
        const struct option_row *row = p->given[i].row;
        p->given[i].row = row_for(row, p->command);
        if (!p->given[i].row)
            return not_of_command(row->name, row->scope, p->command);
    }
    return read_part(p, argc - word, argv + word, NULL);
}
