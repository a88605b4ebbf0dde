#include "orchestrator/vm_worker.h"

#include "common/limits.h"

#define CONNECT_TIMEOUT_MS 10000

int vm_reach_worker(const struct vm *vm, void (*reachable)(void *arg, struct guest *guest),
	void *arg, struct guest_hello *ret_hello, struct error **err)
{
	int fd = vm_connect(vm, WORKER_PORT, CONNECT_TIMEOUT_MS, err);
	struct guest *guest = fd < 0 ? NULL : guest_new(fd, vm_facts(vm)->id, err);

	if (guest)
		reachable(arg, guest);
	if (!guest || guest_hello(guest, vm_secret(vm), ret_hello, err) < 0)
		return error_wrap(err, "reaching the worker");
	return 0;
}
