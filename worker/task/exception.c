/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/exception.h"

#include "proto/repr.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Python's exceptions as data. A Python client looks a class up by module and name and raises it,
 * so the tables below only answer one question: in which module does a plain name live. */

/* Sorted for bsearch. */
static const char *const builtin_names[] = {
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BaseException",
    "BaseExceptionGroup",
    "BlockingIOError",
    "BrokenPipeError",
    "BufferError",
    "BytesWarning",
    "ChildProcessError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "DeprecationWarning",
    "EOFError",
    "EncodingWarning",
    "EnvironmentError",
    "Exception",
    "ExceptionGroup",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "FutureWarning",
    "IOError",
    "ImportError",
    "ImportWarning",
    "IndentationError",
    "IndexError",
    "InterruptedError",
    "IsADirectoryError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "ModuleNotFoundError",
    "NameError",
    "NotADirectoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PendingDeprecationWarning",
    "PermissionError",
    "ProcessLookupError",
    "RecursionError",
    "ReferenceError",
    "ResourceWarning",
    "RuntimeError",
    "RuntimeWarning",
    "StopAsyncIteration",
    "StopIteration",
    "SyntaxError",
    "SyntaxWarning",
    "SystemError",
    "TabError",
    "TimeoutError",
    "TypeError",
    "UnboundLocalError",
    "UnicodeDecodeError",
    "UnicodeEncodeError",
    "UnicodeError",
    "UnicodeTranslateError",
    "UnicodeWarning",
    "UserWarning",
    "ValueError",
    "Warning",
    "ZeroDivisionError",
};

/* Classes that people of Celery know without their module. */
static const struct home {
    const char *type, *module;
} homes[] = {
    {"SoftTimeLimitExceeded", "billiard.exceptions"},
    {"TimeLimitExceeded", "billiard.exceptions"},
    {"WorkerLostError", "billiard.exceptions"},
    {"Terminated", "billiard.exceptions"},
    {"EncodeError", "kombu.exceptions"},
    {"DecodeError", "kombu.exceptions"},
    {"ContentDisallowed", "kombu.exceptions"},
    {"AlreadyRegistered", "celery.exceptions"},
    {"BackendError", "celery.exceptions"},
    {"ChordError", "celery.exceptions"},
    {"Ignore", "celery.exceptions"},
    {"ImproperlyConfigured", "celery.exceptions"},
    {"IncompleteStream", "celery.exceptions"},
    {"InvalidTaskError", "celery.exceptions"},
    {"MaxRetriesExceededError", "celery.exceptions"},
    {"NotConfigured", "celery.exceptions"},
    {"NotRegistered", "celery.exceptions"},
    {"OperationalError", "celery.exceptions"},
    {"QueueNotFound", "celery.exceptions"},
    {"Reject", "celery.exceptions"},
    {"Retry", "celery.exceptions"},
    {"SecurityError", "celery.exceptions"},
    {"TaskError", "celery.exceptions"},
    {"TaskRevokedError", "celery.exceptions"},
};

/* Raised again in a client these would end its process instead of reaching its except clause. */
static const char *const deadly[] = {
    "SystemExit",      "KeyboardInterrupt", "GeneratorExit",
    "SystemTerminate", "WorkerShutdown",    "WorkerTerminate",
};

static int compare_names(const void *key, const void *each)
{
    return strcmp(key, *(const char *const *)each);
}

static bool is_builtin(const char *type)
{
    return bsearch(type, builtin_names, sizeof builtin_names / sizeof *builtin_names,
                   sizeof *builtin_names, compare_names);
}

static const char *module_of(const char *type)
{
    if (is_builtin(type))
        return "builtins";
    for (size_t i = 0; i < sizeof homes / sizeof *homes; i++)
        if (strcmp(homes[i].type, type) == 0)
            return homes[i].module;
    return "cworker";
}

void exception_name(const char *name, struct exception *ret)
{
    const char *dot = strrchr(name, '.');
    const char *type = dot ? dot + 1 : name;
    ret->args = NULL;
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        if (strcmp(type, deadly[i]) == 0)
            type = "";
    if (!*type) {
        type = "RuntimeError";
        dot = NULL;
    }
    snprintf(ret->type, sizeof ret->type, "%s", type);
    if (dot)
        snprintf(ret->module, sizeof ret->module, "%.*s", (int)(dot - name), name);
    else
        snprintf(ret->module, sizeof ret->module, "%s", module_of(type));
}

void exception_print(const struct exception *e, struct buf *out)
{
    buf_str(out, "{\"exc_type\": ");
    json_print_string(e->type, strlen(e->type), out);
    buf_str(out, ", \"exc_message\": ");
    json_print(e->args, out);
    buf_str(out, ", \"exc_module\": ");
    json_print_string(e->module, strlen(e->module), out);
    buf_char(out, '}');
}

/* Python's str(exception): nothing, the only argument, or all of them as a tuple. */
static void print_message(const struct exception *e, struct buf *out)
{
    const cJSON *first = e->args ? e->args->child : NULL;
    if (strcmp(e->type, "SoftTimeLimitExceeded") == 0) {
        buf_str(out, ": ");
        exception_repr(e, out);
    } else if (first) {
        buf_str(out, ": ");
        if (first->next)
            repr_python(e->args, true, 65536, out);
        else if (cJSON_IsString(first) && strcmp(e->type, "KeyError") != 0)
            buf_str(out, first->valuestring);
        else
            repr_python(first, false, 65536, out);
    }
}

void exception_tell(const struct exception *e, struct buf *out)
{
    if (strcmp(e->module, "builtins") != 0)
        buf_printf(out, "%s.", e->module);
    buf_str(out, e->type);
    print_message(e, out);
    buf_char(out, '\n');
}

void exception_repr(const struct exception *e, struct buf *out)
{
    const char *separator = "";
    buf_printf(out, "%s(", e->type);
    for (const cJSON *arg = e->args ? e->args->child : NULL; arg; arg = arg->next) {
        buf_str(out, separator);
        repr_python(arg, false, 1024, out);
        separator = ", ";
    }
    buf_char(out, ')');
}
