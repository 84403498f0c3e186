/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json.h"

#include <math.h>
#include <string.h>

/* Members and numbers of a tree. */

cJSON *json_get(const cJSON *object, const char *key)
{
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

const char *json_get_string(const cJSON *object, const char *key)
{
    const cJSON *value = json_get(object, key);
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

void json_set(cJSON *object, const char *key, cJSON *value)
{
    bool done = json_get(object, key)
                    ? cJSON_ReplaceItemInObjectCaseSensitive(object, key, value)
                    : cJSON_AddItemToObject(object, key, value);
    if (!done)
        cJSON_Delete(value);
}

bool json_as_int(const cJSON *value, int64_t *ret_value)
{
    if (!cJSON_IsNumber(value))
        return false;
    const char *text = value->valuestring;
    if (text && text[strspn(text, "-0123456789")] == '\0') {
        size_t digits = strlen(text) - (*text == '-');
        if (digits > 19)
            return false;
        __int128 sum = 0;
        for (const char *at = text + (*text == '-'); *at; at++)
            sum = sum * 10 + (*at - '0');
        sum = *text == '-' ? -sum : sum;
        if (sum < INT64_MIN || sum > INT64_MAX)
            return false;
        *ret_value = (int64_t)sum;
        return true;
    }
    double number = value->valuedouble;
    if (!(fabs(number) < 0x1p53) || number != trunc(number))
        return false;
    *ret_value = (int64_t)number;
    return true;
}
