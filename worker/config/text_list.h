/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_TEXT_LIST_H
#define WORKER_TEXT_LIST_H

/* Lists of texts as options and settings hold them: malloc'd, NULL-ended; NULL is the empty
 * list. */

#include <stdbool.h>
#include <stddef.h>

/* copies text, returns the list */
char **text_list_add(char **list, const char *text, size_t size);
/* What stands between `separators`, blanks around it taken away, empty items left out. */
char **text_list_split(const char *text, const char *separators);
bool text_list_has(char *const *list, const char *text);
void text_list_free(char **list);

#endif
