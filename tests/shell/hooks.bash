# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2016 # other files have them, and other shells expand
# Hooks of others, and prompts that others make.

check_hooks() {
    local shell line
    on alpha acquire hook/db --for 3h -q >/dev/null

    shell_with bash 'PROMPT_COMMAND="made=yes;"' "$(hooked bash)"
    types bash ''
    shows 'PROMPT_COMMAND as a text is kept' bash '^◆ hook/db (2h59m|3h) ready>$'
    prints '... and runs' bash 'echo "made $made"' 'made yes'
    shell_with bash 'first() { made=yes; }' 'PROMPT_COMMAND=(first)' "$(hooked bash)"
    types bash ''
    shows 'PROMPT_COMMAND as an array is kept' bash '^◆ hook/db (2h59m|3h) ready>$'
    prints '... and runs' bash 'echo "made $made ${#PROMPT_COMMAND[@]}"' 'made yes 2'
    # As most themes do.
    shell_with bash 'PROMPT_COMMAND='\''PS1="themed ready> "'\' "$(hooked bash)"
    types bash '' ''
    shows 'a prompt that is made anew each time gets one lock' bash \
        '^◆ hook/db (2h59m|3h) themed ready>$'
    for line in '' 'set -E' 'PROMPT_COMMAND=""' 'PROMPT_COMMAND=(first)'; do
        shell_with bash 'first() { :; }' "$line" "$(hooked bash)" "trap 'failed+=x' ERR" \
            '[[ ${PROMPT_COMMAND[0]} == first ]] || PROMPT_COMMAND+="; last=\$?"'
        types bash '(exit 3)'
        prints "a trap for errors runs once ($line)" bash 'echo "${last-3} $failed"' '3 x'
    done
    shell_with zsh 'precmd() { made=yes; }' "$(hooked zsh)"
    types zsh ''
    prints 'precmd of another is kept' zsh 'echo "made $made"' 'made yes'
    shows '... and the lock is shown' zsh '^◆ hook/db (2h59m|3h) ready>$'

    shell_with bash 'eval "$(stormctl init bash --no-prompt)"' \
        'PS1="\${STORMLOCK_PROMPT-}own ready> "'
    types bash ''
    turns 'a prompt of one'\''s own has it where it wants' bash 32 '◆ hook/db (2h59m|3h)'
    shell_with zsh 'eval "$(stormctl init zsh --no-prompt)"' 'setopt prompt_subst' \
        "PROMPT='\${STORMLOCK_PROMPT}own ready> '"
    turns 'a prompt of one'\''s own has it where it wants' zsh 32 '◆ hook/db (2h59m|3h)'
    shell_with fish 'stormctl init fish --no-prompt | source' \
        'function fish_prompt; printf "%sown ready> " "$STORMLOCK_PROMPT"; end'
    turns 'a prompt of one'\''s own has it where it wants' fish 32 '◆ hook/db (2h59m|3h)'

    settings=(-e NO_COLOR=1 -e LC_ALL=C)
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" ''
        shows 'without colours and in ASCII where that is wanted' "$shell" \
            '^\* hook/db (2h59m|3h) ready>$'
        line=$(last_line "$shell" -e)
        is "$shell: ... no colour at all" "${line/$'\e'/colour}" "$line"
    done
    settings=()
}

# Who saves the prompt, puts something before it and puts it back later brings back no lock of then.
check_saved() {
    local shell option
    # What `python3 -m venv` writes, in short.
    printf '%s\n' 'kept=${PS1-}; PS1="(venv) ${PS1-}"; export PS1' \
        'deactivate() { PS1=$kept; export PS1; }' >"$place/activate.sh"
    printf '%s\n' 'functions -c fish_prompt kept_fish_prompt' \
        'function fish_prompt; printf "(venv) "; kept_fish_prompt; end' \
        'function deactivate; functions -e fish_prompt; functions -c kept_fish_prompt fish_prompt' \
        'functions -e kept_fish_prompt; end' >"$place/activate.fish"
    for shell in "${shells[@]}"; do
        shell_with "$shell" "$(hooked "$shell")"
        types "$shell" 'stormctl acquire hook/venv --for 3h -q'
        shows 'a lock is shown' "$shell" '^◆ hook/venv (2h59m|3h) ready>$'
        case $shell in
        fish) types fish '. ~/activate.fish' ;;
        *) types "$shell" '. ~/activate.sh' ;;
        esac
        shows '... and with something before the prompt' "$shell" '\(venv\) .*ready>$'
        is "$shell: ... once" "$(last_line "$shell" | grep -o 'hook/venv' | wc -l)" 1
        types "$shell" 'stormctl release hook/venv -q'
        shows '... and nothing when it was given back' "$shell" '^\(venv\) ready>$'
        types "$shell" deactivate ''
        shows '... nor when the prompt is as it was' "$shell" '^ready>$'
    done
    for option in prompt_subst no_prompt_subst ksh_arrays all_export; do
        shell_with zsh "setopt $option; export PROMPT" "$(hooked zsh)" \
            'zle-line-finish() { local kept=$PROMPT; PROMPT="%% "' \
            'zle reset-prompt; PROMPT=$kept; }' \
            'zle -N zle-line-finish'
        types zsh 'stormctl acquire hook/kept --for 3h -q'
        turns "$option: a prompt that is another afterwards has a lock" zsh 32 '◆ hook/kept '
        types zsh 'zsh -f'
        shows '... which a shell without the hook does not show' zsh '^ready>$'
        types zsh "$(hooked zsh)"
        shows '... and one with it once' zsh '^◆ hook/kept (2h59m|3h) ready>$'
        types zsh exit 'stormctl release hook/kept -q'
        shows '... and nobody when it was given back' zsh '^ready>$'
    done
    on alpha acquire hook/db --for 3h -q >/dev/null
    shell_with zsh 'precmd() { PROMPT="made ready> "; psvar=(a b); }' "$(hooked zsh)"
    types zsh ''
    shows 'a prompt that is made anew each time has it' zsh \
        '^◆ hook/db (2h59m|3h) made ready>$'
    types zsh 'unsetopt prompt_percent; precmd() {}'
    shows 'a prompt that expands nothing shows nothing' zsh '^made ready>$'
    on alpha release hook/db -q >/dev/null
}

# How fish makes a prompt, and makes it again.
check_fish() {
    on alpha acquire hook/db --for 3h -q >/dev/null
    shell_with fish 'function fish_prompt' 'set -l each $pipestatus; set -l all $status' \
        'echo "$each $all ready> "; end' "$(hooked fish)"
    types fish 'sh -c "exit 3"'
    shows 'a prompt knows the status' fish '^◆ hook/db (2h59m|3h) 3 3 ready>$'
    types fish 'true | false | sh -c "exit 3"'
    shows '... and those in a pipe' fish '^◆ hook/db (2h59m|3h) 0 1 3 3 ready>$'
    types fish 'not false | true'
    shows '... and one that is inverted' fish '^◆ hook/db (2h59m|3h) 1 0 1 ready>$'
    types fish 'read -P "name> "'
    within "$patience" seen fish 'name>$'
    shows 'a question of another kind has no lock' fish '^name>$'
    types fish ''

    shell_with fish "$(hooked fish)"
    types fish '. ~/.config/fish/config.fish'
    shows 'a prompt that is defined anew has the lock' fish '^◆ hook/db (2h59m|3h) ready>$'
    types fish 'stormctl init fish | source'
    shows '... once' fish '^◆ hook/db (2h59m|3h) ready>$'
    types fish 'function fish_mode_prompt; printf "mode "; end'
    shows 'and without the lock' fish '^mode ready>$'
    types fish 'stormctl init fish | source' 'stormctl init fish | source'
    shows '... which has it again' fish '^mode ◆ hook/db (2h59m|3h) ready>$'
    types fish 'functions -e fish_mode_prompt; stormctl init fish | source'
    shows '... also when there is none' fish '^◆ hook/db (2h59m|3h) ready>$'

    # As many have it: in a file that is read when it is called.
    mkdir -p "$place/lazy/fish/functions"
    hooked fish >"$place/lazy/fish/config.fish"
    echo 'function fish_prompt; printf "lazy ready> "; end' \
        >"$place/lazy/fish/functions/fish_prompt.fish"
    settings=(-e XDG_CONFIG_HOME="$place/lazy")
    shell_with fish
    shows 'a prompt in a file of its own has the lock' fish \
        '^◆ hook/db (2h59m|3h) lazy ready>$'
    types fish '. ~/lazy/fish/config.fish'
    shows '... once' fish '^◆ hook/db (2h59m|3h) lazy ready>$'
    settings=()
    on alpha release hook/db -q >/dev/null
}

# Whatever a zsh warns of, and whoever keeps what it has open.
check_zsh() {
    on alpha acquire hook/db --for 3h -q >/dev/null
    shell_with zsh 'setopt warn_nested_var warn_create_global' "$(hooked zsh)"
    types zsh '' 'print -r -- ---' 'true'
    turns 'a lock is shown' zsh 32 '◆ hook/db (2h59m|3h)'
    is 'zsh: ... without a warning' "$(screen zsh | grep -c stormlock)" 0
    shell_with zsh 'setopt ksh_arrays' 'autoload -Uz compinit; compinit -u' "$(hooked zsh)"
    turns 'a lock is shown where arrays begin with 0' zsh 32 '◆ hook/db (2h59m|3h)'
    is 'zsh: ... without an error' "$(screen zsh | grep -c eval)" 0
    soon 'zsh: ... and one process looks' one_follows zsh
    types zsh '(for each in {1..20}; do sleep 1; done) &!' 'echo left'
    prints 'a shell that leaves another behind' zsh 'echo $?' 0
    types zsh 'exit'
    soon 'zsh: ... has nobody who looks when it has ended' none_follows zsh
    on alpha release hook/db -q >/dev/null
}

# What a child inherits, and what cannot be changed.
check_inherited() {
    on alpha acquire hook/db --for 3h -q >/dev/null
    shell_with bash 'export PS1' "$(hooked bash)"
    types bash ''
    shows 'an exported prompt has the lock' bash '^◆ hook/db (2h59m|3h) ready>$'
    types bash 'bash --norc'
    shows 'a shell without the hook shows no lock of another time' bash '^ready>$'
    types bash "$(hooked bash)"
    shows 'and with it each lock once' bash '^◆ hook/db (2h59m|3h) ready>$'
    shell_with bash 'readonly PROMPT_COMMAND="made=yes"' "$(hooked bash)"
    shows 'a prompt that may not be changed is left alone' bash '^ready>$'
    prints '... which is said' bash 'stormctl init bash >~/init
        bash -ic "readonly PROMPT_COMMAND; . ~/init" 2>&1 | grep -c "PROMPT_COMMAND is readonly"' 1
    shell_with bash 'shopt -u promptvars' "$(hooked bash)"
    types bash ''
    shows 'a prompt that expands nothing shows nothing' bash '^ready>$'
}

# What bash-preexec and ble.sh say of themselves and of those who use them. Neither can be had from
# Debian, so these stand for them: their variables, and who calls whom.
check_preexec() {
    local before=(
        'bash_preexec_imported=defined __bp_imported=defined'
        '__bp_precmd_invoke_cmd() {
            __bp_last_ret_value=$? BP_PIPESTATUS=("${PIPESTATUS[@]}")
            local precmd_function
            for precmd_function in "${precmd_functions[@]}"; do
                calls=${calls-}$precmd_function,
                (exit "$__bp_last_ret_value")
                "$precmd_function"
            done
        }'
        '__bp_interactive_mode() { calls=${calls-}interactive,; }'
    )
    on alpha acquire hook/db --for 3h -q >/dev/null
    local install='PROMPT_COMMAND="__bp_precmd_invoke_cmd;${PROMPT_COMMAND-:}"'
    install+=' PROMPT_COMMAND+=";__bp_interactive_mode"'
    shell_with bash "${before[@]}" "$install" "$(hooked bash)" "$(hooked bash)"
    types bash 'false'
    shows 'bash-preexec that was there calls it' bash '^◆ hook/db (2h59m|3h) ready>$'
    types bash 'calls='
    prints '... once' bash 'echo "$calls"' '__stormlock_hook,interactive,'
    shell_with bash "$(hooked bash)" "${before[@]}" "$install" "$(hooked bash)"
    types bash ''
    shows 'bash-preexec that comes later leaves it' bash '^◆ hook/db (2h59m|3h) ready>$'
    prints '... and it is there once' bash \
        'echo "${#precmd_functions[@]} $(grep -c __stormlock_hook <<<"$PROMPT_COMMAND")"' '0 1'

    shell_with bash 'BLE_VERSION=0.4.0 hooked=()' \
        'blehook() { [[ $1 = PRECMD!=* ]] && hooked=("${1#*!=}"); }' \
        'PROMPT_COMMAND='\''for hook in "${hooked[@]}"; do "$hook"; done'\' \
        "$(hooked bash)" "$(hooked bash)"
    types bash ''
    shows 'ble.sh calls it' bash '^◆ hook/db (2h59m|3h) ready>$'
    prints '... once' bash 'echo "${hooked[*]}"' '__stormlock_hook'
}

# Who looks for a shell ends with it, also when that becomes another program, and does it no harm.
check_exec() {
    local shell
    on alpha acquire hook/db --for 3h -q >/dev/null
    for shell in zsh fish; do
        shell_with "$shell" "$(hooked "$shell")"
        turns 'a lock is shown' "$shell" 32 '◆ hook/db (2h59m|3h)'
        soon "$shell: one process looks whether that changes" one_follows "$shell"
        types "$shell" "exec $shell" ''
        prints 'a shell that becomes itself' "$shell" 'echo anew' anew
        turns '... shows the lock' "$shell" 32 '◆ hook/db (2h59m|3h)'
        soon "$shell: ... and one process looks, not two" one_follows "$shell"
        types "$shell" 'exec cat'
        ok 'the next change' on alpha acquire hook/more --ttl 5m -q
        soon "$shell: nobody looks when it is another program" none_follows "$shell"
        prints 'which that survives' "$shell" 'still here' 'still here'
        terminal send-keys -t "=$shell:" C-d
        on alpha release hook/more -q >/dev/null
    done
}

followers() {
    case $1 in
    zsh) pgrep -f 'stormctl prompt zsh --follow' ;;
    fish) pgrep -f -x "stormctl prompt fish --tell $(pane_pid fish)" ;;
    esac
}

pane_pid() {
    terminal display-message -p -t "=$1:" '#{pane_pid}'
}

one_follows() {
    [ "$(followers "$1" | wc -l)" = 1 ]
}

none_follows() {
    [ "$(followers "$1" | wc -l)" = 0 ]
}

# The recipe as shell/README.md has it, in a tmux of one's own.
check_tmux() {
    on alpha acquire bar/db --for 3h -q >/dev/null
    sed -n '/^# tmux.conf$/,/^```$/p' "$here/../../shell/README.md" | sed '$d' >"$place/tmux.conf"
    terminal new-session -d -x 100 -y 30 -s bar -e STORMLOCK_SOCKET="$place/alpha/sock" \
        "tmux -S '$place/inner' -f '$place/tmux.conf' new-session 'cat'"
    soon 'tmux: its line shows a lock' bar_shows '◆ bar/db (2h59m|3h)'
    ok 'another host breaks it' on beta break bar/db -m 'my turn' --yes --now
    soon 'tmux: and turns red' bar_shows $'\e\\[31m✖ bar/db lost'
    tmux -S "$place/inner" kill-server
    fails 'it is acknowledged' 79 on alpha release bar/db -q
}

bar_shows() {
    screen bar -e | tail -n 1 | grep -Eq -- "$1"
}
