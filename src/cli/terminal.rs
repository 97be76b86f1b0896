//! What the terminal of a command can do.

use std::io::IsTerminal as _;

/// Whether the terminal only shows text: it may have no colours and no cursor to move.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Settles what `anstream`, which decides about colours for clap and for the log, takes in another way: a
/// `CLICOLOR_FORCE` of 0 forces nothing, and a dumb terminal has no colours in a CI either. `NO_COLOR` and
/// `CLICOLOR` stay with it.
pub fn settle_colors() {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let force = set("CLICOLOR_FORCE");
    let is_forced = force.as_ref().is_some_and(|force| force != "0");
    if is_forced {
        return;
    }
    let is_off = set("NO_COLOR").is_some() || set("CLICOLOR").is_some_and(|value| value == "0");
    let is_shown = std::io::stderr().is_terminal();
    if is_dumb() || (force.is_some() && (is_off || !is_shown)) {
        anstream::ColorChoice::Never.write_global();
    } else if force.is_some() {
        anstream::ColorChoice::AlwaysAnsi.write_global();
    }
}
