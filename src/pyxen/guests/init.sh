#!/bin/busybox sh
# The first process of the demo guest, until init takes over. Switches on the kernel's command line:
#   bench=1 [benchsec=N] [benchscale=F]   run /bin/bench (in the benchmarks' ramdisk only)
#   halt=1                                power off instead of giving a shell
export PATH=/sbin:/bin HOME=/root PS1='guest# '
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "GUEST_USERSPACE $(cut -d' ' -f1 /proc/uptime) $(uname -r)"
bench=0 benchsec=2 benchscale=1 halt=0
for word in $(cat /proc/cmdline); do
    case $word in
        bench=1) bench=1 ;;
        benchsec=*) benchsec=${word#*=} ;;
        benchscale=*) benchscale=${word#*=} ;;
        halt=1) halt=1 ;;
    esac
done
[ $bench = 1 ] && /bin/bench "$benchsec" "$benchscale" /bin/bench-true
[ $halt = 1 ] && poweroff -f
# busybox's init, because it starts the shell with clean signals, starts it again when it ends, and answers poweroff,
# reboot and halt. cttyhack gives the shell the console's real device, which job control needs.
echo '::respawn:/bin/cttyhack /bin/sh -i' >/etc/inittab
exec init
