/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_SCANS_H
#define TASKS_SCANS_SCANS_H

#include "tasks/cworker.h"

cw_outcome execute_network_scan(cw_task *t);

#endif
