/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/config/settings.h"

#include "broker/url.h"

/* Where the broker is: its URL, and what the transport options add to it. */

int settings_broker(const struct settings *s, struct redis_url *ret_url, struct error *err)
{
    int code = redis_url_parse(s->broker_url, ret_url, err);
    if (code != 0)
        return code;
    code = redis_url_set_master(ret_url, s->master_name, s->sentinel_kwargs, err);
    if (code != 0)
        redis_url_done(ret_url);
    return code;
}
