/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/base/mem.h"
#include "proto/repr.h"
#include "worker/command/command.h"
#include "worker/command/mailbox.h"
#include "worker/command/remote_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* `status`, `inspect` and `control`: words in, one question to all workers, their replies printed
 * as they come, in the form of Celery's own commands, which scripts read. */

struct run {
    const struct options *o;
    cJSON *replies;     /* --json: gathered, printed at the end */
    bool bodies, colour;
    int n_replies;
};

/* --- replies ---------------------------------------------------------------------------------- */

static void indent_text(const char *text, int columns)
{
    while (*text) {
        int size = (int)strcspn(text, "\n");
        printf("%*s%.*s\n", columns, "", size, text);
        text += size;
        text += *text == '\n';
    }
}

static int by_name(const void *a, const void *b)
{
    const cJSON *const *left = a, *const *right = b;
    return strcmp((*left)->string, (*right)->string);
}

/* As json.dumps(sort_keys=True, indent=4). */
static void print_nested(const cJSON *value, int level, struct buf *out)
{
    bool object = cJSON_IsObject(value);
    if ((!object && !cJSON_IsArray(value)) || !value->child) {
        json_print(value, out);
        return;
    }
    size_t n = 0;
    const cJSON **items = mem_alloc((size_t)cJSON_GetArraySize(value) * sizeof *items);
    for (const cJSON *item = value->child; item; item = item->next)
        items[n++] = item;
    if (object)
        qsort(items, n, sizeof *items, by_name);
    buf_char(out, object ? '{' : '[');
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s\n%*s", i ? "," : "", 4 * (level + 1), "");
        if (object) {
            json_print_string(items[i]->string, strlen(items[i]->string), out);
            buf_str(out, ": ");
        }
        print_nested(items[i], level + 1, out);
    }
    buf_printf(out, "\n%*s%c", 4 * level, "", object ? '}' : ']');
    free(items);
}

static void add_value(const cJSON *value, struct buf *out)
{
    if (cJSON_IsString(value))
        buf_str(out, value->valuestring);
    else
        repr_print(value, false, SIZE_MAX / 4, out);
}

static char *reply_text(const cJSON *reply)
{
    struct buf out = BUF_INIT(1 << 28);
    if (cJSON_IsArray(reply) && !reply->child)
        buf_str(&out, "- empty -");
    else if (cJSON_IsArray(reply))
        for (const cJSON *item = reply->child; item; item = item->next) {
            buf_str(&out, "* ");
            add_value(item, &out);
            buf_char(&out, '\n');
        }
    else if (cJSON_IsObject(reply))
        print_nested(reply, 0, &out);
    else
        add_value(reply, &out);
    return buf_take(&out);
}

static void print_reply(const struct run *run, const char *node, const cJSON *reply)
{
    const char *bold = run->colour ? "\x1b[1;36m" : "", *off = run->colour ? "\x1b[0m" : "";
    const cJSON *ok = json_get(reply, "ok"), *error = ok ? NULL : json_get(reply, "error");
    const char *state = run->colour ? error ? "\x1b[1;31m" : "\x1b[1;32m" : "";
    const cJSON *inner = ok ? ok : error ? error : reply;
    printf("%s %s%s:%s %s%s%s\n", run->o->quiet ? "" : "-> ", bold, node, off, state,
           error ? "ERROR" : "OK", off);
    if (run->bodies) {
        char *text = reply_text(inner), *clean = command_clean(text, false);
        indent_text(clean, inner == reply ? 4 : 8);
        free(clean);
        free(text);
    }
    fflush(stdout);
}

static void on_reply(const char *node, const cJSON *reply, void *arg)
{
    struct run *run = arg;
    if (run->replies && json_get(run->replies, node))
        fprintf(
            stderr,
            "Received multiple replies from node name: %s.\nPlease make sure you give each node "
            "a unique nodename using\nthe celery worker `-n` option.\n",
            node);
    run->n_replies++;
    json_set(run->replies, node, cJSON_Duplicate(reply, true));
    if (!command_flag(run->o, "json"))
        print_reply(run, node, reply);
}

/* --- words ------------------------------------------------------------------------------------ */

static const struct remote_command *find(enum remote_kind kind, const char *name)
{
    for (int i = 0; i < n_remote_commands; i++)
        if (remote_commands[i].kind == kind && strcmp(remote_commands[i].name, name) == 0)
            return &remote_commands[i];
    return NULL;
}

static int unknown(const struct options *o, enum remote_kind kind, const char *name)
{
    fprintf(stderr, "cworker %s: Command %.60s not recognized. Available %s commands:", o->command,
            name, o->command);
    const char *separator = " ";
    for (int i = 0; i < n_remote_commands; i++)
        if (remote_commands[i].kind == kind) {
            fprintf(stderr, "%s%s", separator, remote_commands[i].name);
            separator = ", ";
        }
    fputc('\n', stderr);
    return EXIT_USAGE;
}

static int print_list(enum remote_kind kind)
{
    puts(kind == REMOTE_INSPECT ? "Inspect Commands:" : "Control Commands:");
    for (int i = 0; i < n_remote_commands; i++) {
        const struct remote_command *c = &remote_commands[i];
        if (c->kind != kind)
            continue;
        int size = printf("  %s %s", c->name, c->signature);
        if (size < 34)
            printf("%*s%s\n", 34 - size, "", c->help);
        else
            printf("\n%*s%s\n", 34, "", c->help);
    }
    return 0;
}

static cJSON *read_word(enum remote_type type, const char *word)
{
    char *end = NULL;
    switch (type) {
    case REMOTE_TEXT:
        return cJSON_CreateString(word);
    case REMOTE_INT: {
        long long number = strtoll(word, &end, 10);
        return *end || end == word ? NULL : json_int(number);
    }
    case REMOTE_REAL: {
        double number = strtod(word, &end);
        return *end || end == word ? NULL : cJSON_CreateNumber(number);
    }
    default: {
        static const char *const yes[] = {"true", "yes", "on", "1"};
        static const char *const no[] = {"false", "no", "off", "0"};
        for (size_t i = 0; i < 4; i++)
            if (strcasecmp(word, yes[i]) == 0 || strcasecmp(word, no[i]) == 0)
                return cJSON_CreateBool(strcasecmp(word, yes[i]) == 0);
        return NULL;
    }
    }
}

/* The words behind the command's name become its arguments. */
static int read_arguments(const struct options *o, const struct remote_command *c, cJSON *arguments)
{
    enum { MOST = sizeof c->args / sizeof *c->args };
    static const char *const kinds[] = {"text", "a whole number", "a number", "true or false"};
    const char *word;
    int i = 0;
    for (; (word = command_word(o, i + 1)) && i < MOST && c->args[i].name; i++) {
        cJSON *value = read_word(c->args[i].type, word);
        if (!value)
            return command_usage(o, "%s: \"%.60s\" is not %s", c->name, word,
                                 kinds[c->args[i].type]);
        json_set(arguments, c->args[i].name, value);
    }
    if (!c->variadic)
        return word && i > 0 ? command_usage(o, "Command '%s' takes arguments: %s", c->name,
                                             c->signature)
                             : 0;
    cJSON *rest = cJSON_AddArrayToObject(arguments, c->variadic);
    for (; (word = command_word(o, i + 1)); i++)
        cJSON_AddItemToArray(rest, cJSON_CreateString(word));
    return 0;
}

static cJSON *read_destination(const struct options *o)
{
    const char *at = command_value(o, "destination");
    cJSON *list = at ? cJSON_CreateArray() : NULL;
    while (at && *at) {
        size_t size = strcspn(at, ",");
        char *node = mem_ndup(at, size);
        if (size)
            cJSON_AddItemToArray(list, cJSON_CreateString(node));
        free(node);
        at += size;
        at += *at == ',';
    }
    return list;
}

int command_timeout(const struct options *o, double *ret_timeout)
{
    const char *value = command_value(o, "timeout");
    char *end;
    *ret_timeout = value ? strtod(value, &end) : 1;
    if (value && (*end || end == value || !(*ret_timeout >= 0 && *ret_timeout <= 1e6)))
        return command_usage(o, "--timeout: \"%.40s\" is not a number of seconds", value);
    return 0;
}

/* --- asking ----------------------------------------------------------------------------------- */

static int ask(struct run *run, const struct mailbox_question *q)
{
    struct mailbox m;
    int status = mailbox_open(&m, run->o);
    if (status == 0)
        status = mailbox_ask(&m, q, on_reply, run);
    mailbox_close(&m);
    if (status == 0 && run->n_replies == 0) {
        fprintf(stderr, "Error: No nodes replied within time constraint\n");
        status = EXIT_UNAVAILABLE;
    }
    return status;
}

/* `control` gives a list, the others one object: so does Celery. */
static void print_json(const struct run *run, bool as_list)
{
    struct buf out = BUF_INIT(SIZE_MAX / 4);
    const char *separator = "[{";
    if (!as_list)
        json_print(run->replies, &out);
    for (const cJSON *r = as_list ? run->replies->child : NULL; r; r = r->next) {
        buf_str(&out, separator);
        json_print_string(r->string, strlen(r->string), &out);
        buf_str(&out, ": ");
        json_print(r, &out);
        separator = "}, {";
    }
    if (as_list)
        buf_str(&out, "}]");
    puts(out.data);
    buf_done(&out);
}

static int run_question(const struct options *o, const char *method, const cJSON *arguments,
                        bool bodies)
{
    const char *never = getenv("NO_COLOR");
    struct run run = {.o = o, .bodies = bodies, .replies = cJSON_CreateObject()};
    run.colour = isatty(1) && !(never && *never) && strcmp(o->settings.worker_log_color, "false");
    cJSON *destination = read_destination(o);
    struct mailbox_question q = {
        .method = method, .arguments = arguments, .destination = destination};
    int status = command_timeout(o, &q.timeout);
    if (status == 0)
        status = ask(&run, &q);
    bool json = command_flag(o, "json"), control = strcmp(o->command, "control") == 0;
    if (status == 0 && json)
        print_json(&run, control);
    if (status == 0 && !json && !control && !o->quiet)
        printf("\n%d node%s online.\n", run.n_replies, run.n_replies == 1 ? "" : "s");
    cJSON_Delete(destination);
    cJSON_Delete(run.replies);
    return status;
}

static int run_command(const struct options *o, enum remote_kind kind)
{
    if (command_flag(o, "list"))
        return print_list(kind);
    const char *name = command_word(o, 0);
    if (!name)
        return command_usage(o, "Missing argument 'COMMAND'; --list names them");
    const struct remote_command *command = find(kind, name);
    if (!command)
        return unknown(o, kind, name);
    cJSON *arguments = cJSON_CreateObject();
    int status = read_arguments(o, command, arguments);
    if (status == 0)
        status = run_question(o, name, arguments, true);
    cJSON_Delete(arguments);
    return status;
}

int command_inspect(struct options *o)
{
    return run_command(o, REMOTE_INSPECT);
}

int command_control(struct options *o)
{
    return run_command(o, REMOTE_CONTROL);
}

int command_status(struct options *o)
{
    if (command_word(o, 0))
        return command_usage(o, "unexpected argument \"%.60s\"", command_word(o, 0));
    return run_question(o, "ping", NULL, false);
}
