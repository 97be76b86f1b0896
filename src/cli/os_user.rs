//! The user of the operating system that runs a command, for the record of what the command changes.

use std::process::Command;

use crate::events::metadata::Metadata;

/// The metadata of the events that a command causes: the program as the actor, and the user that runs it.
pub fn metadata_of(program: &str) -> Metadata {
    Metadata { os_user: Some(os_user()), ..Metadata::of_program(program) }
}

/// The name of the real user, as the system knows it (also from LDAP), or its number. With `sudo` the name of the user
/// that called it comes after it, as `sudo` says.
fn os_user() -> String {
    let uid = rustix::process::getuid();
    let named = Command::new("id").arg("-run").output().ok().filter(|id| id.status.success());
    let name = named.and_then(|id| String::from_utf8(id.stdout).ok());
    let name = name.map(|name| plain(&name)).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("uid {}", uid.as_raw()));
    // Only root can have been given it by sudo; other users could make it up.
    let caller = std::env::var("SUDO_USER").ok().filter(|_| uid.is_root());
    match caller.map(|caller| plain(&caller)).filter(|caller| !caller.is_empty()) {
        Some(caller) => format!("{name} (sudo: {caller})"),
        None => name,
    }
}

/// The longest name that is kept, in characters.
const NAME_MAX: usize = 64;

/// A name without characters that have no place in one.
fn plain(name: &str) -> String {
    name.trim().chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}
