/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

#include <fnmatch.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

/* Which nodes a command is meant for, by pattern. `pcre` patterns are Python's, matched from the
 * start of the name; they are put into POSIX words, which can say all of what names of hosts need.
 * The one idea: only whether there is a match counts, so lazy repetition is the same as greedy. */

/* What a class letter stands for inside brackets; NULL: the letter itself. */
static const char *class_of(char letter)
{
    switch (letter) {
    case 'd':
        return "0-9";
    case 'w':
        return "[:alnum:]_";
    case 's':
        return "[:space:]";
    default:
        return NULL;
    }
}

static size_t put_escape(char letter, bool inside, struct buf *out)
{
    const char *class = class_of((char)(letter | 0x20));
    bool negated = letter >= 'A' && letter <= 'Z';
    if (class && !(inside && negated))
        buf_printf(out, inside ? "%s%s%s" : "[%s%s%s", negated ? "^" : "", class,
                   inside ? "" : "]");
    else if (inside)
        buf_char(out, letter);
    else if (letter == 'Z')
        buf_char(out, '$');
    else if (letter != 'A') /* everything is anchored there */
        buf_printf(out, "\\%c", letter);
    return inside || letter < '1' || letter > '9' ? 2 : 0; /* a group again: ours are others */
}

/* The part of the pattern at `at`; how many of its bytes were taken, 0: POSIX cannot say it. */
static size_t put_part(const char *pattern, const char *at, bool *inside, struct buf *out)
{
    if (*at == '\\' && at[1])
        return put_escape(at[1], *inside, out);
    if (*inside) {
        *inside = *at != ']';
    } else if (*at == '[') {
        *inside = true;
        size_t size = at[1] == '^' ? 2 : 1;
        size += at[size] == ']';
        buf_add(out, at, size);
        return size;
    } else if (at[0] == '(' && at[1] == '?') {
        buf_char(out, '(');
        return at[2] == ':' ? 3 : 0;
    } else if (*at == '?' && at > pattern && strchr("*+?}", at[-1])) {
        return 1;
    }
    buf_char(out, *at);
    return 1;
}

static int match_regex(const char *name, const char *pattern, bool *ret_match, struct error *err)
{
    struct buf posix = BUF_INIT(1 << 16);
    bool inside = false;
    size_t taken = 1;
    buf_str(&posix, "^(");
    for (const char *at = pattern; *at && taken; at += taken)
        taken = put_part(pattern, at, &inside, &posix);
    buf_str(&posix, ")");
    regex_t regex;
    int code = taken && !posix.failed ? regcomp(&regex, posix.data, REG_EXTENDED | REG_NOSUB) : -1;
    buf_done(&posix);
    if (code)
        return error_set(err, ERROR_INVALID, "pattern '%.80s' is not understood", pattern);
    *ret_match = regexec(&regex, name, 0, NULL, 0) == 0;
    regfree(&regex);
    return 0;
}

/* The largest number between braces. */
static long count_of(const char *braces)
{
    long most = 0;
    for (const char *at = braces; *at && *at != '}';) {
        char *end;
        long n = strtol(at, &end, 10);
        most = n > most ? n : most;
        at = end == at ? at + 1 : end;
    }
    return most;
}

/* Anybody may send a pattern, and the loop stands still while it is compiled: that takes time
 * exponential in the repeated groups that may be empty, and is the longer, and takes the more
 * memory, the more often a part is counted. */
static bool is_simple(const char *pattern)
{
    enum { LENGTH_MOST = 1000, GROUPS_MOST = 4, COUNTED_MOST = 4000 };
    size_t length = strlen(pattern);
    const char *counted = strchr(pattern, '{');
    int groups = 0;
    for (const char *at = pattern; (at = strchr(at, ')')); at++)
        groups += at[1] && strchr("*+?{", at[1]);
    if (length > LENGTH_MOST || groups > GROUPS_MOST)
        return false;
    return !counted || (!strchr(counted + 1, '{') && groups < 2 &&
                        (size_t)count_of(counted + 1) <= COUNTED_MOST / length);
}

int pattern_match(const char *name, const char *pattern, const char *matcher, bool *ret_match,
                  struct error *err)
{
    *ret_match = false;
    if (!is_simple(pattern))
        return error_set(err, ERROR_INVALID,
                         "pattern of more than 1000 bytes, 4 repeated groups or one counted "
                         "repetition (4000, divided by the bytes of the pattern)");
    if (strcmp(matcher, "pcre") == 0)
        return match_regex(name, pattern, ret_match, err);
    if (strcmp(matcher, "glob") != 0)
        return error_set(err, ERROR_INVALID, "matcher '%.40s' is neither glob nor pcre", matcher);
    *ret_match = fnmatch(pattern, name, FNM_NOESCAPE) == 0;
    return 0;
}
