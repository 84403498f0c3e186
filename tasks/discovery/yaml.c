/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/k8s_config.h"

/* YAML to the tree that the rest of the code reads. Scalars stay texts: a kubeconfig has no numbers
 * that matter. An alias is refused where it would make the tree endless or large: the total number
 * of nodes is bounded. */

#ifdef HAVE_YAML
#include <yaml.h>

enum { DEPTH_MAX = 32, NODES_MAX = 100000 };

struct reading {
    yaml_document_t *document;
    int nodes;
};

static cJSON *tree_of(struct reading *r, int index, int depth);

static cJSON *list_of(struct reading *r, const yaml_node_t *node, int depth)
{
    cJSON *list = cJSON_CreateArray();
    for (yaml_node_item_t *at = node->data.sequence.items.start;
         at < node->data.sequence.items.top; at++) {
        cJSON *item = tree_of(r, *at, depth + 1);
        if (!item) {
            cJSON_Delete(list);
            return NULL;
        }
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *object_of(struct reading *r, const yaml_node_t *node, int depth)
{
    cJSON *object = cJSON_CreateObject();
    for (yaml_node_pair_t *at = node->data.mapping.pairs.start;
         at < node->data.mapping.pairs.top; at++) {
        const yaml_node_t *key = yaml_document_get_node(r->document, at->key);
        cJSON *value = key && key->type == YAML_SCALAR_NODE ? tree_of(r, at->value, depth + 1)
                                                            : NULL;
        if (!value) {
            cJSON_Delete(object);
            return NULL;
        }
        cJSON_AddItemToObject(object, (const char *)key->data.scalar.value, value);
    }
    return object;
}

static cJSON *tree_of(struct reading *r, int index, int depth)
{
    const yaml_node_t *node = yaml_document_get_node(r->document, index);
    if (!node || depth > DEPTH_MAX || ++r->nodes > NODES_MAX)
        return NULL;
    switch (node->type) {
    case YAML_SEQUENCE_NODE:
        return list_of(r, node, depth);
    case YAML_MAPPING_NODE:
        return object_of(r, node, depth);
    case YAML_SCALAR_NODE:
        return cJSON_CreateString((const char *)node->data.scalar.value);
    default:
        return NULL;
    }
}

cJSON *yaml_parse(const char *text, size_t size, const char **ret_error)
{
    yaml_parser_t parser;
    yaml_document_t document;
    cJSON *tree = NULL;
    *ret_error = "it is nested too deep, too large or empty";
    if (!yaml_parser_initialize(&parser))
        return NULL;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    if (yaml_parser_load(&parser, &document)) {
        yaml_node_t *root = yaml_document_get_root_node(&document);
        struct reading r = {&document, 0};
        tree = root ? tree_of(&r, 1, 0) : NULL;
        yaml_document_delete(&document);
    } else {
        *ret_error = "it is not YAML";
    }
    yaml_parser_delete(&parser);
    return tree;
}

#else

cJSON *yaml_parse(const char *text, size_t size, const char **ret_error)
{
    *ret_error = "it is not JSON, and this cworker was built without libyaml "
                 "(kubectl config view --raw -o json makes JSON of it)";
    return cJSON_ParseWithLength(text, size);
}

#endif
