# stormlock for zsh: `eval "$(stormctl init zsh)"` in ~/.zshrc, after compinit and what makes the
# prompt. Doing so twice does no harm.
#
# Each prompt begins with the lock that matters most, and changes with it while nobody types. Those
# who make PROMPT themselves say `stormctl init zsh --no-prompt` and use $STORMLOCK_PROMPT in it.

if [[ -o interactive ]]; then
    typeset -g STORMLOCK_PROMPT=${STORMLOCK_PROMPT-}

    # True when an agent may be there: without one a prompt costs no process.
    __stormlock_has_agent() {
        if [[ -n ${STORMLOCK_SOCKET-} ]]; then
            [[ -S $STORMLOCK_SOCKET ]]
        else
            [[ -S /run/stormlock/stormlockd.sock ||
                -S ${XDG_RUNTIME_DIR:-/nowhere}/stormlock/stormlockd.sock ]]
        fi
    }

    # PROMPT has this instead of the text: who keeps a prompt and puts it back, or exports it,
    # brings back no lock of then. What is in psvar is shown as it is and never run, whatever the
    # options; a place for each colour, far behind those that others use, and one for no colour.
    typeset -g __stormlock_mark='%(91V.%F{green}%91v%f .)%(92V.%F{yellow}%92v%f .)'
    __stormlock_mark+='%(93V.%F{red}%93v%f .)%(94V.%94v .)'

    # Takes what is to be shown now.
    __stormlock_show() {
        builtin setopt local_options no_ksh_arrays no_all_export no_warn_nested_var
        STORMLOCK_PROMPT=$1
        [[ -z ${__stormlock_no_prompt-} ]] || return 0
        builtin local text=${${1#*\}}%\%f }
        psvar[91]='' psvar[92]='' psvar[93]='' psvar[94]=''
        case $1 in
        '%F{green}'*) psvar[91]=$text ;;
        '%F{yellow}'*) psvar[92]=$text ;;
        '%F{red}'*) psvar[93]=$text ;;
        *) psvar[94]=${1% } ;;
        esac
        # Others may have made PROMPT anew since.
        if [[ ! -o prompt_percent ]]; then
            PROMPT=${PROMPT/"$__stormlock_mark"}
        elif [[ $PROMPT != *'%(91V.'* ]]; then
            PROMPT=$__stormlock_mark$PROMPT
        fi
    }

    # While something is shown, one process looks every second whether that changes, so that a lock
    # that is lost turns red in front of who is idle.
    __stormlock_follow() {
        [[ -z ${__stormlock_fd-} && -n $STORMLOCK_PROMPT ]] || return 0
        # No command that is started has the other end. One that this shell leaves behind without
        # starting another program has: so the process is told with whom to end.
        sysopen -r -o cloexec -u __stormlock_fd <(
            builtin exec command stormctl prompt zsh --follow=$$ 2>/dev/null
        ) 2>/dev/null || return 0
        builtin zle -F $__stormlock_fd __stormlock_heard
    }

    __stormlock_heard() {
        builtin local shown
        if IFS= builtin read -r -u $1 shown; then
            [[ $shown != "$STORMLOCK_PROMPT" ]] || return 0
            __stormlock_show "$shown"
            builtin zle reset-prompt
        else
            builtin zle -F $1
            builtin exec {__stormlock_fd}<&-
            builtin unset __stormlock_fd
        fi
    }

    __stormlock_precmd() {
        builtin local shown=''
        if __stormlock_has_agent; then
            # What it prints is made of letters, digits, ._/:@+- and colours. It has a time limit.
            shown=$(builtin command stormctl prompt zsh 2>/dev/null) || shown=''
        fi
        __stormlock_show "$shown"
        __stormlock_follow
    }

    # For `stormctl doctor`: which shell has this.
    builtin export STORMLOCK_SHELL=$$
    # Without it a prompt changes with the next one only.
    builtin zmodload -F zsh/system b:sysopen 2>/dev/null
    builtin autoload -Uz add-zsh-hook
    # It adds a function once.
    add-zsh-hook precmd __stormlock_precmd
fi
