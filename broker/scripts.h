/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_SCRIPTS_H
#define BROKER_SCRIPTS_H

#include "broker/redis.h"

/* Its first line, of one that may write in a Redis that is out of memory. */
#define SCRIPT_ALLOW_OOM "#!lua flags=allow-oom\n"

/* The Lua scripts of a channel; scripts.c says of each what it takes and answers. */
extern struct redis_script script_fetch, script_settle, script_lease_take, script_register,
    script_leave, script_promote, script_give_back, script_adopt, script_forget, script_overdue,
    script_restore, script_unlock;

/* How many entries script_give_back should get after `n` of `bytes`: it gets each of them twice, and
 * Redis hangs up on more than a GiB. The first comes alone. */
int script_give_back_most(size_t bytes, size_t n);

#endif
