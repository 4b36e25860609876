# shellcheck shell=bash
# shellcheck disable=SC2154,SC2016 # other files have them, and other shells expand
# Two agents that share a Redis, and shells in a terminal of which every cell can be read.

# Whom this started.
pids=()

set_up() {
    export HOME=$place XDG_RUNTIME_DIR=$place/run LANG=C.UTF-8 PATH=$programs:$PATH
    unset STORMLOCK_SOCKET STORMLOCK_PROMPT LC_ALL LC_CTYPE NO_COLOR TMUX
    mkdir -p "$place"/{run,alpha,beta,.config/fish,bin}
    port=$(free_port)
    redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$place" >"$place/redis.log" &
    redis_pid=$!
    pids+=("$redis_pid")
    soon 'a Redis is there' redis-cli -p "$port" ping
    agent alpha
    agent beta
}

# A port that nobody has now.
free_port() {
    python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

# agent NAME: the agent of another host.
agent() {
    printf 'host = "%s"\n[backend.main]\nkind = "redis"\nurl = "redis://127.0.0.1:%d"\n' \
        "$1" "$port" >"$place/$1/stormlock.toml"
    stormlockd --user --config "$place/$1/stormlock.toml" --socket "$place/$1/sock" \
        --state "$place/$1/state" >"$place/$1/log" 2>&1 &
    pids+=($!)
    printf -v "$1_pid" '%d' $!
    soon "agent $1 is there" on "$1" status
}

# on HOST WORD...: the client of that host.
on() {
    local host=$1
    shift
    stormctl --socket "$place/$host/sock" "$@"
}

clean_up() {
    terminal kill-server 2>/dev/null
    kill -CONT "${pids[@]}" 2>/dev/null
    kill "${pids[@]}" 2>/dev/null
    wait
    # A shell may write its history as it ends.
    rm -rf "$place" 2>/dev/null || rm -rf "$place"
}

terminal() {
    tmux -S "$place/tmux" -f /dev/null "$@"
}

# shell_with SHELL LINE...: a fresh shell of which these lines are the configuration, on a screen
# of its own, with a prompt that says `ready`.
shell_with() {
    local shell=$1 command
    shift
    case $shell in
    bash)
        printf '%s\n' 'PS1="ready> "' "$@" >"$place/bashrc"
        command="bash --noprofile --rcfile '$place/bashrc' -i"
        ;;
    zsh)
        printf '%s\n' 'PROMPT="ready> "' "$@" >"$place/.zshrc"
        command='zsh -i'
        ;;
    fish)
        printf '%s\n' 'function fish_greeting; end' \
            'function fish_prompt; printf "ready> "; end' "$@" \
            >"$place/.config/fish/config.fish"
        command='fish -i'
        ;;
    esac
    terminal kill-session -t "=$shell" 2>/dev/null
    terminal new-session -d -x 100 -y 30 -s "$shell" \
        -e STORMLOCK_SOCKET="$place/alpha/sock" "${settings[@]}" "$command"
    within "$patience" seen "$shell" 'ready>$'
}

# What is set in the environment of the next shell: -e NAME=VALUE.
settings=()

# hooked SHELL: the line that a user pastes.
hooked() {
    case $1 in
    bash | zsh) printf 'eval "$(stormctl init %s)"\n' "$1" ;;
    fish) printf 'stormctl init fish | source\n' ;;
    esac
}

# types SHELL LINE...: each with Enter.
types() {
    local shell=$1 line
    shift
    for line; do
        terminal send-keys -t "=$shell:" -l -- "$line"
        terminal send-keys -t "=$shell:" Enter
    done
}

# screen SHELL: its text; -e with colours.
screen() {
    terminal capture-pane -p "${@:2}" -t "=$1:"
}

# The last line that has anything in it.
last_line() {
    screen "$@" | sed '/^$/d' | tail -n 1
}

# seen SHELL PATTERN: the line where one types looks so. An agent on a busy machine may be too late
# for a prompt, which the next one mends.
seen() {
    local line
    line=$(last_line "$1")
    grep -Eq -- "$2" <<<"$line" || mended "$1" "$line"
}

mended() {
    [[ $2 != '? ready>' ]] || types "$1" ''
    return 1
}

# coloured SHELL COLOUR PATTERN: the same in this colour (of 31, 32, 33) from its beginning on.
coloured() {
    last_line "$1" -e | grep -Eq -- "^"$'\e'"\[$2m$3" || mended "$1" "$(last_line "$1")"
}

# shows DESCRIPTION SHELL PATTERN: soon it looks so; else the screen is told.
shows() {
    if within "$patience" seen "$2" "$3"; then
        said 0 "$2: $1"
    else
        said 1 "$2: $1" "no line at the end like '$3':"$'\n'"$(screen "$2" | sed '/^$/d')"
    fi
}

# turns DESCRIPTION SHELL COLOUR PATTERN
turns() {
    if within "$patience" coloured "$2" "$3" "$4"; then
        said 0 "$2: $1"
    else
        said 1 "$2: $1" "not '$4' in colour $3:"$'\n'"$(screen "$2" -e | sed '/^$/d' | cat -v)"
    fi
}

# prints DESCRIPTION SHELL COMMAND WANTED: a line of what it prints is that.
prints() {
    terminal send-keys -t "=$2:" C-l
    types "$2" "$3"
    if within "$patience" printed "$2" "$4"; then
        said 0 "$2: $1"
    else
        said 1 "$2: $1" "no line '$4':"$'\n'"$(screen "$2" | sed '/^$/d')"
    fi
}

printed() {
    screen "$1" | sed 's/ *$//' | grep -Fxq -- "$2"
}
