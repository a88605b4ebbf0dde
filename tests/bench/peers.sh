# shellcheck shell=bash
# Guests of the peers, for bench-peers and bench-warm: Debian's cloud kernel, and of user space nothing
# but busybox and the peer's own program: the best case, no systemd and no disk. After lib.sh.

# A package's files, unpacked without installing it: what a guest needs is not needed here.
PEERS=$BUILD/cache/peers
unpack() {
	[[ -e $PEERS/$1/.unpacked ]] && return
	mkdir -p "$PEERS/$1"
	(cd "$PEERS/$1" && apt-get -q download "$1" >/dev/null 2>&1 && dpkg-deb -x ./*.deb . &&
		rm -f ./*.deb && touch .unpacked) || return 1
}

# copy_program ROOT PROGRAM TO [LIBRARIES]: with its libraries, at their own paths; from this host,
# which is Debian 12 too, or from the directory LIBRARIES.
copy_program() {
	local root=$1 program=$2 to=$3 library
	install -D "$program" "$root/$to"
	# Nothing for a static one.
	for library in $(LD_LIBRARY_PATH=${4:-} ldd "$program" 2>/dev/null | grep -o '/[^ ]*' || true); do
		install -D "$library" "$root/lib/x86_64-linux-gnu/${library##*/}"
		[[ ${library##*/} != ld-* ]] || install -D "$library" "$root/lib64/${library##*/}"
	done
	! LD_LIBRARY_PATH=${4:-} ldd "$program" 2>/dev/null | grep -q 'not found'
}

# What all have: kernel, busybox, the modules named (in the order in which they need each other), and an
# /init that loads them and then does what comes on stdin. make_guest ROOT MODULE...
make_guest() {
	local root=$1 release module
	shift
	release=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
	[[ $release ]] && unpack "$release" || return 1
	KERNEL=$(ls "$PEERS/$release"/boot/vmlinuz-*)
	mkdir -p "$root"/{bin,dev,proc,sys,run,modules,etc,root,tmp,var/run,var/empty}
	copy_program "$root" "$(command -v busybox)" bin/busybox
	ln -s busybox "$root/bin/sh"
	ln -s busybox "$root/bin/true"
	for module; do
		find "$PEERS/$release/lib/modules" -name "$module.ko" -exec cp {} "$root/modules/" \;
	done
	{
		cat <<-INIT
			#!/bin/sh
			busybox mount -t proc proc /proc
			busybox mount -t sysfs sys /sys
			busybox mount -t devtmpfs dev /dev
			busybox mkdir -p /dev/pts
			busybox mount -t devpts devpts /dev/pts
			for m in $*; do [ ! -e /modules/\$m.ko ] || busybox insmod /modules/\$m.ko; done
		INIT
		cat
	} >"$root/init"
	chmod +x "$root/init"
	(cd "$root" && find . | cpio -o -H newc --quiet) >"$root.cpio"
}

VIRTIO=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci)

# $WORK/agent.cpio and $KERNEL; agent_qemu are the arguments.
make_agent_guest() {
	local root=$WORK/agent
	unpack qemu-guest-agent || return 1
	mkdir -p "$root"
	copy_program "$root" "$PEERS/qemu-guest-agent/usr/sbin/qemu-ga" bin/qemu-ga || return 1
	make_guest "$root" "${VIRTIO[@]}" virtio_console <<-'INIT' || return 1
		while [ ! -e /dev/vport0p1 ]; do busybox usleep 5000; done
		exec qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run
	INIT
	# shellcheck disable=SC2034,SC2054 # for who sources this; commas are QEMU's
	agent_qemu=(qemu-system-x86_64 -accel tcg -cpu max -m 256 -nographic -nodefaults -no-reboot
		-kernel "$KERNEL" -initrd "$root.cpio" -append 'quiet panic=-1'
		-device virtio-serial
		-chardev "socket,path=$WORK/agent.sock,server=on,wait=off,id=agent"
		-device 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0')
}

# OpenSSH's server over virtio-net and QEMU's user-mode network. SSH_PORT, $WORK/ssh.key; ssh_qemu.
make_ssh_guest() {
	local root=$WORK/ssh library
	command -v ssh ssh-keygen >/dev/null && unpack openssh-server && unpack libwrap0 || return 1
	mkdir -p "$root"/{etc/ssh,root/.ssh,run/sshd}
	library=$(dirname "$(find "$PEERS/libwrap0" -name 'libwrap.so.0' | head -1)")
	copy_program "$root" "$PEERS/openssh-server/usr/sbin/sshd" usr/sbin/sshd "$library" || return 1
	# sshd looks users up by NSS, which is loaded at run time.
	install -D /lib/x86_64-linux-gnu/libnss_files.so.2 "$root/lib/x86_64-linux-gnu/libnss_files.so.2"
	printf 'root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n' >"$root/etc/passwd"
	printf 'passwd: files\n' >"$root/etc/nsswitch.conf"
	printf 'root:*:1::::::\n' >"$root/etc/shadow"
	ssh-keygen -q -t ed25519 -N '' -f "$root/etc/ssh/ssh_host_ed25519_key"
	rm -f "$WORK"/ssh.key*
	ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh.key"
	cp "$WORK/ssh.key.pub" "$root/root/.ssh/authorized_keys"
	chmod 700 "$root/root" "$root/root/.ssh"
	chmod 600 "$root/root/.ssh/authorized_keys"
	printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nUseDNS no\n' >"$root/etc/ssh/sshd_config"
	make_guest "$root" "${VIRTIO[@]}" failover net_failover virtio_net <<-'INIT' || return 1
		busybox ifconfig lo 127.0.0.1 up
		while [ ! -e /sys/class/net/eth0 ]; do busybox usleep 5000; done
		busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
		busybox route add default gw 10.0.2.2
		exec /usr/sbin/sshd -D
	INIT
	SSH_PORT=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	# shellcheck disable=SC2034,SC2054
	ssh_qemu=(qemu-system-x86_64 -accel tcg -cpu max -m 256 -nographic -nodefaults -no-reboot
		-kernel "$KERNEL" -initrd "$root.cpio" -append 'quiet panic=-1'
		-netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$SSH_PORT-:22"
		-device virtio-net-pci,netdev=net)
}
