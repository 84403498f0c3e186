/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_SCRIPTS_H
#define BROKER_SCRIPTS_H

#include "broker/redis.h"

/* The Lua scripts of a channel; scripts.c says of each what it takes and answers. */
extern struct redis_script script_fetch, script_settle, script_lease_take, script_register,
    script_leave, script_promote, script_give_back, script_adopt, script_forget, script_overdue,
    script_restore, script_unlock;

#endif
