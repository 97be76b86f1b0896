//! What the terminal of a command can do.

/// Whether the terminal only shows text: it may have no colours and no cursor to move.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Turns colours off for a dumb terminal. `anstream` decides the rest, by `NO_COLOR`, `CLICOLOR` and
/// `CLICOLOR_FORCE`, for clap and for the log; in a CI it would take a dumb terminal for one with colours.
pub fn settle_colors() {
    let is_forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|force| !force.is_empty());
    if is_dumb() && !is_forced {
        anstream::ColorChoice::Never.write_global();
    }
}
