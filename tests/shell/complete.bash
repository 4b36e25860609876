# shellcheck shell=bash
# shellcheck disable=SC2154,SC2016 # other files have them, and other shells expand
# What is completed when somebody types: verbs, flags, and names that the agent knows.

check_completions() {
    local shell
    on alpha acquire tab/mine --for 3h -q >/dev/null
    on beta acquire tab/theirs:x@y --for 3h -q >/dev/null
    for shell in "${shells[@]}"; do
        case $shell in
        zsh) shell_with zsh 'autoload -Uz compinit; compinit -u' "$(hooked zsh)" ;;
        *) shell_with "$shell" "$(hooked "$shell")" ;;
        esac
        completes 'a verb' "$shell" 'stormctl doc' 'stormctl doctor$'
        completes 'a flag' "$shell" 'stormctl acquire x --kee' 'stormctl acquire x --keep$'
        completes 'what is yours, to be given back' "$shell" \
            'stormctl release tab/' 'stormctl release tab/mine$'
        completes 'what others hold, to be broken' "$shell" \
            'stormctl break tab/t' 'stormctl break tab/theirs:x@y$'
        completes 'what is held, to be taken' "$shell" \
            'stormctl acquire tab/t' 'stormctl acquire tab/theirs:x@y$'
        # bash takes what : and @ divide for words.
        completes 'from a colon on' "$shell" \
            'stormctl break tab/theirs:' 'stormctl break tab/theirs:x@y$'
        completes 'behind a colon' "$shell" \
            'stormctl break tab/theirs:x' 'stormctl break tab/theirs:x@y$'
        completes 'from an at on' "$shell" \
            'stormctl break tab/theirs:x@' 'stormctl break tab/theirs:x@y$'
        completes 'behind one that has them' "$shell" \
            'stormctl acquire tab/theirs:x@y tab/mi' 'stormctl acquire tab/theirs:x@y tab/mine$'
        completes 'nothing that is unknown' "$shell" \
            'stormctl break tab/theirs:z' 'stormctl break tab/theirs:z$'
        completes 'a value behind its sign' "$shell" \
            'stormctl status --output=ts' 'stormctl status --output=tsv$'
        check_run "$shell"
        kill -STOP "$alpha_pid"
        terminal send-keys -t "=$shell:" C-u
        terminal send-keys -t "=$shell:" -l -- 'stormctl release tab/'
        terminal send-keys -t "=$shell:" Tab
        terminal send-keys -t "=$shell:" -l -- 'x'
        shows 'an agent that stands still holds up nobody who types' "$shell" 'release tab/x$'
        kill -CONT "$alpha_pid"
        terminal send-keys -t "=$shell:" C-c
    done
    # As a package brings it.
    mkdir "$place/functions"
    stormctl completions zsh >"$place/functions/_stormctl"
    shell_with zsh "fpath=('$place/functions' \$fpath)" 'autoload -Uz compinit; compinit -u'
    completes 'a verb at the first time' zsh 'stormctl doc' 'stormctl doctor$'
    # An end of the question is no end of the shell.
    shell_with bash 'set -euo pipefail' "$(hooked bash)"
    completes 'in a strict mode' bash 'stormctl doc' 'stormctl doctor$'
    completes 'in quotes' bash 'stormctl break "tab/theirs:' 'stormctl break "tab/theirs:x@y"?$'
    completes 'behind what has quotes' bash \
        'stormctl break -m "two words: so" tab/theirs:' 'so" tab/theirs:x@y$'
    completes 'nothing in a strict mode' bash 'stormctl release none:x' 'release none:x$'
    prints 'which ends no shell' bash ' || echo "alive"' alive
}

# What a lock is held for is a command with words of its own.
check_run() {
    touch "$place/only-this"
    printf '#!/bin/sh\n' >"$place/only-me"
    chmod +x "$place/only-me"
    terminal send-keys -t "=$1:" C-u
    types "$1" "cd '$place'" clear
    completes 'a command to be run' "$1" \
        'stormctl run tab/new -- redis-cl' 'stormctl run tab/new -- redis-cli$'
    completes 'a program to be run' "$1" \
        'stormctl run tab/new -- ./only-m' 'stormctl run tab/new -- ./only-me$'
    completes 'a file for it' "$1" \
        'stormctl run tab/a:b -- cat -- ./only-t' 'stormctl run tab/a:b -- cat -- ./only-this$'
    completes 'a flag before' "$1" \
        'stormctl run tab/new --kee' 'stormctl run tab/new --keep$'
}

# completes DESCRIPTION SHELL TYPED PATTERN: with Tab.
completes() {
    terminal send-keys -t "=$2:" C-u
    terminal send-keys -t "=$2:" -l -- "$3"
    # What is typed is on the screen before the key that acts on it.
    within "$patience" typed "$2" "$3"
    terminal send-keys -t "=$2:" Tab
    shows "completes $1" "$2" "$4"
}

typed() {
    last_line "$1" | grep -Fq -- "$2"
}
