#!/bin/busybox sh
# The first process of the demo guest. Switches on the kernel's command line:
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
cd /root
[ $bench = 1 ] && /bin/bench "$benchsec" "$benchscale" /bin/bench-true
[ $halt = 1 ] && poweroff -f
# busybox's poweroff, reboot and halt send these signals to the first process; the kernel calls the first two when it is asked
# from outside to stop.
trap 'poweroff -f' USR2
trap 'reboot -f' TERM
trap 'halt -f' USR1
# A session of its own on the console's real device gives the shell job control; in the background, because the traps
# run only during a wait. When the shell ends, there is a new one.
while :; do
    setsid cttyhack sh -i </dev/console >/dev/console 2>&1 &
    wait $!
done
