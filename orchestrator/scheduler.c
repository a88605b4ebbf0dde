#include "orchestrator/scheduler.h"

struct queue_item *scheduler_next(const struct scheduler_view *view, const struct queue *queue)
{
	if (view->vms >= view->max_vms)
		return NULL;
	return queue_first(queue);
}
