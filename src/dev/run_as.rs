//! Which user runs the programs: Postgres refuses root, and the data must be within that user's
//! reach.

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

/// How every program of a folder is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// We are not root.
    Ourselves,
    /// We are root in the folder of this user, who owns everything that is made in it.
    Owner(User),
    /// In a user namespace, where we carry the number `uid`; outside of it the files stay
    /// `owner`'s: ours.
    Namespace { unshare: PathBuf, uid: u32, owner: User },
    /// We are root and lend the data directories to this user, `postgres` as a rule.
    System(User),
}

impl RunAs {
    /// A command with an empty environment that runs in `/`: neither what we carry in our
    /// environment nor a current directory closed to the user can get in the way.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Namespace { unshare, uid, .. } => {
                let mut command = Command::new(unshare);
                command
                    .args(["--user", &format!("--map-user={uid}"), &format!("--map-group={uid}")])
                    .arg(program);
                command
            }
            Self::Ourselves => Command::new(program),
            // The standard library also drops the supplementary groups of root.
            Self::Owner(user) | Self::System(user) => {
                let mut command = Command::new(program);
                command.uid(user.uid).gid(user.gid);
                command
            }
        };
        // LC_ALL: their messages are read by us, and a macOS postmaster refuses to start without
        // it.
        command
            .env_clear()
            .env("PATH", programs::search_path())
            .env("LC_ALL", "C")
            .current_dir("/");
        command
    }

    /// Who owns the files of the programs, and whose permissions count on the way to the folder: a
    /// namespace takes root's right to pass everywhere away.
    pub fn user(&self) -> User {
        match self {
            Self::Ourselves => ourselves(),
            Self::Owner(user) | Self::System(user) | Self::Namespace { owner: user, .. } => *user,
        }
    }
}

/// What the choice depends on, if we are root.
pub struct Facts {
    /// Owner of the folder, or of its parent if the folder is root's.
    pub folder_owner: User,
    /// Owner of the data directory of an earlier run.
    pub data_owner: Option<User>,
    /// The user `postgres`.
    pub system: Option<User>,
    /// The user namespace, if one can be made here.
    pub namespace: Option<RunAs>,
}

/// Chooses for root: the folder's owner, else a namespace, else `postgres`; before all what an
/// earlier run used.
///
/// `closed` names the first directory on the way to the folder that a user cannot pass.
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
    // The last candidate needs least: one more bit on one directory.
    let user = candidates.last().ok_or(StartError::NoUser)?.user();
    let directory = closed(user).ok_or(StartError::NoUser)?;
    Err(StartError::Closed {
        user: format!("user {}", user.uid),
        directory: directory.display().to_string(),
    })
}

/// Whether the mode bits let `user` through a directory: the first class that fits decides.
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

pub fn ourselves() -> User {
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
        assert!(error.contains("user 101 cannot pass /root: chmod o+x /root"), "{error}");
        let nobody = Facts { namespace: None, system: None, ..facts(ROOT) };
        assert!(matches!(choose(nobody, |_| None), Err(StartError::NoUser)));
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
