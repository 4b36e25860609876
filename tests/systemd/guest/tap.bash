# shellcheck shell=bash
# A line for each check, and what the checks are made of. Numbers and failures go on over reboots.

readonly tally=/guest/out/tally
# How long something may take that has no time of its own: a busy machine is slow.
readonly patience=30

# said NUMBER-OF-FAILURES DESCRIPTION [WHY]
said() {
    local count=0 failed=0
    [ ! -e "$tally" ] || read -r count failed <"$tally"
    count=$((count + 1))
    failed=$((failed + $1))
    printf '%d %d\n' "$count" "$failed" >"$tally"
    if [ "$1" = 0 ]; then
        printf 'ok %d - %s\n' "$count" "$2"
    else
        printf 'not ok %d - %s\n' "$count" "$2"
        printf '%s\n' "${3:-}" | sed 's/^/#   /'
    fi
}

# is DESCRIPTION GOT WANTED
is() {
    if [ "$2" = "$3" ]; then
        said 0 "$1"
    else
        said 1 "$1" "got '$2', want '$3'"
    fi
}

# ok DESCRIPTION COMMAND...
ok() {
    local what=$1 told status=0
    shift
    told=$("$@" 2>&1) || status=$?
    said "$((status != 0))" "$what" "'$*' ended with $status: $told"
}

# fails DESCRIPTION STATUS COMMAND...: it ends with just this status, or, if that is "any", not
# with 0.
fails() {
    local what=$1 want=$2 told status=0
    shift 2
    told=$("$@" 2>&1) || status=$?
    if [ "$status" = "$want" ] || { [ "$want" = any ] && [ "$status" != 0 ]; }; then
        said 0 "$what"
    else
        said 1 "$what" "'$*' ended with $status, want $want: $told"
    fi
}

# Between two questions: nothing is ever written to this pipe, and nothing forked for it.
exec {silent}<> <(:)
pause() {
    read -r -t 0.05 -u "$silent" || true
}

# within SECONDS COMMAND...: asks again until it is so.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        pause
    done
}

# soon DESCRIPTION COMMAND...
soon() {
    local what=$1
    shift
    ok "$what" within "$patience" "$@"
}

not() {
    ! "$@"
}

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
