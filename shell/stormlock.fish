# stormlock for fish. Source it from ~/.config/fish/config.fish; sourcing it twice does no harm.

if command --query stormctl
    # Printed by the client that they complete, so they always fit it.
    command stormctl completions fish | source
end
