# shellcheck shell=bash
# The guest's kernel panics, while it boots and under a running job: told as such, with the kernel's
# words, at once.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

# Without a usable initramfs the kernel finds no root file system.
while_booting() {
	id=$(orc submit --image broken --memory 128M -- true)
	ended_as guest_panic "^the guest's kernel panicked while booting: .*VFS: Unable to mount root" 40
	expect_exit 0 orc logs --console "$id"
	expect_match 'Kernel panic' "$T/out"
}

# The kernel is told to panic where it would end a process for want of memory.
while_running() {
	id=$(orc submit --image fragile --memory 128M -- \
		sh -c 'echo begun; for i in 1 2 3 4; do dd if=/dev/zero of=/dev/null bs=48M & done; wait')
	ended_as guest_panic "^the guest's kernel panicked: .*panic_on_oom" 60
	expect_equal "what came before" begun "$(cat "$(job_dir "$id")/stdout")"
	expect_exit 0 orc logs --console "$id"
	expect_match 'Kernel panic' "$T/out"
}

copy_image "$IMAGE" # for the next jobs
derive_image broken "$(image_file "$IMAGE" initramfs)"
scribble "$T/images/broken/$(image_file "$IMAGE" initramfs)"
derive_image fragile
set_cmdline fragile sysctl.vm.panic_on_oom=2

repeat while_booting
repeat while_running
