# Where the task is: on a CD or a disk whose label begins with TASK_; else, where the BMC has one slot
# and this image is in it, at the controller. Read by `.`, after lib.sh; runs nothing by itself.

WITHOUT_CONTROLLER_SECONDS=60
# The controller may be restarting, or not have written down yet that it reset this machine.
WITH_CONTROLLER_SECONDS=1800
# So long devices alone are looked at; afterwards too, in turn with the controller: drives come late.
DEVICES_ALONE_SECONDS=15
TASK_FILE=/run/task.iso
TASK_BYTES_MAX=10485760

# Sets TASK_DEVICE, which may be a file, and TASK_LABEL. $1 is the machine's serial number.
find_task() {
    url= patience_seconds=$WITHOUT_CONTROLLER_SECONDS
    if [ -n "$1" ] && [ -n "${WEBHOOK_SECRET:-}" ] && url=$(task_url "$1"); then
        patience_seconds=$WITH_CONTROLLER_SECONDS
    fi
    begun=$(uptime_seconds) refusal=
    until find_task_device; do
        waited=$(($(uptime_seconds) - begun))
        [ "$waited" -lt "$patience_seconds" ] || return 1
        if [ -n "$url" ] && [ "$waited" -ge "$DEVICES_ALONE_SECONDS" ]; then
            fetch_task "$url" && return 0
            sleep 2
        fi
        sleep 1
    done
}

find_task_device() {
    for device in /dev/sr* /dev/sd* /dev/vd*; do
        [ -b "$device" ] || continue
        TASK_DEVICE=$device TASK_LABEL=$(label_of "$device")
        is_task_label "$TASK_LABEL" && return 0
    done
    return 1
}

# ISO 9660 has it in 32 bytes at 32808, of a disk as of a CD.
label_of() {
    dd if="$1" bs=1 skip=32808 count=32 2>/dev/null | tr -d '\0' | tr -d ' '
}

is_task_label() {
    case "$1" in
    TASK_*) return 0 ;;
    *) return 1 ;;
    esac
}

# The controller that takes this machine's reports has its task.
task_url() {
    base=${WEBHOOK_URL:-}
    base=${base%/}
    case "$base" in
    http*/api/v1/status-webhook) ;;
    *) return 1 ;;
    esac
    echo "${base%/api/v1/status-webhook}/media/nodes/$(path_segment "$1")/task.iso"
}

# Says why not, each reason once.
fetch_task() {
    rm -f "$TASK_FILE"
    # In a file, since arguments are for everybody to read.
    (umask 077 && printf 'X-Webhook-Secret: %s\n' "$WEBHOOK_SECRET" >/run/task.headers)
    if code=$(curl -sS --max-time 60 --max-filesize "$TASK_BYTES_MAX" -o "$TASK_FILE" \
        -w '%{http_code}' -H @/run/task.headers "$1") && [ "$code" = 200 ]; then
        TASK_DEVICE=$TASK_FILE TASK_LABEL=$(label_of "$TASK_FILE")
        is_task_label "$TASK_LABEL" && return 0
        code="no ISO with a label TASK_*"
    else
        code="$code $(head -c 300 "$TASK_FILE" 2>/dev/null)"
    fi
    [ "$code" = "$refusal" ] || say "no task at a device, nor at $1 ($code); asking again"
    refusal=$code
    return 1
}
