#include "orchestrator/input_list.h"

#include <string.h>

#include "common/util.h"

struct input_list *input_list_new(void)
{
	struct input_list *list = xcalloc(1, sizeof(*list));

	list->refs = 1;
	return list;
}

void input_list_add(struct input_list *list, const char *path, uint64_t size, const uint8_t *sha256)
{
	/* By doubling: at most LIMIT_TREE_FILES, the writer of the tree counts. */
	if ((list->n & (list->n - 1)) == 0)
		list->files =
			xreallocarray(list->files, list->n ? 2 * list->n : 1, sizeof(*list->files));
	struct job_artifact *file = &list->files[list->n++];
	file->path = xstrdup(path);
	file->size = size;
	memcpy(file->sha256, sha256, sizeof(file->sha256));
}

struct input_list *input_list_ref(struct input_list *list)
{
	if (list)
		__atomic_add_fetch(&list->refs, 1, __ATOMIC_RELAXED);
	return list;
}

void input_list_unref(struct input_list *list)
{
	if (!list || __atomic_sub_fetch(&list->refs, 1, __ATOMIC_ACQ_REL))
		return;
	for (size_t i = 0; i < list->n; i++)
		free(list->files[i].path);
	free(list->files);
	free(list);
}
