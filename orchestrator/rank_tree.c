#include "orchestrator/rank_tree.h"

static uint32_t size_of(const struct rank_node *node)
{
	return node ? node->size : 0;
}

static void count(struct rank_node *node)
{
	node->size = 1 + size_of(node->left) + size_of(node->right);
}

static bool before(const struct rank_node *a, const struct rank_node *b)
{
	return a->key != b->key ? a->key < b->key : a->order < b->order;
}

/* Put child (may be NULL) where node hangs. */
static void replace(struct rank_tree *tree, struct rank_node *node, struct rank_node *child)
{
	struct rank_node *parent = node->parent;

	if (!parent)
		tree->root = child;
	else if (parent->left == node)
		parent->left = child;
	else
		parent->right = child;
	if (child)
		child->parent = parent;
}

/* node takes the place of its parent, which goes below it. */
static void rotate_up(struct rank_tree *tree, struct rank_node *node)
{
	struct rank_node *parent = node->parent;
	struct rank_node *moved = parent->left == node ? node->right : node->left;

	replace(tree, parent, node);
	if (parent->left == node) {
		parent->left = moved;
		node->right = parent;
	} else {
		parent->right = moved;
		node->left = parent;
	}
	if (moved)
		moved->parent = parent;
	parent->parent = node;
	count(parent);
	count(node);
}

void rank_tree_insert(struct rank_tree *tree, struct rank_node *node, uint64_t key, uint64_t order)
{
	struct rank_node *parent = NULL, **place = &tree->root;
	bool leftmost = true;

	/* A fixed sequence balances as well as any other: nobody outside chooses keys by it. */
	tree->random = tree->random * 1664525u + 1013904223u;
	*node = (struct rank_node){.key = key, .order = order, .size = 1};
	node->heap = tree->random ^ tree->random >> 16;
	while (*place) {
		parent = *place;
		parent->size++;
		if (before(node, parent)) {
			place = &parent->left;
		} else {
			place = &parent->right;
			leftmost = false;
		}
	}
	*place = node;
	node->parent = parent;
	if (leftmost)
		tree->first = node;
	while (node->parent && node->heap < node->parent->heap)
		rotate_up(tree, node);
}

static struct rank_node *next_of(struct rank_node *node)
{
	if (node->right) {
		for (node = node->right; node->left; node = node->left)
			;
		return node;
	}
	while (node->parent && node->parent->right == node)
		node = node->parent;
	return node->parent;
}

void rank_tree_remove(struct rank_tree *tree, struct rank_node *node)
{
	if (tree->first == node)
		tree->first = next_of(node);
	while (node->left && node->right)
		rotate_up(tree, node->left->heap < node->right->heap ? node->left : node->right);
	replace(tree, node, node->left ? node->left : node->right);
	for (struct rank_node *up = node->parent; up; up = up->parent)
		up->size--;
	*node = (struct rank_node){0};
}

size_t rank_tree_rank(const struct rank_node *node)
{
	size_t rank = size_of(node->left);

	for (; node->parent; node = node->parent) {
		if (node->parent->right == node)
			rank += 1 + size_of(node->parent->left);
	}
	return rank;
}
