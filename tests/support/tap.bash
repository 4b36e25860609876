# shellcheck shell=bash
# A line for each check, and what the checks are made of. Whoever uses it says in `tally` in which
# file numbers and failures are counted.

: "${tally:?}"
# How long something may take that has no time of its own: a busy machine is slow.
readonly patience=${PATIENCE:-30}

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
