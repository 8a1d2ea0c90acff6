# The holder of one node: `sh -eu holder.sh hold|keep MNT LOCK GROUP ROOT SIZE NSPAWN-ARGUMENTS...`.
#
# It is given a mount namespace of its own, makes a control group, and in it namespaces of mounts, processes and control
# groups whose PID 1 is "keep". That one mounts the node's disk and starts it at each line "boot"; it says "ready" when
# it can and "ended STATUS" when the node has. When its standard input ends, because the test closed it or is gone,
# PID 1 leaves: the kernel kills every process of the node, and with the last one go the mounts and the disk.
stage=$1 mnt=$2 lock=$3 group=$4 root=$5 size=$6

remove() { # a control group and those below it; they are empty
    find "$1" -depth -type d -exec rmdir {} +
}

hold() {
    # A mount of its own, because the machine's may be read-only, or the older hierarchy.
    mount -t cgroup2 groups "$mnt"
    own=$mnt$(sed -n 's/^0:://p' /proc/self/cgroup)
    exec 9>"$lock"
    flock 9
    # What a holder left that was killed itself. The lock: one that nobody has entered yet is empty too.
    for left in "$own"/gpushare-e2e-*; do
        if [ -d "$left" ] && grep -q '^populated 0' "$left/cgroup.events"; then
            remove "$left"
        fi
    done
    mkdir "$own/$group"
    status=0
    (
        # -e does not count where the status is asked for. Two nodes in one group would kill each other's units.
        echo 0 >"$own/$group/cgroup.procs" || exit
        flock --unlock 9
        exec 9>&-
        shift
        exec unshare --cgroup --mount --pid --fork --kill-child --mount-proc -- sh -eu "$0" keep "$@"
    ) || status=$?
    remove "$own/$group"
    exit "$status"
}

keep() {
    shift 6
    umount "$mnt"
    # The kernel refuses a file system on a mount of itself, which the machine's may be: something else in between.
    mount -t tmpfs between /sys/fs/cgroup
    mount -t cgroup2 groups /sys/fs/cgroup
    # nspawn keeps notes about its machines here; they are not this machine's business.
    mount -t tmpfs -o mode=755 run /run
    mount -t tmpfs -o "mode=755,size=$size" disk "$mnt"
    mkdir "$mnt/upper" "$mnt/work" "$mnt/root"
    mount -t overlay -o "lowerdir=$root,upperdir=$mnt/upper,workdir=$mnt/work" disk "$mnt/root"
    echo ready
    while read -r line; do
        case $line in
        boot) boot "$@" & ;;
        esac
    done
}

boot() {
    status=0
    systemd-nspawn --directory="$mnt/root" --boot --register=no --keep-unit --private-network --settings=no \
        --resolv-conf=off --timezone=off --link-journal=no --capability=CAP_SYSLOG "$@" </dev/null >&2 || status=$?
    echo "ended $status"
}

"$stage" "$@"
