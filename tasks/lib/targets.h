/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_TARGETS_H
#define TASKS_LIB_TARGETS_H

#include <stdbool.h>

/* Can this be a host name, an address or a network, and nothing a program would read as an option?
 */
bool target_is_valid(const char *target);
bool target_is_ipv6(const char *target);

/* Link-local addresses and others at which a cloud tells its machines their secrets: what nobody
 * means when he approves a name that leads there. */
bool target_is_metadata(const char *address);

/* Does an approved entry cover the target? The same text (names: whatever the case), or a network
 * that contains the address or network. */
bool target_is_covered(const char *target, const char *approved);

#endif
