//! Chooses the user that runs the programs: PostgreSQL refuses root, and the user must be able to
//! access the data.

use std::{
    fs::Metadata,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use super::{error::StartError, programs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

pub const ROOT: User = User { uid: 0, gid: 0 };

/// The user that runs every program of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The user of this process, which is not root.
    CurrentUser,
    /// This process is root, and this user owns the folder and every file that is created in it.
    Owner(User),
    /// The user of this process in a user namespace, where it has the id `uid`; outside of the namespace
    /// the files belong to `owner`, the user of this process.
    Namespace { unshare: PathBuf, uid: u32, owner: User },
    /// This process is root, and the data directories belong to this user, usually `postgres`.
    System(User),
}

impl RunAs {
    /// A command that runs in `/` with only PATH and LC_ALL in its environment: the user may have no
    /// access to the current directory, and variables of this process must have no effect.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Namespace { unshare, uid, .. } => {
                let mut command = Command::new(unshare);
                command
                    .args(["--user", &format!("--map-user={uid}"), &format!("--map-group={uid}")])
                    .arg(program);
                command
            }
            Self::CurrentUser => Command::new(program),
            // The standard library also drops the supplementary groups of root.
            Self::Owner(user) | Self::System(user) => {
                let mut command = Command::new(program);
                command.uid(user.uid).gid(user.gid);
                command
            }
        };
        // LC_ALL: this module parses the messages of the programs, and a macOS postmaster refuses to
        // start without it.
        command
            .env_clear()
            .env("PATH", programs::search_path())
            .env("LC_ALL", "C")
            .current_dir("/");
        command
    }

    /// The owner of the files of the programs, whose permissions must suffice for every directory above
    /// the folder: in a namespace root has no right to enter every directory.
    pub fn user(&self) -> User {
        match self {
            Self::CurrentUser => current_user(),
            Self::Owner(user) | Self::System(user) | Self::Namespace { owner: user, .. } => *user,
        }
    }
}

/// The facts that the choice depends on, if this process is root.
pub struct Facts {
    /// The owner of the folder, or of its parent if root owns the folder.
    pub folder_owner: User,
    /// The owner of the data directory of an earlier run.
    pub data_owner: Option<User>,
    /// The user `postgres`.
    pub system: Option<User>,
    /// The user namespace, if this machine allows one.
    pub namespace: Option<RunAs>,
}

/// Chooses for root: the folder's owner, else a namespace, else `postgres`; the owner of the data of an
/// earlier run has precedence. `closed` returns the first directory above the folder that a user cannot
/// enter.
pub fn choose(facts: Facts, closed: impl Fn(User) -> Option<PathBuf>) -> Result<RunAs, StartError> {
    let mut candidates = Vec::new();
    if facts.folder_owner.uid != 0 {
        candidates.push(RunAs::Owner(facts.folder_owner));
    }
    candidates.extend(facts.namespace);
    candidates.extend(facts.system.map(RunAs::System));
    if let Some(owner) = facts.data_owner {
        let theirs = |candidate: &RunAs| candidate.user().uid == owner.uid;
        if owner.uid != 0 && !candidates.iter().any(theirs) {
            candidates.push(RunAs::System(owner));
        }
        candidates.sort_by_key(|candidate| !theirs(candidate));
    }
    if let Some(open) = candidates.iter().find(|candidate| closed(candidate.user()).is_none()) {
        return Ok(open.clone());
    }
    // The last candidate needs the smallest change: one more permission bit on one directory.
    let user = candidates.last().ok_or(StartError::NoUser)?.user();
    let directory = closed(user).ok_or(StartError::NoUser)?;
    Err(StartError::Closed {
        user: format!("user {}", user.uid),
        directory: directory.display().to_string(),
    })
}

/// Whether the mode bits allow `user` to enter a directory: the first class (owner, group, others) that
/// matches decides.
pub fn passable(metadata: &Metadata, user: User) -> bool {
    may_search(metadata.mode(), (metadata.uid(), metadata.gid()), user)
}

fn may_search(mode: u32, owner: (u32, u32), user: User) -> bool {
    let bit = if owner.0 == user.uid {
        0o100
    } else if owner.1 == user.gid {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

pub fn current_user() -> User {
    User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: User = User { uid: 1000, gid: 1000 };
    const POSTGRES: User = User { uid: 101, gid: 104 };

    fn namespace() -> RunAs {
        RunAs::Namespace { unshare: "/usr/bin/unshare".into(), uid: 101, owner: ROOT }
    }

    fn facts(folder_owner: User) -> Facts {
        Facts {
            folder_owner,
            data_owner: None,
            system: Some(POSTGRES),
            namespace: Some(namespace()),
        }
    }

    #[test]
    fn the_owner_of_the_folder_comes_first() {
        assert_eq!(choose(facts(ALICE), |_| None).unwrap(), RunAs::Owner(ALICE));
    }

    #[test]
    fn a_folder_of_root_is_served_in_a_namespace_and_without_one_by_postgres() {
        assert_eq!(choose(facts(ROOT), |_| None).unwrap(), namespace());
        let without = Facts { namespace: None, ..facts(ROOT) };
        assert_eq!(choose(without, |_| None).unwrap(), RunAs::System(POSTGRES));
    }

    #[test]
    fn a_user_who_cannot_reach_the_folder_is_passed_over() {
        let closed = |user: User| (user == ALICE).then(|| PathBuf::from("/root"));
        assert_eq!(choose(facts(ALICE), closed).unwrap(), namespace());
    }

    #[test]
    fn data_of_an_earlier_run_keeps_its_user() {
        let data = |owner| Facts { data_owner: Some(owner), ..facts(ALICE) };
        assert_eq!(choose(data(POSTGRES), |_| None).unwrap(), RunAs::System(POSTGRES));
        assert_eq!(choose(data(ROOT), |_| None).unwrap(), namespace());
        let stranger = User { uid: 7, gid: 7 };
        assert_eq!(choose(data(stranger), |_| None).unwrap(), RunAs::System(stranger));
    }

    #[test]
    fn the_refusal_names_the_directory_to_open() {
        let without = Facts { namespace: None, ..facts(ROOT) };
        let error = choose(without, |_| Some("/root".into())).unwrap_err().to_string();
        assert!(error.contains("user 101 cannot enter /root: chmod o+x /root"), "{error}");
        let no_user = Facts { namespace: None, system: None, ..facts(ROOT) };
        assert!(matches!(choose(no_user, |_| None), Err(StartError::NoUser)));
    }

    #[test]
    fn the_first_class_that_fits_decides_about_a_directory() {
        assert!(may_search(0o700, (1000, 1), ALICE));
        assert!(!may_search(0o677, (1000, 1), ALICE));
        assert!(may_search(0o710, (0, 1000), ALICE));
        assert!(!may_search(0o701, (0, 1000), ALICE));
        assert!(may_search(0o701, (0, 0), ALICE));
        assert!(!may_search(0o700, (0, 0), ALICE));
    }
}
