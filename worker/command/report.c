/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/command.h"

#include "worker/report.h"

#include <stdio.h>
#include <stdlib.h>

int command_report(struct options *o)
{
    if (command_word(o, 0))
        return command_usage(o, "unexpected argument \"%.60s\"", command_word(o, 0));
    char *text = report_text(o);
    fputs(text, stdout);
    free(text);
    return 0;
}
