# shellcheck shell=bash
# What is asked of a unit, of a lock in the store, and of the journal.

# The words of a unit: active, inactive, failed, activating.
act() {
    systemctl is-active "$1" 2>/dev/null
}

is_act() {
    [ "$(act "$1")" = "$2" ]
}

of_unit() {
    systemctl show -P "$2" "$1"
}

# has_run UNIT: its command was started, at whatever time.
has_run() {
    [ "$(of_unit "$1" ExecMainStartTimestampMonotonic)" != 0 ]
}

# Hundredths of a second since the machine's boot.
uptime_centiseconds() {
    local up
    read -r up _ </proc/uptime
    printf '%s\n' "${up/./}"
}

# free RESOURCE, held RESOURCE: as the second agent sees it in the store.
free() {
    [ "$(redis exists "$1")" = 0 ]
}

held() {
    [ "$(redis exists "$1")" = 1 ]
}

# lease RESOURCE: the id of the lease that is there.
lease() {
    stormctl current "$1" -o id
}

# logged UNIT TEXT: this boot's journal of the unit has it.
logged() {
    journalctl --sync
    journalctl -b -q -o cat -u "$1" --grep "$2"
}
