# What the dispatcher and the units share. Read by `.`; runs nothing by itself.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
PLAN=/run/provision

say() { echo "maintenance: $*"; }

# Ends a unit.
fail() {
    echo "maintenance: $*" >&2
    exit 1
}

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

uptime_seconds() { cut -d. -f1 /proc/uptime; }

# Every wired interface gets an address by DHCP; the first that does is enough to go on.
network_up() {
    ip link set lo up
    for interface in /sys/class/net/*; do
        interface=${interface##*/}
        [ "$interface" = lo ] && continue
        ip link set "$interface" up
    done
    for interface in /sys/class/net/*; do
        interface=${interface##*/}
        [ "$interface" = lo ] && continue
        if udhcpc -q -n -t 5 -T 2 -i "$interface" -s /usr/lib/maintenance/udhcpc.script; then
            say "network: $interface"
            return 0
        fi
    done
    say "network: no interface was given an address"
}

# /dev/vda 3 -> /dev/vda3; /dev/nvme0n1 3 -> /dev/nvme0n1p3
partition_device() {
    case "$1" in
    *[0-9]) echo "$1p$2" ;;
    *) echo "$1$2" ;;
    esac
}

# The partitions of the disk $1, and of no other: names alone would take /dev/sdaa1 for one of /dev/sda,
# and /dev/md12 for one of /dev/md1. $2 is where the kernel lists them.
partitions_of() {
    disk=$(readlink -f "$1")
    for listed in "${2:-/sys}/class/block/${disk##*/}"/*/partition; do
        [ -f "$listed" ] || continue
        listed=${listed%/partition}
        echo "/dev/${listed##*/}"
    done
}

# $1 as one segment of a URL's path: serial numbers have blanks, and some of them slashes.
path_segment() {
    case "$1" in
    *[!A-Za-z0-9._~-]*) printf %s "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g' ;;
    *) printf %s "$1" ;;
    esac
}

# The device of the first partition whose column $1 (2 format, 3 label, 4 mount point, 5 role) is $2.
partition_with() {
    number=$(awk -F '\t' -v column="$1" -v wanted="$2" '$column == wanted { print $1; exit }' \
        "$PLAN/layout.tsv")
    [ -n "$number" ] || return 1
    partition_device "$TARGET_DISK" "$number"
}

# The file systems that hold the root, at /target, outermost first; not the vfat ones, which know no
# owners.
mount_target() {
    awk -F '\t' '$4 ~ "^/" && ($2 == "ext4" || $2 == "xfs" || $2 == "btrfs") { print $4 "\t" $1 }' \
        "$PLAN/layout.tsv" | sort >"$PLAN/mounts"
    grep -q "^/$(printf '\t')" "$PLAN/mounts" ||
        fail "partition_layout: no partition with mountpoint / and a format of ext4, xfs or btrfs"
    while IFS="$(printf '\t')" read -r mountpoint number; do
        mkdir -p "/target$mountpoint"
        mount "$(partition_device "$TARGET_DISK" "$number")" "/target$mountpoint"
    done <"$PLAN/mounts"
}

umount_target() {
    sort -r "$PLAN/mounts" | while IFS="$(printf '\t')" read -r mountpoint number; do
        umount "/target$mountpoint"
    done
}

# Where a whole image finds room before it is applied: the partition labelled `scratch`, else a
# folder of the root file system, else memory.
open_scratch() {
    mkdir -p /run/scratch
    if scratch_device=$(partition_with 3 scratch) || scratch_device=$(partition_with 4 /); then
        mount "$scratch_device" /run/scratch
    else
        mount -t tmpfs -o size=90% tmpfs /run/scratch
    fi
    SCRATCH=/run/scratch/.provision-scratch
    rm -rf "$SCRATCH"
    mkdir -p "$SCRATCH"
}

close_scratch() {
    rm -rf "$SCRATCH"
    umount /run/scratch
}

# A layer of the artifact to standard output or, with --to, into a file.
pull() {
    set -- "$OCI_URL" "$@"
    if is_true "${PLAIN_HTTP:-}"; then
        set -- --plain-http "$@"
    elif [ -f /etc/maintenance-ca.pem ]; then
        set -- --ca-file /etc/maintenance-ca.pem "$@"
    fi
    provisioner-controller pull "$@"
}

# The artifact's files by stock oras, into the folder $1.
pull_by_oras() {
    destination=$1
    set -- --no-tty --output "$destination" "$OCI_URL"
    if is_true "${PLAIN_HTTP:-}"; then
        set -- --plain-http "$@"
    elif [ -f /etc/maintenance-ca.pem ]; then
        set -- --ca-file /etc/maintenance-ca.pem "$@"
    fi
    HOME=/run oras pull "$@"
}

# The first of these that is a file; patterns that match nothing are none.
first_file() {
    for file in "$@"; do
        if [ -f "$file" ]; then
            echo "$file"
            return 0
        fi
    done
}

is_true() {
    case "$1" in
    1 | true | TRUE | yes) return 0 ;;
    *) return 1 ;;
    esac
}
