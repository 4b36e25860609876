# stormlock for bash: `eval "$(stormctl init bash)"` in ~/.bashrc, after what makes the prompt.
# Doing so twice does no harm.
#
# Each prompt begins with the lock that matters most. Those who make PS1 themselves (or let another
# program do it) say `stormctl init bash --no-prompt` and use ${STORMLOCK_PROMPT-} in it.

# shellcheck shell=bash

if [[ $- == *i* ]]; then
    # True when an agent may be there: without one a prompt costs no process.
    __stormlock_has_agent() {
        if [[ -n ${STORMLOCK_SOCKET-} ]]; then
            [[ -S $STORMLOCK_SOCKET ]]
        else
            [[ -S /run/stormlock/stormlockd.sock ||
                -S ${XDG_RUNTIME_DIR:-/nowhere}/stormlock/stormlockd.sock ]]
        fi
    }

    __stormlock_hook() {
        builtin local status=$?
        STORMLOCK_PROMPT=''
        if __stormlock_has_agent; then
            # What it prints is made of letters, digits, ._/:@+- and colours. It has a time limit.
            STORMLOCK_PROMPT=$(builtin command stormctl prompt bash 2>/dev/null) ||
                STORMLOCK_PROMPT=''
        fi
        # Others may have made PS1 anew since. It names the variable, so that a shell that inherits
        # PS1 shows no lock of another time; one that expands nothing in it shows none at all.
        if [[ -z ${__stormlock_no_prompt-} && ${PS1-} != *STORMLOCK_PROMPT* ]] &&
            builtin shopt -q promptvars; then
            # shellcheck disable=SC2016 # expanded when it is shown
            PS1='${STORMLOCK_PROMPT-}'${PS1-}
        fi
        builtin return "$status"
    }

    # It ends as what was typed did. `&& :` keeps that, and runs no trap of ERR once more for it.
    __stormlock_install() {
        builtin local kind
        # For `stormctl doctor`: which shell has this.
        # shellcheck disable=SC2034
        builtin export STORMLOCK_SHELL=$$
        kind=$(builtin declare -p PROMPT_COMMAND 2>/dev/null) || kind=''
        kind=${kind#declare -} kind=${kind%% *}
        if [[ -n ${BLE_VERSION-} ]]; then
            blehook PRECMD!=__stormlock_hook
        elif [[ " ${precmd_functions[*]-} ${PROMPT_COMMAND[*]-}" == *__stormlock_hook* ]]; then
            :
        elif [[ -n ${bash_preexec_imported-}${__bp_imported-} ]]; then
            # It wants to be the only one in PROMPT_COMMAND.
            precmd_functions+=(__stormlock_hook)
        elif [[ $kind == *r* ]]; then
            builtin printf 'stormlock: PROMPT_COMMAND is readonly, so prompts show no locks\n' >&2
        elif [[ $kind == *a* ]] && ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)); then
            # The last one, after those that make PS1.
            PROMPT_COMMAND+=('__stormlock_hook && :')
        else
            # Before bash 5.1 only the first of several counts: the one without a number.
            # shellcheck disable=SC2128,SC2178
            PROMPT_COMMAND=${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}'__stormlock_hook && :'
        fi
    }

    __stormlock_install
    builtin unset -f __stormlock_install
fi
