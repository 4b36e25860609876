# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2016 # other files have them, and other shells expand
# Whoever types sees nothing of the hooks: statuses, strict modes, modes of editing.

check_strict() {
    local shell
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")" "$(hooked "$shell")"
        types "$shell" "stormctl acquire $shell/db --for 3h -q"
        shows 'twice is once' "$shell" "^◆ $shell/db (2h59m|3h) ready>$"
        types "$shell" false
        case $shell in
        bash | zsh) prints 'the status of a command survives' "$shell" 'echo "is $?"' 'is 1' ;;
        fish) prints 'the status of a command survives' "$shell" 'echo is $status' 'is 1' ;;
        esac
        types "$shell" 'true | false | true'
        case $shell in
        bash) prints 'and of each in a pipe' "$shell" 'echo "are ${PIPESTATUS[*]}"' 'are 0 1 0' ;;
        zsh) prints 'and of each in a pipe' "$shell" 'echo "are $pipestatus"' 'are 0 1 0' ;;
        fish) prints 'and of each in a pipe' "$shell" 'echo are $pipestatus' 'are 0 1 0' ;;
        esac
        if [ "$shell" != fish ]; then
            types "$shell" 'set -euo pipefail' ':'
            shows 'strict modes end no shell' "$shell" "^◆ $shell/db (2h59m|3h) ready>$"
            prints 'nor complain' "$shell" 'echo "alive"' alive
            kill -STOP "$alpha_pid"
            prints 'also when the agent stands still' "$shell" 'echo "alive again"' 'alive again'
            kill -CONT "$alpha_pid"
        fi
        check_editing "$shell"
        types "$shell" 'stormctl release --all -q'
        shows 'nothing is left' "$shell" '^ready>$'
    done
}

# Both ways of editing a line, with a prompt of which every cell counts.
check_editing() {
    local shell=$1 mode at
    for mode in vi emacs; do
        case $shell in
        bash) types bash "set -o $mode" ;;
        zsh) types zsh "bindkey -${mode:0:1}" ;;
        fish) types fish "fish_${mode/emacs/default}_key_bindings" ;;
        esac
        types "$shell" clear
        within "$patience" joined "$shell" "^[^a-z]*$shell/db[^>]*ready> *$"
        # A line that is longer than the screen is wide, its beginning changed.
        terminal send-keys -t "=$shell:" -l -- "cho ${long_word}"
        within "$patience" joined "$shell" "ready> cho $long_word"
        case $mode in
        vi)
            # One step to the left: what comes then is no part of a longer key.
            at=$(cursor "$shell")
            terminal send-keys -t "=$shell:" Escape
            within "$patience" not is_at "$shell" "$at"
            terminal send-keys -t "=$shell:" 0 i
            ;;
        emacs) terminal send-keys -t "=$shell:" C-a ;;
        esac
        terminal send-keys -t "=$shell:" -l -- 'e'
        terminal send-keys -t "=$shell:" Enter
        soon "$shell: $mode: a line is edited where it stands" \
            joined "$shell" "$shell/db (2h59m|3h) (\[.\] )?ready> echo $long_word"
    done
}

# Wraps with the lock before it on a screen of 100 columns.
long_word=$(printf 'x%.0s' {1..90})
readonly long_word

cursor() {
    terminal display-message -p -t "=$1:" '#{cursor_x},#{cursor_y}'
}

is_at() {
    [ "$(cursor "$1")" = "$2" ]
}

# joined SHELL PATTERN: the screen has it, whatever ends of lines are in between.
joined() {
    screen "$1" | tr -d '\n' | grep -Eq -- "$2"
}
