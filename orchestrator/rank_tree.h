/* An ordered tree that knows ranks: a treap whose nodes are embedded in what it orders, and count
 * what is below them. All but rank_tree_first() costs O(log n), expected. Pure; no memory of its
 * own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rank_node {
	struct rank_node *parent, *left, *right;
	uint64_t key, order; /* by key, then by order; no two are the same in both */
	uint32_t heap;	     /* random: smaller is nearer to the root */
	uint32_t size;	     /* of its subtree, itself included; 0: in no tree */
};

struct rank_tree {
	struct rank_node *root, *first; /* first: kept, because it is asked for most */
	uint32_t random;
};

void rank_tree_insert(struct rank_tree *tree, struct rank_node *node, uint64_t key, uint64_t order);
void rank_tree_remove(struct rank_tree *tree, struct rank_node *node);
/* How many stand before it. */
size_t rank_tree_rank(const struct rank_node *node);

static inline struct rank_node *rank_tree_first(const struct rank_tree *tree)
{
	return tree->first;
}

static inline size_t rank_tree_size(const struct rank_tree *tree)
{
	return tree->root ? tree->root->size : 0;
}

static inline bool rank_node_held(const struct rank_node *node)
{
	return node->size;
}
