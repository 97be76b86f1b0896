//! Chooses the user that runs the programs, from the facts of this machine.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use super::{
    error::StartError,
    programs,
    run_as::{Facts, ROOT, RunAs, User, choose, current_user, passable},
};

/// Collects the facts of this machine and chooses the user of the programs.
pub async fn choose_user(folder: &Path) -> Result<RunAs, StartError> {
    if !rustix::process::geteuid().is_root() {
        // initdb refuses a user id without a name, as in many containers; in a user namespace the id has
        // one.
        let named = programs::output(id(&RunAs::CurrentUser, &["-un"])).await.is_some();
        return Ok(if named {
            RunAs::CurrentUser
        } else {
            namespace().await.unwrap_or(RunAs::CurrentUser)
        });
    }
    let owner =
        |path: &Path| fs::metadata(path).ok().map(|data| User { uid: data.uid(), gid: data.gid() });
    let mut folder_owner = owner(folder).filter(|user| user.uid != 0);
    if folder_owner.is_none() {
        folder_owner = folder.parent().and_then(owner).filter(|user| user.uid != 0);
    }
    if let Some(user) = folder_owner
        && programs::output(id(&RunAs::Owner(user), &["-un"])).await.is_none()
    {
        folder_owner = None;
    }
    let facts = Facts {
        folder_owner: folder_owner.unwrap_or(ROOT),
        data_owner: owner(&folder.join("postgres")),
        system: system_user("postgres").await,
        namespace: namespace().await,
    };
    choose(facts, |user| {
        // Without the folder itself: this process sets its permissions.
        let parents: Vec<&Path> = folder.ancestors().skip(1).collect();
        let closed =
            |path: &&&Path| !fs::metadata(path).is_ok_and(|metadata| passable(&metadata, user));
        parents.iter().rev().find(closed).map(|path| path.to_path_buf())
    })
}

/// A user namespace in which the user of the programs has a name, if this machine allows one.
async fn namespace() -> Option<RunAs> {
    let unshare = programs::find(&["unshare"])?;
    // initdb looks up the name of its user, so the user id must be one that has a name.
    for name in ["postgres", "nobody"] {
        let Some(user) = system_user(name).await else {
            continue;
        };
        let candidate =
            RunAs::Namespace { unshare: unshare.clone(), uid: user.uid, owner: current_user() };
        if programs::output(id(&candidate, &["-un"])).await.is_some_and(|answer| answer == name) {
            return Some(candidate);
        }
    }
    None
}

async fn system_user(name: &str) -> Option<User> {
    let uid = programs::output(id(&RunAs::CurrentUser, &["-u", name])).await?;
    let gid = programs::output(id(&RunAs::CurrentUser, &["-g", name])).await?;
    Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

fn id(run_as: &RunAs, arguments: &[&str]) -> Command {
    let mut command = run_as.command(Path::new("/usr/bin/id"));
    command.args(arguments);
    command
}
